"""Make the README's speed table and plot from a stored run.

    fastconv bench resnet50 --peers all --json bench/results/resnet50.json
    python bench/plot_results.py bench/results/resnet50.json

writes ``bench/results/resnet50.svg`` and the part of README.md between the two ``speed`` comments.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
OURS = "fastconv"


def best(layer: dict[str, Any], library: str | None) -> dict[str, Any] | None:
    """Return the fastest entry of `library`, or of all the others than ours."""
    entries = [
        entry
        for entry in layer["entries"]
        if entry["min_s"] is not None
        and not entry["failed"]
        and (entry["library"] != OURS if library is None else entry["library"] == library)
    ]
    return min(entries, key=lambda entry: entry["min_s"], default=None)


def table(run: dict[str, Any]) -> str:
    """Return the totals as a Markdown table."""
    rows = [
        "| against | their ms | our ms | speed-up of the network | geometric mean of layers | worst layer |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, total in run["totals"].items():
        ours, theirs = total["ours_s"] * 1e3, total["other_s"] * 1e3
        rows.append(
            f"| {name} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.2f} | {total['geometric_mean']:.2f} "
            f"| {total['worst_layer']} ({total['worst_ratio']:.2f}) |"
        )
    return "\n".join(rows)


def plot(run: dict[str, Any], path: Path) -> None:
    """Write the GFLOP/s of every layer, ours and the best other library's, as an SVG."""
    names = [layer["name"] for layer in run["layers"]]
    series = {OURS: OURS, "best peer": None}
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(names) + 1.4), layout="constrained")
    for offset, (label, library) in enumerate(series.items()):
        entries = [best(layer, library) for layer in run["layers"]]
        speeds = [entry["gflops"] if entry else 0.0 for entry in entries]
        places = [place + 0.4 * offset for place in range(len(names))]
        axes.barh(places, speeds, height=0.4, label=label, color=("#1f6f8b", "#c9c2b2")[offset])
    if run["fma_peak_gflops"]:
        axes.axvline(
            run["fma_peak_gflops"], color="black", linewidth=0.8, linestyle="--", label="measured FMA peak"
        )
    axes.set_yticks([place + 0.2 for place in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("GFLOP/s (work of the definition per time)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    # Without a date and with fixed ids, equal numbers make equal files.
    mpl.rcParams["svg.hashsalt"] = "fastconv"
    figure.savefig(path, format="svg", metadata={"Date": None})


def caption(run: dict[str, Any]) -> str:
    """Return where and when the numbers were made."""
    machine, versions = run["machine"], run["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "python")
    words = run["layers"][0]["word"]
    accuracy = next((word for word in ("strict", "fast") if f"_{word}" in words), "standard")
    return (
        f"{run['title']}, accuracy class `{accuracy}`, {run['date'][:10]}, {machine['cpu']} "
        f"({machine['vector_bits']}-bit vectors), measured FMA peak {run['fma_peak_gflops']:.0f} GFLOP/s; "
        f"{libraries}."
    )


def main() -> None:
    """Read the run named on the command line, write the plot and the README's part."""
    source = Path(sys.argv[1])
    run = json.loads(source.read_text("utf-8"))
    picture = source.with_suffix(".svg")
    plot(run, picture)
    shown = picture.resolve().relative_to(ROOT).as_posix()
    part = f"{table(run)}\n\n{caption(run)}\n\n![GFLOP/s of every layer]({shown})"
    text = README.read_text("utf-8")
    new = re.sub(r"(?<=<!-- speed -->\n).*(?=<!-- /speed -->)", lambda _: part + "\n", text, flags=re.DOTALL)
    README.write_text(new, "utf-8")
    print(part)


if __name__ == "__main__":
    main()
