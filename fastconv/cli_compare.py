"""Commands that measure fastconv beside other libraries, and those that show again what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastconv.cli_workloads import NoLayerError, layers_of, layouts_of, words, write
from fastconv.console import consoles, progress_bar, usage
from fastconv.problem import ACCURACIES, DTYPES, LAYOUTS

if TYPE_CHECKING:
    from fastconv.compare.comparison import Workload
    from fastconv.compare.document import Report
    from fastconv.compare.layers import Layer
    from fastconv.compare.station import Settings

#: Calls with empty caches, per contestant and layer: each writes to all of the last cache before.
COLD_CALLS, QUICK_COLD_CALLS = 7, 3


def _effort(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how long to measure."""
    options = (
        click.option(
            "--quick", is_flag=True, help="Few rounds and a coarse check: a look, not a measurement."
        ),
        click.option(
            "--seconds", type=click.FloatRange(0.001, 60), help="Least time per contestant and layer."
        ),
        click.option(
            "--repeat", type=click.IntRange(1, 100_000), help="Least calls per contestant and layer."
        ),
        click.option("--cold", is_flag=True, help="Measure calls with empty caches too."),
        click.option("--functional", is_flag=True, help="Weights handed over at every call, by everybody."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _outputs(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is written."""
    file = click.Path(path_type=Path, dir_okay=False)
    options = (
        click.option("--html", type=file, help="Write a page with tables and plots, all in one file."),
        click.option("--markdown", type=file, help="Write the tables as Markdown."),
        click.option("--json", "json_file", type=file, help="Write everything, for `fastconv report`."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _settings(
    layouts: tuple[str, ...],
    algorithm: str,
    classes: tuple[str, ...],
    *,
    quick: bool,
    seconds: float | None,
    repeat: int | None,
    cold: bool,
    functional: bool,
) -> Settings:
    from fastconv.algorithms import registry
    from fastconv.compare import measuring
    from fastconv.compare.data import CHECK_FLOP
    from fastconv.compare.station import Settings

    if algorithm != "auto":
        usage(registry.get, algorithm)
    effort = measuring.QUICK if quick else measuring.Effort()
    if seconds is not None:
        effort = replace(effort, seconds=seconds, most_s=max(effort.most_s, 5 * seconds))
    if repeat is not None:
        effort = replace(effort, calls=repeat)
    if cold:
        effort = replace(effort, cold_calls=QUICK_COLD_CALLS if quick else COLD_CALLS)
    return Settings(
        layouts=layouts,
        algorithm=algorithm,
        functional=functional,
        effort=effort,
        check_flop=CHECK_FLOP / 10 if quick else CHECK_FLOP,
        classes=classes,
    )


def _check_outputs(**files: Path | None) -> None:
    """Refuse what could not be written, before anything is measured."""
    for name, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"--{name}: the folder of {path} does not exist")
    if files.get("html") is not None:
        from fastconv.compare import page

        usage(page.require)


@click.command()
@click.argument("workload", required=False)
@words
@click.option("--algorithm", default="auto", show_default=True, help="Use this algorithm for every layer.")
@click.option(
    "--peers", default="numpy_im2col,torch", show_default=True, help="all, none, or names with commas."
)
@click.option(
    "--sweep",
    type=click.Choice(("size", "channels", "batch", "kernel", "threads")),
    help="Measure one layer with this side of it growing, and say how time and memory grow.",
)
@_effort
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page here.")
def bench(
    workload: str | None,
    layout: str | None,
    accuracy: str | None,
    dtype: str | None,
    threads: int | None,
    pattern: str | None,
    algorithm: str,
    peers: str,
    sweep: str | None,
    json_file: Path | None,
    html: Path | None,
    **effort: Any,
) -> None:
    """Measure every layer of WORKLOAD: a shipped one, a .csv or .onnx file, or a problem word."""
    from fastconv.compare.comparison import Workload
    from fastconv.compare.sweep import DEFAULT_WORD

    if workload is None:
        if sweep is None:
            raise click.UsageError("name a workload, or a side with --sweep")
        workload = DEFAULT_WORD
    title, layers = usage(layers_of, workload, accuracy, dtype, threads, pattern)
    _check_outputs(json=json_file, html=html)
    settings = _settings(layouts_of(layout, workload, layers), algorithm, (), **effort)
    if sweep is not None:
        if len(layers) != 1:
            raise click.UsageError(
                f"--sweep needs one layer, {title} has {len(layers)}: name one with --match"
            )
        sys.exit(_sweep(layers[0], sweep, peers, settings, json_file, html))
    count = layers[0].problem.threads
    report = _measure([Workload(title, tuple(layers))], peers, settings, (count,), f"bench {title}", False)
    sys.exit(_finish(report, html, json_file=json_file))


def _sweep(
    layer: Layer, kind: str, peers: str, settings: Settings, json_file: Path | None, html: Path | None
) -> int:
    """Measure a layer with one side growing; print and write how it grows."""
    from fastconv.compare import document, sweep, terminal
    from fastconv.compare.comparison import Workload
    from fastconv.compare.results import broken
    from fastconv.machine import Machine

    found = usage(sweep.points, layer.problem, kind)
    values = [value for value, _ in found]
    counts = tuple(dict.fromkeys(point.problem.threads for _, point in found))
    title = f"{layer.problem.word} over {sweep.AXES[kind].label}"
    report = _measure(
        [Workload(title, tuple(point for _, point in found[: len(found) // len(counts)]))],
        peers, settings, counts, f"bench {layer.problem.word} --sweep {kind} --peers {peers}", False,
    )  # fmt: skip
    report = sweep.joined(report, values, kind)
    out, _ = consoles()
    (run,) = report.runs
    _print(out, (*terminal.run_parts(run), *sweep.sentences(kind, values, run, Machine.host())))
    if json_file is not None:
        write(json_file, document.to_json(report))
    if html is not None:
        from fastconv.compare import page

        write(html, usage(page.render_sweep, report, kind, values))
    return 1 if any(broken(layer) for layer in run.layers) else 0


@click.command()
@click.argument("workloads", nargs=-1, required=True, metavar="WORKLOAD...")
@click.option("--peers", default="all", show_default=True, help="all, none, or names with commas.")
@click.option(
    "--layout",
    type=click.Choice([*LAYOUTS, "both"], case_sensitive=False),
    default="both",
    show_default=True,
    help="Order of the axes; of each library the better one counts.",
)
@click.option("--accuracy", type=click.Choice(ACCURACIES), help="Accuracy class.")
@click.option("--classes", is_flag=True, help="Time fastconv in the other accuracy classes too.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Type of input and weights.")
@click.option("--threads", default=None, metavar="N[,N...]", help="Threads; several are measured in turn.")
@click.option("--match", "pattern", metavar="REGEX", help="Only layers whose name or word matches.")
@_effort
@_outputs
@click.option("--identify", is_flag=True, help="Say host, user and folder in what is written.")
def compare(
    workloads: tuple[str, ...],
    peers: str,
    layout: str,
    accuracy: str | None,
    classes: bool,
    dtype: str | None,
    threads: str | None,
    pattern: str | None,
    html: Path | None,
    markdown: Path | None,
    json_file: Path | None,
    identify: bool,
    **effort: Any,
) -> None:
    """Measure fastconv beside other libraries on every layer of each WORKLOAD, and report.

    A WORKLOAD is a shipped one, a .csv file in the same columns, an .onnx file or a problem word.
    """
    chosen = usage(_workloads, workloads, accuracy, dtype, pattern)
    counts = usage(_thread_counts, threads) if threads else (chosen[0].layers[0].problem.threads,)
    _check_outputs(html=html, markdown=markdown, json=json_file)
    layouts = LAYOUTS if layout == "both" else (layout,)
    settings = _settings(layouts, "auto", ACCURACIES if classes else (), **effort)
    said = {
        "--peers": peers,
        "--accuracy": accuracy,
        "--dtype": dtype,
        "--threads": threads,
        "--match": pattern,
    }
    options = [f"{name} {value}" for name, value in said.items() if value is not None]
    flags = [f"--{name}" for name, on in {**effort, "classes": classes}.items() if on is True]
    command = " ".join(["compare", *(Path(name).name for name in workloads), *options, *flags])
    report = _measure(chosen, peers, settings, counts, command, identify)
    sys.exit(_finish(report, html=html, markdown=markdown, json_file=json_file))


def _workloads(
    names: Sequence[str], accuracy: str | None, dtype: str | None, pattern: str | None
) -> list[Workload]:
    """Return the layers of every workload that `pattern` leaves; titles are made different."""
    from fastconv.compare.comparison import Workload

    found: dict[str, Workload] = {}
    nothing: list[str] = []
    for name in names:
        try:
            title, layers = layers_of(name, accuracy, dtype, None, pattern)
        except NoLayerError as error:
            nothing.append(str(error))
            continue
        number, unique = 1, title
        while unique in found:
            number += 1
            unique = f"{title} ({number})"
        found[unique] = Workload(unique, tuple(layers))
    if not found:
        raise ValueError("; ".join(nothing))
    return list(found.values())


def _thread_counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        counts = ()
    if not counts or not all(1 <= count <= 1024 for count in counts):
        raise ValueError(f"--threads must be numbers from 1 to 1024 separated by commas, got {text!r}")
    return counts


def _measure(
    workloads: Sequence[Workload],
    peers: str,
    settings: Settings,
    threads: Sequence[int],
    command: str,
    identify: bool,
) -> Report:
    from fastconv.compare import comparison
    from fastconv.compare.peers import select

    chosen = usage(select, peers)
    _, err = consoles()
    with progress_bar(err) as progress:
        task = progress.add_task("", total=comparison.steps(workloads, threads))

        def show(text: str) -> None:
            progress.update(task, description=escape(text) or "measuring the roofs")
            progress.advance(task)

        return usage(
            comparison.compare,
            workloads,
            chosen,
            settings,
            threads,
            command=f"fastconv {command}",
            identify=identify,
            progress=show,
        )


def _finish(
    report: Report,
    html: Path | None = None,
    markdown: Path | None = None,
    json_file: Path | None = None,
) -> int:
    """Print and write `report`; return 1 when an answer of ours was outside what its accuracy class promises."""
    from fastconv.compare import document, terminal
    from fastconv.compare.results import broken

    out, err = consoles()
    _print(out, terminal.parts(report))
    if json_file is not None:
        write(json_file, document.to_json(report))
    _write_pages(report, html, markdown)
    wrong = [
        f"{layer.name} ({entry.name})"
        for run in report.runs
        for layer in run.layers
        for entry in broken(layer)
    ]
    for name in wrong:
        err.print(f"[red]outside its accuracy class, or failed:[/] {escape(name)}")
    return 1 if wrong else 0


def _print(out: Console, parts: Iterable[Table | str]) -> None:
    """Print tables, whose cells are escaped already, and texts as they are."""
    for part in parts:
        out.print(part, markup=not isinstance(part, str))


def _write_pages(report: Report, html: Path | None, markdown: Path | None) -> None:
    if html is not None:
        from fastconv.compare import page

        write(html, usage(page.render, report))
    if markdown is not None:
        from fastconv.compare.markdown import to_markdown

        write(markdown, to_markdown(report))


@click.command("report")
@click.argument("results", nargs=-1, required=True, metavar="RESULT.json...", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(0, 10), default=0.1, show_default=True,
              help="How much slower a layer may get.")  # fmt: skip
@_outputs
def report_again(
    results: tuple[Path, ...],
    threshold: float,
    html: Path | None,
    markdown: Path | None,
    json_file: Path | None,
) -> None:
    """Show what `compare` or `bench` wrote again; of two results, say what became slower.

    With two results the first is the older one; the exit code is 1 when a layer became slower by more than
    the threshold, lost its accuracy class, failed or is gone.
    """
    from fastconv.compare import document

    if len(results) > 2:
        raise click.UsageError(f"one result to show or two to compare, got {len(results)}")
    _check_outputs(html=html, markdown=markdown, json=json_file)
    read = [usage(document.read, path) for path in results]
    if len(read) == 1:
        sys.exit(_finish(read[0], html, markdown, json_file))
    from fastconv.compare import changes, terminal

    found = changes.changes(read[0], read[1], threshold)
    out, _ = consoles()
    _print(out, terminal.change_parts(found))
    if json_file is not None:
        write(json_file, changes.to_json(found))
    if markdown is not None:
        write(markdown, changes.to_markdown(found))
    if html is not None:
        from fastconv.compare import page

        write(html, usage(page.render_changes, found, read[1]))
    sys.exit(1 if found.regressions else 0)


COMMANDS = (bench, compare, report_again)
