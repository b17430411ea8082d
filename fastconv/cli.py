"""The command line: what the machine is, how fast layers run on it, and why they are computed so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastconv.compare.layers import Layer, load, match
from fastconv.problem import ACCURACIES, DTYPES, LAYOUTS, Problem

#: Width of tables that go to a file or a pipe.
PIPE_WIDTH = 160

T = TypeVar("T")


def _consoles() -> tuple[Console, Console]:
    """Return where results go and where progress goes, so that a pipe holds results only."""
    out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    return out, Console(stderr=True, highlight=False)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _usage(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `function`; what it refuses is the user's to mend: exit code 2 and no traceback."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastconv")
def cli() -> None:
    """2-D convolution of NumPy arrays, measured and explained."""


@cli.command()
@click.option("--no-peak", is_flag=True, help="Do not measure the FMA peak.")
def info(no_peak: bool) -> None:
    """Say what machine fastconv sees."""
    from fastconv.compare.environment import description

    out, _ = _consoles()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in description(measure_peak=not no_peak).items():
        table.add_row(f"[bold]{name}", escape(text))
    out.print(table)


@cli.command()
def algorithms() -> None:
    """List the algorithms."""
    from fastconv.algorithms import registry

    out, _ = _consoles()
    table = Table("algorithm", "what it is", header_style="bold")
    for name, algorithm in registry.all().items():
        table.add_row(name, escape(algorithm.summary))
    out.print(table)


@cli.command()
@click.argument("word")
def explain(word: str) -> None:
    """Say how the problem WORD would be computed, and why not otherwise."""
    from fastconv.machine import Machine
    from fastconv.planning.explain import explained

    problem = _usage(Problem.parse, word)
    out, _ = _consoles()
    out.print(str(_usage(explained, problem, Machine.host())), markup=False, soft_wrap=True)


def _words(function: Callable[..., None]) -> Callable[..., None]:
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


def _layers(
    workload: str, accuracy: str | None, dtype: str | None, threads: int | None, pattern: str | None
) -> tuple[str, list[Layer]]:
    title, layers = load(workload)
    asked = {"accuracy": accuracy, "dtype": dtype, "threads": threads}
    changes = {name: value for name, value in asked.items() if value is not None}
    layers = [layer.where(**changes) for layer in layers]
    layers = match(layers, pattern) if pattern else layers
    if not layers:
        raise ValueError(f"match: no layer of {title} has {pattern!r} in its name or its problem word")
    return title, layers


def _layouts(layout: str | None, workload: str, layers: list[Layer]) -> tuple[str, ...]:
    if layout is None and len(layers) == 1 and layers[0].name == workload:
        return (layers[0].problem.layout,)
    return LAYOUTS if layout in {None, "both"} else (str(layout),)


@cli.command()
@click.argument("workload")
@_words
@click.option("--algorithm", default="auto", show_default=True, help="Use this algorithm for every layer.")
@click.option(
    "--peers", default="numpy_im2col,torch", show_default=True, help="all, none, or names with commas."
)
@click.option(
    "--functional", is_flag=True, help="Weights handed over at every call, by us and by the others."
)
@click.option("--quick", is_flag=True, help="Few rounds and a coarse check: a look, not a measurement.")
@click.option("--seconds", type=click.FloatRange(0.001, 60), help="Least time per contestant and layer.")
@click.option("--repeat", type=click.IntRange(1, 100_000), help="Least calls per contestant and layer.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here."
)
def bench(
    workload: str,
    layout: str | None,
    accuracy: str | None,
    dtype: str | None,
    threads: int | None,
    pattern: str | None,
    algorithm: str,
    peers: str,
    functional: bool,
    quick: bool,
    seconds: float | None,
    repeat: int | None,
    json_file: Path | None,
) -> None:
    """Measure every layer of WORKLOAD: a shipped one, a .csv file of the same form, or a problem word."""
    from fastconv.algorithms import registry
    from fastconv.compare import measuring
    from fastconv.compare.bench import Settings
    from fastconv.compare.data import CHECK_FLOP
    from fastconv.compare.peers import select

    title, layers = _usage(_layers, workload, accuracy, dtype, threads, pattern)
    chosen = _usage(select, peers)
    if algorithm != "auto":
        _usage(registry.get, algorithm)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.UsageError(f"--json: the folder of {json_file} does not exist")
    effort = measuring.QUICK if quick else measuring.Effort()
    if seconds is not None:
        effort = replace(effort, seconds=seconds, most_s=max(effort.most_s, 5 * seconds))
    settings = Settings(
        layouts=_layouts(layout, workload, layers),
        algorithm=algorithm,
        functional=functional,
        effort=effort if repeat is None else replace(effort, calls=repeat),
        check_flop=CHECK_FLOP / 10 if quick else CHECK_FLOP,
    )
    sys.exit(_run_bench(title, layers, chosen, settings, json_file))


def _run_bench(
    title: str, layers: list[Layer], peers: list[Any], settings: Any, json_file: Path | None
) -> int:
    """Measure, print, write; return 1 when an answer of ours was outside what its accuracy class promises."""
    from fastconv.compare import report
    from fastconv.compare.bench import bench_layer
    from fastconv.compare.environment import fma_peak, library_versions, machine_facts, today
    from fastconv.compare.results import LayerResult, broken, totals
    from fastconv.machine import Machine

    out, err = _consoles()
    first, date = layers[0].problem, today()
    results: list[LayerResult] = []
    with _progress(err) as progress:
        task = progress.add_task("measuring the FMA peak", total=len(layers))
        peak = fma_peak(first.dtype, first.threads)
        for layer in layers:
            progress.update(task, description=escape(layer.name))
            results.append(_usage(bench_layer, layer, peers, settings))
            progress.advance(task)
    words = f"{first.dtype}, {first.accuracy}, {first.threads} thread{'s' if first.threads > 1 else ''}"
    measured = f", FMA peak {peak:.0f} GFLOP/s measured" if peak else ""
    out.print(report.layer_table(f"{title} ({words}{measured})", results, peak))
    out.print("GFLOP/s: the work of the definition per time, which Winograd does not do in full")
    out.print("x: their time divided by ours, the best form of each; error: largest, of the largest output")
    if totals(results):
        out.print(report.total_table(results))
    for note in report.notes(results):
        out.print(f"note: {note}", markup=False)
    if json_file is not None:
        text = report.to_json(
            title,
            results,
            date=date,
            machine=machine_facts(Machine.host()),
            versions=library_versions(peers),
            settings=asdict(settings),
            peak=peak,
        )
        _write(json_file, text)
    wrong = [f"{result.name} ({entry.name})" for result in results for entry in broken(result)]
    for name in wrong:
        err.print(f"[red]outside its accuracy class, or failed:[/] {escape(name)}")
    return 1 if wrong else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"--json: cannot write {path}: {error.strerror or error}") from None


@cli.command()
@click.argument("workload", default="resnet50")
@_words
def warmup(
    workload: str,
    layout: str | None,
    accuracy: str | None,
    dtype: str | None,
    threads: int | None,
    pattern: str | None,
) -> None:
    """Compile the kernels that WORKLOAD needs, so that later processes load them from disk."""
    import fastconv

    title, layers = _usage(_layers, workload, accuracy, dtype, threads, pattern)
    layouts = _layouts(layout, workload, layers)
    problems = [layer.where(layout=name).problem for name in layouts for layer in layers]
    out, err = _consoles()
    with _progress(err) as progress:
        task = progress.add_task(escape(title), total=len(problems))
        fastconv.warmup(
            problems, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    out.print(f"{len(problems)} problems of {escape(title)} are compiled")


def main() -> None:
    """Run the command line; Ctrl-C ends with the exit code that shells give to it."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
