"""Make the README's speed table and plot from a stored run.

    fastconv bench resnet50 --peers all --json bench/results/resnet50.json
    python bench/plot_results.py bench/results/resnet50.json

writes ``bench/results/resnet50.svg`` and the part of README.md between the two ``speed`` comments.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib as mpl

from fastconv.compare.document import Report, Run, read
from fastconv.compare.results import OURS, totals

mpl.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def table(run: Run) -> str:
    """Return the totals as a Markdown table."""
    rows = [
        "| against | their ms | our ms | speed-up of the network | geometric mean of layers | worst layer |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, total in totals(run.layers).items():
        ours, theirs = total.ours_s * 1e3, total.other_s * 1e3
        rows.append(
            f"| {name} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.2f} | {total.geometric_mean:.2f} "
            f"| {total.worst_layer} ({total.worst_ratio:.2f}) |"
        )
    return "\n".join(rows)


def plot(run: Run, path: Path) -> None:
    """Write the GFLOP/s of every layer, ours and the best other library's, as an SVG."""
    names = [layer.name for layer in run.layers]
    series = {OURS: OURS, "best peer": None}
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(names) + 1.4), layout="constrained")
    for offset, (label, library) in enumerate(series.items()):
        entries = [(layer, layer.best(library)) for layer in run.layers]
        speeds = [layer.gflops(entry) if entry else 0.0 for layer, entry in entries]
        places = [place + 0.4 * offset for place in range(len(names))]
        axes.barh(places, speeds, height=0.4, label=label, color=("#1f6f8b", "#c9c2b2")[offset])
    axes.axvline(run.roof.gflops, color="black", linewidth=0.8, linestyle="--", label="measured FMA peak")
    axes.set_yticks([place + 0.2 for place in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("GFLOP/s (work of the definition per time)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    # Without a date and with fixed ids, equal numbers make equal files.
    mpl.rcParams["svg.hashsalt"] = "fastconv"
    figure.savefig(path, format="svg", metadata={"Date": None})


def caption(report: Report, run: Run) -> str:
    """Return where and when the numbers were made."""
    libraries = ", ".join(
        f"{name} {version}" for name, version in report.versions.items() if name != "python"
    )
    vectors = report.machine.get("vectors") or f"{report.machine['vector_bits']} bits"
    return (
        f"{run.title}, accuracy class `{run.accuracy}`, {report.date[:10]}, {report.machine['cpu']} "
        f"({vectors.split(',')[0].replace(' bits', '-bit')} vectors), measured FMA peak {run.roof.gflops:.0f} GFLOP/s; "
        f"{libraries}."
    )


def main() -> None:
    """Read the run named on the command line, write the plot and the README's part."""
    source = Path(sys.argv[1])
    report = read(source)
    run = report.runs[0]
    picture = source.with_suffix(".svg")
    plot(run, picture)
    shown = picture.resolve().relative_to(ROOT).as_posix()
    part = f"{table(run)}\n\n{caption(report, run)}\n\n![GFLOP/s of every layer]({shown})"
    text = README.read_text("utf-8")
    new = re.sub(r"(?<=<!-- speed -->\n).*(?=<!-- /speed -->)", lambda _: part + "\n", text, flags=re.DOTALL)
    README.write_text(new, "utf-8")
    print(part)


if __name__ == "__main__":
    main()
