"""What commands on workloads share: the options that change their problems, and where results are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from fastconv.compare.layers import Layer, load, match
from fastconv.problem import ACCURACIES, DTYPES, LAYOUTS


class NoLayerError(ValueError):
    """A pattern that matches no layer of a workload."""


def words(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that change the problems of a workload."""
    options = (
        click.option(
            "--layout",
            type=click.Choice([*LAYOUTS, "both"], case_sensitive=False),
            help="Order of the axes; default both.",
        ),
        click.option("--accuracy", type=click.Choice(ACCURACIES), help="Accuracy class."),
        click.option("--dtype", type=click.Choice(DTYPES), help="Type of input and weights."),
        click.option("--threads", type=click.IntRange(1), help="Most threads to use; default 1."),
        click.option("--match", "pattern", metavar="REGEX", help="Only layers whose name or word matches."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def layers_of(
    workload: str, accuracy: str | None, dtype: str | None, threads: int | None, pattern: str | None
) -> tuple[str, list[Layer]]:
    """Return title and layers of a workload with the words that were asked for."""
    title, layers = load(workload)
    asked = {"accuracy": accuracy, "dtype": dtype, "threads": threads}
    changes = {name: value for name, value in asked.items() if value is not None}
    layers = [layer.where(**changes) for layer in layers]
    layers = match(layers, pattern) if pattern else layers
    if not layers:
        raise NoLayerError(f"match: no layer of {title} has {pattern!r} in its name or its problem word")
    return title, layers


def layouts_of(layout: str | None, workload: str, layers: list[Layer]) -> tuple[str, ...]:
    """Return the layouts to measure: that of the word for one problem, both for anything else."""
    if layout is None and len(layers) == 1 and layers[0].name == workload:
        return (layers[0].problem.layout,)
    return LAYOUTS if layout in {None, "both"} else (str(layout),)


def write(path: Path, text: str) -> None:
    """Write `text`, or end with what the system says."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None
