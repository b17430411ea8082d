"""Filters of a photograph of 12 megapixels beside OpenCV, SciPy and scikit-image, one thread: a table to read.

One process; answers are compared before the clock runs; everybody in turns, the fastest of many calls counts. Beside
OpenCV twice: with new memory for each result, and into the same memory again. SciPy and scikit-image run once: they
take seconds. Run it with ``python bench/images_report.py``; ``--quick`` takes a small photograph, for a look.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import photographs

ROUNDS = 9
SLOW = ("scipy", "scikit-image")


def fastest(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the fewest milliseconds of each."""
    least = dict.fromkeys(calls, float("inf"))
    for round_ in range(ROUNDS):
        for name, call in calls.items():
            if round_ and name in SLOW:
                continue
            begin = time.perf_counter()
            call()
            least[name] = min(least[name], (time.perf_counter() - begin) * 1e3)
    return least


def line(name: str, x: photographs.Array, libraries: list[str]) -> str:
    """Return one line of the table."""
    functions = photographs.FILTERS[name]
    known = [library for library in libraries if library in functions]
    photographs.check(name, x, known)
    room = {library: np.zeros_like(x) for library in ("fastconv", "opencv")}
    found = fastest(
        {library: partial(functions[library], x) for library in known}
        | {f"{library} again": partial(functions[library], x, out) for library, out in room.items()}
    )
    times = (f"{found[library]:.1f}" if library in found else "" for library in libraries)
    again = (f"{found[f'{library} again']:.1f}" for library in room)
    ratios = (found[f"opencv{when}"] / found[f"fastconv{when}"] for when in ("", " again"))
    cells = (name, str(x.dtype), *times, *again, *(f"{ratio:.2f}" for ratio in ratios))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a photograph of 0.2 megapixels")
    parser.add_argument("--only", default="", help="part of a filter's name")
    parser.add_argument("--peers", default="opencv,scipy,scikit-image", help="whom to time beside OpenCV")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows, columns = (400, 500) if options.quick else photographs.MEGAPIXELS_12
    libraries = ["fastconv", *dict.fromkeys(["opencv", *options.peers.split(",")])]
    heads = ["filter", "dtype", *libraries, "fastconv into the same", "opencv into the same"]
    print(f"{rows} x {columns} x 3; milliseconds, and how many times as fast as OpenCV")
    print(f"| {' | '.join([*heads, 'speed-up', 'into the same'])} |")
    print(f"|---|---|{'---:|' * len(heads)}")
    for name in photographs.FILTERS:
        for dtype in photographs.DTYPES:
            if options.only in name:
                print(line(name, photographs.photograph(rows, columns, dtype), libraries), flush=True)


if __name__ == "__main__":
    main()
