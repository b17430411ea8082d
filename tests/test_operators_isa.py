"""The operators beside convolution on older machines: a part of their tests, with narrower vectors and no masks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

HERE = Path(__file__).resolve().parent
TESTS = (
    "test_masks.py",
    "test_pooling.py::test_global",
    "test_pooling.py::test_nan_and_infinity",
    "test_pooling.py::test_ways_to_give_and_take_arrays",
    "test_unfolding.py::test_product_with_the_matrix_is_convolution",
    "test_unfolding.py::test_ways_to_give_and_take_arrays",
    "test_local.py::test_error_of_a_plain_sum",
    "test_sweep.py::test_whole_numbers_are_exact",
    "test_sweep.py::test_halves_are_rounded_to_even_and_nan_to_the_least",
    "test_sweep.py::test_two_kernels_give_the_root_of_the_sum_of_squares",
    "test_sweep.py::test_sums_stay_in_full_registers",
    "test_separable_layers.py::test_biases_and_activations",
    "test_transposed.py::test_words_of_convolution",
    "test_winograd_spread.py::test_errors_keep_the_bound[five tiles-NCHW-standard]",
    "test_winograd_spread.py::test_errors_keep_the_bound[stride 2, beside tiles-NHWC-standard]",
    "test_local.py::test_ways_to_give_and_take_arrays",
    "test_winograd_gradient.py::test_errors_keep_their_bound[2-groups-NHWC-float32]",
    "test_winograd_gradient.py::test_errors_keep_their_bound[4-stride 2, odd-NHWC-float64]",
)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="names x86 CPUs")
@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])
def test_operators_on_older_machines(cpu: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cache = getattr(request.config, "cache", None)
    kernels = tmp_path if cache is None else cache.mkdir("kernels")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("NUMBA_CPU")},
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        "FASTCONV_CACHE_DIR": str(kernels),
        "PYTHONPATH": str(Path(fastconv.__file__).resolve().parent.parent),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(str(HERE / t) for t in TESTS),
    ]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, cwd=HERE.parent
    )
    assert result.returncode == 0, result.stdout[-4000:]
