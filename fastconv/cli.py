"""The command line: what the machine is, how fast layers run on it, and why they are computed so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from fastconv.cli_images import COMMANDS as IMAGE_COMMANDS
from fastconv.compare.layers import Layer, load, match
from fastconv.console import consoles as _consoles
from fastconv.console import progress_bar as _progress
from fastconv.console import usage as _usage
from fastconv.problem import ACCURACIES, DTYPES, LAYOUTS, Problem

if TYPE_CHECKING:
    from fastconv.planning.decisions import Timing


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastconv")
def cli() -> None:
    """2-D convolution of NumPy arrays, measured and explained."""


for command in IMAGE_COMMANDS:
    cli.add_command(command)


@cli.command()
@click.option("--no-peak", is_flag=True, help="Do not measure the FMA peak.")
@click.option("--measure", is_flag=True, help="Measure how fast it is, for every estimate from now on.")
def info(no_peak: bool, measure: bool) -> None:
    """Say what machine fastconv sees."""
    import fastconv
    from fastconv.compare.environment import description

    if measure:
        fastconv.measure_machine()
    out, _ = _consoles()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in description(measure_peak=not no_peak).items():
        table.add_row(f"[bold]{name}", escape(text))
    out.print(table)


@cli.command()
def algorithms() -> None:
    """List the algorithms."""
    import fastconv

    out, _ = _consoles()
    table = Table("algorithm", "what it is", header_style="bold")
    for name, summary in fastconv.list_algorithms().items():
        table.add_row(name, escape(summary))
    out.print(table)


@cli.command()
@click.argument("word")
def explain(word: str) -> None:
    """Say how the problem WORD would be computed, and why not otherwise."""
    from fastconv.planning import facts
    from fastconv.planning.explain import explained

    problem = _usage(Problem.parse, word)
    out, _ = _consoles()
    out.print(str(_usage(explained, problem, facts.host())), markup=False, soft_wrap=True)


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
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None


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


@cli.command()
@click.argument("workloads", nargs=-1, required=True, metavar="WORKLOAD|FILE|PROBLEM...")
@_words
@click.option("--rigor", type=click.Choice(("measure", "exhaustive")), default="measure", show_default=True)
@click.option("--budget", type=click.FloatRange(0, min_open=True), help="Seconds for all problems together.")
def tune(
    workloads: tuple[str, ...],
    layout: str | None,
    accuracy: str | None,
    dtype: str | None,
    threads: int | None,
    pattern: str | None,
    rigor: str,
    budget: float | None,
) -> None:
    """Measure which algorithm is fastest for each problem, and remember it for every later process."""
    import fastconv

    problems = _problems(workloads, layout, accuracy, dtype, threads, pattern)
    out, err = _consoles()
    with _progress(err) as progress:
        task = progress.add_task("tuning", total=len(problems))

        def show(done: int, total: int, best: str) -> None:
            progress.update(
                task, completed=done, description=f"tuning, best so far: {best}" if best else "tuning"
            )

        try:
            found = fastconv.tune(problems, rigor=rigor, budget_s=budget, progress=show)
        except fastconv.TunerBusyError as error:
            raise click.ClickException(str(error)) from None
    table = Table("problem", "fastest", "setting", "us", "others", header_style="bold")
    for decision in found:
        best, rest = decision.timings[0], decision.timings[1:]
        words = " ".join(f"{name}={value}" for name, value in best.config.items())
        beside = f"{rest[0].algorithm} {rest[0].seconds / best.seconds:.2f}x" if rest else ""
        table.add_row(decision.problem, best.algorithm, words, _clock(best), beside)
    out.print(table)
    if len(found) < len(problems):
        out.print(
            f"{len(problems) - len(found)} of {len(problems)} problems were not reached or have no candidate"
        )


def _clock(timing: Timing) -> str:
    """Return the best round in microseconds, and how much more the middle one took."""
    return f"{timing.seconds * 1e6:.1f} +{timing.spread:.0%}"


def _problems(workloads: tuple[str, ...], layout: str | None, *words: Any) -> list[Problem]:
    """Return the problems of workloads, of problem words, and of text files with one word a line."""
    found: dict[Problem, None] = {}
    for workload in workloads:
        path = Path(workload)
        recorded = path.suffix != ".csv" and path.is_file()
        for name in _usage(path.read_text).split() if recorded else [workload]:
            _, layers = _usage(_layers, name, *words)
            for axes in _layouts(layout, name, layers):
                found |= dict.fromkeys(layer.where(layout=axes).problem for layer in layers)
    return list(found)


@cli.command()
@click.argument("workloads", nargs=-1, required=True, metavar="WORKLOAD|FILE|PROBLEM...")
@_words
@click.option("--most-gflop", type=float, default=40.0, show_default=True, help="Leave out larger problems.")
def regret(
    workloads: tuple[str, ...],
    layout: str | None,
    accuracy: str | None,
    dtype: str | None,
    threads: int | None,
    pattern: str | None,
    most_gflop: float,
) -> None:
    """Say how much slower the estimate's choice is than the best of an exhaustive search (stored, so resumable)."""
    import fastconv
    from fastconv.planning import facts
    from fastconv.planning.regret import Regret
    from fastconv.planning.regret import regret as regret_of

    problems = _problems(workloads, layout, accuracy, dtype, threads, pattern)
    problems = [problem for problem in problems if problem.flop <= most_gflop * 1e9]
    out, err = _consoles()
    with _progress(err) as progress:
        task = progress.add_task("measuring every setting", total=len(problems))
        fastconv.tune(
            problems, rigor="exhaustive", progress=lambda done, *_: progress.update(task, completed=done)
        )
    found = [row for problem in problems if (row := regret_of(problem, facts.host())) is not None]
    table = Table("problem", "best", "estimate takes", "regret", header_style="bold")
    for row in sorted(found, key=lambda row: -row.estimate)[:20]:
        table.add_row(row.problem.word, row.best, row.chosen, f"{row.estimate:.2f}")
    out.print(table)

    def spread(name: str, values: list[float]) -> None:
        ordered = sorted(values)
        middle, most = ordered[len(ordered) // 2], ordered[int(0.9 * (len(ordered) - 1))]
        out.print(f"{name}: median {middle:.3f}, 90th percentile {most:.3f}, largest {ordered[-1]:.2f}")

    rows: list[Regret] = found
    if rows:
        spread(f"estimate, {len(rows)} problems", [row.estimate for row in rows])
        spread(f"measure, {len(rows)} problems", [row.measure for row in rows])


@cli.group()
def decisions() -> None:
    """What tuning found on this machine, kept for every later process."""


@decisions.command("show")
def decisions_show() -> None:
    """List them."""
    from fastconv.machine import Machine
    from fastconv.planning.decisions import Decision, folder, stored

    out, _ = _consoles()
    machine = Machine.host()
    table = Table("problem", "rigor", "fastest", "us", "candidates", header_style="bold")
    for _path, found in stored(machine):
        if isinstance(found, Decision):
            best = found.timings[0]
            cells = (best.algorithm, _clock(best), str(len(found.timings)))
            table.add_row(found.problem, found.rigor, *cells)
    out.print(f"{folder(machine)}", markup=False, soft_wrap=True)
    out.print(table)


@decisions.command("verify")
def decisions_verify() -> None:
    """Look for files that are no valid decisions; exit code 1 when there are any."""
    from fastconv.machine import Machine
    from fastconv.planning.decisions import stored

    out, _ = _consoles()
    rows = list(stored(Machine.host()))
    wrong = [(path, found) for path, found in rows if isinstance(found, str)]
    for path, reason in wrong:
        out.print(f"{path.name}: {reason}", markup=False, soft_wrap=True)
    out.print(f"{len(rows) - len(wrong)} valid, {len(wrong)} not")
    sys.exit(1 if wrong else 0)


@decisions.command("clear")
def decisions_clear() -> None:
    """Remove them all."""
    from fastconv.machine import Machine
    from fastconv.planning.decisions import clear

    out, _ = _consoles()
    out.print(f"{clear(Machine.host())} decisions removed")


@decisions.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def decisions_export(file: Path) -> None:
    """Write them all to FILE, as JSON."""
    import json

    from fastconv.machine import Machine
    from fastconv.planning.decisions import bundle

    out, _ = _consoles()
    value = bundle(Machine.host())
    _write(file, json.dumps(value, indent=1))
    out.print(f"{len(value['decisions'])} decisions written to {escape(str(file))}")


@decisions.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def decisions_import(file: Path) -> None:
    """Take over those in FILE that are faster or new; FILE must be of this kind of machine."""
    from fastconv.machine import Machine
    from fastconv.planning.decisions import merge

    out, _ = _consoles()
    taken, left = _usage(merge, _usage(file.read_text, "utf-8"), Machine.host())
    out.print(f"{taken} decisions taken over, {left} left as they were")


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
