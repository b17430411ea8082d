"""Filters of a photograph of 12 megapixels, one thread: ours, OpenCV's, SciPy's and scikit-image's.

Those of OpenCV and ours write into the same memory again and again. ``python bench/images_report.py`` is the table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import photographs  # noqa: E402

CASES = [(name, library) for name, functions in photographs.FILTERS.items() for library in functions]


@pytest.mark.peer
@pytest.mark.parametrize("dtype", photographs.DTYPES)
@pytest.mark.parametrize(("name", "library"), CASES)
def test_filter(benchmark: Any, name: str, library: str, dtype: str) -> None:
    size = photographs.MEGAPIXELS_12 if benchmark.enabled else (60, 80)
    cv2.setNumThreads(1)
    x = photographs.photograph(*size, dtype)
    photographs.check(name, x, [library])
    function = photographs.FILTERS[name][library]
    if library in ("fastconv", "opencv"):
        benchmark(function, x, np.zeros_like(x))
    else:
        benchmark.pedantic(function, (x,), rounds=1)
