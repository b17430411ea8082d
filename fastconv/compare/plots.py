"""The plots of the page, as SVG texts to stand in HTML. The only file of the comparison that needs matplotlib."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import interval
from fastconv.compare.results import OURS, LayerResult
from fastconv.compare.summary import BEST, against, intensity, libraries

INK, FAINT = "#1d2433", "#c9ced8"
OWN = "#0b7285"
#: Told apart by people who see no red or no green too; see Okabe and Ito.
PALETTE = ("#d55e00", "#cc79a7", "#e69f00", "#5b6abf", "#7a7a7a", "#009e73", "#8c564b", "#56b4e9")
#: More rows than this are not read: the layers that take longest stay.
MOST_ROWS = 60
#: Layers with a colour of their own in the bars of time.
NAMED = 9
WIDTH = 9.0
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastconv",
    # Names of layers are text, whatever signs they hold.
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9ef",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def available() -> bool:
    """Return whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for ours and for every library."""
    return {OURS: OWN} | {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}


def plots_of(run: Run, key: str) -> dict[str, str]:
    """Return the plots of one run by their titles; `key` makes the ids of its parts unique in the page."""
    import matplotlib as mpl

    drawn = (
        ("Speed-up per layer", _speed_ups),
        ("Roofline", _roofline),
        ("Where the time goes", _shares),
        ("Error against time", _errors),
    )
    with mpl.rc_context(STYLE):
        figures = [(title, draw(run)) for title, draw in drawn]
        return {
            title: _svg(figure, f"{key}-{place}", f"{title}: {run.title}")
            for place, (title, figure) in enumerate(figures)
            if figure is not None
        }


def scaling(report: Report) -> dict[str, str]:
    """Return a plot for every workload that was measured with several numbers of threads."""
    import matplotlib as mpl

    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in report.runs:
        groups.setdefault((run.title, run.accuracy, run.dtype), []).append(run)
    with mpl.rc_context(STYLE):
        return {
            f"{title} ({accuracy})": _svg(_scaling(runs), f"threads-{place}", f"Thread scaling: {title}")
            for place, ((title, accuracy, _), runs) in enumerate(groups.items())
            if len({run.threads for run in runs}) > 1
        }


def lines(
    x: Sequence[float],
    series: dict[str, list[float]],
    x_label: str,
    y_label: str,
    key: str,
    bends: Sequence[float] = (),
) -> str:
    """Return series over x, both axes logarithmic, with dotted lines where something bends."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure, axes = _figure(4.0)
        palette = colours([name for name in series if name != OURS])
        for name, values in series.items():
            width = 2.2 if name == OURS else 1.2
            axes.plot(x, values, marker="o", markersize=4, color=palette[name], label=name, linewidth=width)
        for place in bends:
            axes.axvline(place, color=INK, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xticks([], minor=True)
        _decades(axes.yaxis, axes.get_ylim())
        axes.set_xlabel(f"{x_label} (dotted: where the speed bends)" if bends else x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="outside upper center", ncols=6, fontsize=8)
        return _svg(figure, key, f"{y_label} over {x_label}")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Any, key: str, label: str) -> str:
    """Return the SVG element alone, with ids that no other plot of the page has."""
    out = io.StringIO()
    with warnings.catch_warnings():
        # Signs that matplotlib's own font lacks are drawn by the browser's.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None, "Title": label})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", text)
    return text.replace("<svg ", '<svg role="img" ', 1).strip()


def _rows(run: Run) -> list[LayerResult]:
    """Return the layers with a ratio; of too many those that take longest, in the order of the network."""
    found = [layer for layer in run.layers if not math.isnan(layer.ratio())]
    if len(found) > MOST_ROWS:
        longest = sorted(found, key=lambda layer: -_ours_s(layer))[:MOST_ROWS]
        found = [layer for layer in found if layer in longest]
    return found


def _ours_s(layer: LayerResult) -> float:
    ours = layer.best(OURS)
    return layer.count * ours.min_s if ours else 0.0


def short(name: str, most: int = 34) -> str:
    """Return `name`, cut in the middle when it is too long for an axis."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _speed_ups(run: Run) -> Any:
    rows = _rows(run)
    if not rows:
        return None
    figure, axes = _figure(0.235 * len(rows) + 1.3)
    places = range(len(rows))
    ratios = [layer.ratio() for layer in rows]
    shades = [OWN if ratio >= 1 else "#c2410c" for ratio in ratios]
    axes.barh(places, [r - 1 for r in ratios], left=1, height=0.62, color=shades, alpha=0.28, zorder=2)
    for place, layer in enumerate(rows):
        sure = interval(layer, None)
        if sure:
            axes.plot(
                sure, (place, place), color=shades[place], linewidth=2.4, zorder=3, solid_capstyle="round"
            )
    names = libraries(run)
    for name, colour in colours(names).items():
        points = [(layer.ratio(name), place) for place, layer in enumerate(rows)]
        points = [point for point in points if math.isfinite(point[0])]
        if name != OURS and points:
            axes.scatter(*zip(*points, strict=True), s=18, color=colour, label=name, zorder=4, linewidths=0)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.7), max(high, 2.0))
    _plain_ticks(axes.xaxis, [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64, 128], axes.get_xlim())
    axes.set_yticks(places, [short(layer.name) for layer in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(
        "their time / ours: right of 1 fastconv is faster; bar: best peer, with its 95 % interval"
    )
    figure.legend(loc="outside upper center", ncols=min(6, max(1, len(names))), fontsize=8)
    return figure


def _plain_ticks(axis: Any, wanted: Sequence[float], limits: tuple[float, float]) -> None:
    """Put ticks with plain numbers where `wanted` lies within the limits."""
    shown = [value for value in wanted if limits[0] <= value <= limits[1]]
    axis.set_ticks(shown, [f"{value:g}" for value in shown])
    axis.set_ticks([], minor=True)


def _decades(axis: Any, limits: tuple[float, float]) -> None:
    """Put a tick on every power of ten, and on 2 and 5 times it when there are few."""
    low, high = (math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])))
    steps = (1,) if high - low > 3 else (1, 2, 5)
    _plain_ticks(axis, [step * 10.0**power for power in range(low, high + 1) for step in steps], limits)


def _roofline(run: Run) -> Any:
    points = {name: _points(run, name) for name in (OURS, BEST)}
    if not points[OURS] or math.isnan(run.roof.gflops):
        return None
    figure, axes = _figure(4.4)
    every = [x for found in points.values() for x, _ in found]
    left, right = min(every) / 2, max(every) * 2
    if not math.isnan(run.roof.gbytes):
        edge = run.roof.gflops / run.roof.gbytes
        ends = sorted({left, min(max(edge, left), right), right})
        axes.plot(ends, [run.roof.at(x) for x in ends], color=INK, linewidth=1.4)
        axes.annotate(
            f"memory {run.roof.gbytes:.3g} GB/s, measured",
            (left, run.roof.at(left)),
            xytext=(6, 12),
            textcoords="offset points",
            fontsize=8,
        )
    else:
        axes.axhline(run.roof.gflops, color=INK, linewidth=1.4)
    axes.annotate(
        f"FMA peak {run.roof.gflops:.0f} GFLOP/s, measured",
        (right, run.roof.gflops),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    for name, colour, size in ((BEST, "#d55e00", 20), (OURS, OWN, 30)):
        if points[name]:
            axes.scatter(
                *zip(*points[name], strict=True), s=size, color=colour, label=name, alpha=0.85, linewidths=0
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    _plain_ticks(axes.xaxis, [2.0**power for power in range(-4, 14)], (left, right))
    _decades(axes.yaxis, axes.get_ylim())
    axes.set_xlabel("operations per byte of x, weights and y")
    axes.set_ylabel("GFLOP/s by the definition")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _points(run: Run, name: str) -> list[tuple[float, float]]:
    entries = [(layer, layer.best(OURS if name == OURS else None)) for layer in run.layers]
    return [(intensity(layer), layer.gflops(entry)) for layer, entry in entries if entry]


def _shares(run: Run) -> Any:
    rows = [layer for layer in run.layers if layer.best(OURS)]
    if not rows:
        return None
    bars: dict[str, list[float]] = {OURS: [_ours_s(layer) * 1e3 for layer in rows]}
    for side in against(run):
        if side.total.layers == len(rows) and "," not in side.name:
            library = None if side.name == BEST else side.name
            entries = [layer.best(library) for layer in rows]
            bars[side.name] = [
                layer.count * entry.min_s * 1e3 if entry else 0.0
                for layer, entry in zip(rows, entries, strict=True)
            ]
    # A bar many times as long as ours would hide everything else.
    limit = 6 * sum(bars[OURS])
    bars = {name: values for name, values in bars.items() if sum(values) <= limit or name == OURS}
    order = sorted(range(len(rows)), key=lambda place: -max(values[place] for values in bars.values()))
    figure, axes = _figure(0.42 * len(bars) + 1.7)
    for bar, values in enumerate(bars.values()):
        start = 0.0
        for rank, place in enumerate(order):
            named = rank < NAMED
            axes.barh(
                bar, values[place], left=start, height=0.66, edgecolor="white", linewidth=0.5,
                color=_shade(rank) if named else "#d5d9e1",
                label=short(rows[place].name, 30) if named and bar == 0 else None,
            )  # fmt: skip
            start += values[place]
        axes.annotate(f" {start:.3g} ms", (start, bar), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ms for the network, each layer as often as it runs; grey: the other layers")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _shade(rank: int) -> str:
    return (
        "#0b7285",
        "#d55e00",
        "#e69f00",
        "#5b6abf",
        "#009e73",
        "#cc79a7",
        "#56b4e9",
        "#8c564b",
        "#7a7a7a",
    )[rank % NAMED]


def _errors(run: Run) -> Any:
    groups: dict[str, list[tuple[float, float]]] = {}
    for layer in run.layers:
        ours = layer.best(OURS)
        if ours is None:
            continue
        for entry in layer.entries:
            # Exact answers have no place on a logarithmic axis.
            if entry.timed and entry.l2_error > 0:
                groups.setdefault(_group(entry.maker, entry.name, entry.accuracy or run.accuracy), []).append(
                    (entry.min_s / ours.min_s, entry.l2_error)
                )
    if not groups:
        return None
    figure, axes = _figure(4.4)
    # The same colour for a library in every plot; its forms of lower precision come after them.
    others = [name for name in groups if not name.startswith(OURS)]
    palette = colours(list(dict.fromkeys((*libraries(run), *others))))
    markers = {"strict": "s", "standard": "o", "fast": "^"}
    for name, points in groups.items():
        own = name.startswith(OURS)
        axes.scatter(
            *zip(*points, strict=True),
            s=26 if own else 12,
            marker=markers.get(name.rpartition(" ")[2], "o"),
            color=OWN if own else palette[name],
            alpha=0.8,
            linewidths=0,
            label=name,
            zorder=3 if own else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_ticks(axes.xaxis, [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], axes.get_xlim())
    _decades(axes.yaxis, axes.get_ylim())
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xlabel(f"time, as a multiple of the fastest fastconv in class {run.accuracy} on the same layer")
    axes.set_ylabel("relative L2 error against float64")
    figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    return figure


def _group(library: str, name: str, accuracy: str) -> str:
    if library == OURS:
        return f"{OURS} {accuracy}"
    return name if "bfloat16" in name else library


def _scaling(runs: Sequence[Run]) -> Any:
    figure, axes = _figure(3.8)
    runs = sorted(runs, key=lambda run: run.threads)
    counts = [run.threads for run in runs]
    axes.plot(
        counts, [count / counts[0] for count in counts], color=FAINT, linestyle="--", label="as many times"
    )
    names = [name for name in libraries(runs[0]) if all(name in libraries(run) for run in runs)]
    for name, colour in colours(names).items():
        sums = list(_network_ms(runs, name))
        if all(sums):
            axes.plot(counts, [sums[0] / value for value in sums], marker="o", color=colour, label=name)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("threads")
    axes.set_ylabel(f"times as fast as with {counts[0]}")
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    return figure


def _network_ms(runs: Sequence[Run], name: str) -> Iterator[float]:
    """Yield what the library needs for the layers that it has a time for in every run."""
    common = set.intersection(*({layer.name for layer in run.layers if layer.best(name)} for run in runs))
    for run in runs:
        entries = [(layer, layer.best(name)) for layer in run.layers if layer.name in common]
        yield sum(layer.count * entry.min_s for layer, entry in entries if entry)
