"""The command line: what the machine is, how fast layers run on it, and why they are computed so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from fastconv.cli_compare import COMMANDS as COMPARE_COMMANDS
from fastconv.cli_images import COMMANDS as IMAGE_COMMANDS
from fastconv.cli_workloads import layers_of as _layers
from fastconv.cli_workloads import layouts_of as _layouts
from fastconv.cli_workloads import words as _words
from fastconv.cli_workloads import write as _write
from fastconv.console import consoles as _consoles
from fastconv.console import progress_bar as _progress
from fastconv.console import usage as _usage
from fastconv.problem import Problem

if TYPE_CHECKING:
    from fastconv.planning.decisions import Timing


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastconv")
def cli() -> None:
    """2-D convolution of NumPy arrays, measured and explained."""


for command in (*COMPARE_COMMANDS, *IMAGE_COMMANDS):
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
