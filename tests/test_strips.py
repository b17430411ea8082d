"""Strips of NHWC rows: what neither the other tests' small images nor their tolerances show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import known
from running import prepared, run

from fastconv.algorithms import registry
from fastconv.kernels.strips_tile import shares_of_one
from fastconv.kernels.winograd_matrices import transforms
from fastconv.machine import Machine
from fastconv.problem import Problem

HOST = Machine.host()
#: Strips with a short last one, vectors that are not full, strides.
WORDS = {
    "depthwise": "n2c40h15w9_o40k3x3_s1p1d1g40_nhwc_f32",
    "sliding_groups": "n2c40h15w9_o40k3x3_s2x1p1d1g10_nhwc_f32_bias",
    "winograd_groups": "n2c40h14w9_o40k3x3_s1x2p1d1g10_nhwc_f32_residual",
}


@pytest.mark.parametrize("name", WORDS)
def test_asking_for_lines_ahead_changes_no_bit(name: str) -> None:
    algorithm, problem = registry.get(name), Problem.parse(WORDS[name])
    if algorithm.why_not(problem, HOST) is not None:
        pytest.skip(f"{name} {algorithm.why_not(problem, HOST)}")
    case = known(WORDS[name], "normal")[0]
    config = algorithm.configs(problem, HOST)[0]
    near, work = prepared(algorithm, problem, config, case)
    # A machine whose caches hold next to nothing: any image is beyond them.
    far = algorithm.layout(problem, replace(HOST, l2_bytes=64), config)
    assert far.kernel is not near.kernel
    y = run(problem, work, case)
    np.testing.assert_array_equal(run(problem, replace(work, kernel=far.kernel), case), y)


@pytest.mark.parametrize(("m", "taps"), [(2, 3), (4, 3), (2, 5)])
def test_shares_of_the_bias_make_one_in_every_output(m: int, taps: int) -> None:
    back = transforms(m, taps)[0]
    shares = shares_of_one(back)
    assert [sum(f * e for f, e in zip(row, shares, strict=True)) for row in back] == [1] * m


def test_seven_rows_only_where_the_image_stays_near() -> None:
    problem = Problem.parse("n1c64h14w14_o64k3x3_s1p1d1g64_nhwc_f32")
    if HOST.vector_registers < 32:
        pytest.skip(f"needs 32 vector registers, got {HOST.vector_registers}")
    rows = {config.across for config in registry.get("depthwise").configs(problem, HOST)}
    assert rows == {1, 2, 3, 4, 7}
    rows = {
        config.across for config in registry.get("depthwise").configs(problem, replace(HOST, l2_bytes=64))
    }
    assert rows == {1, 2, 3, 4}
