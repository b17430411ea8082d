"""Reading weights that lie in memory anyhow, as rows of output channels side by side: what packers begin with.

Weights of ordinary layouts, their transposes, kernels turned round and every second tap differ in strides alone, so
each is read where it stands: no copy in one order comes between. A weight is at the sum of three offsets, which are
listed: that of its output channel, of its input channel and of its tap.
"""

from __future__ import annotations

from fastconv.kernels.jit import device
from fastconv.kernels.masks import vpick, vreduce
from fastconv.kernels.simd import load, store, vfma, vload_tail, vstore_tail, words
from fastconv.kernels.transpose import transpose_to_rows

#: int64 words of a context that say how the weights lie: addresses of the bytes to each output channel, each input
#: channel and each tap; taps; bytes between output channels, 0 where they differ; bytes between neighbours in the order
#: (channel, tap), 0 where they differ; 1 where neighbours in memory are channels rather than taps.
SOURCE_WORDS = 7


@device
def weight_rows(
    dtype: str, lanes: int, size: int, w: int, source: int, first: int, live: int, first_c: int, channels: int,
    target: int, row_bytes: int, index: int, flag: int,
) -> None:  # fmt: skip
    """Write the weights of `live` output channels from `first` and `channels` input channels from `first_c` as rows.

    Shapes   source: `SOURCE_WORDS` words; weight (o, c, tap) goes to
             ``target + index[(c - first_c) * taps + tap] * row_bytes``, element o - first
    Assumes  the list of output channels goes on for `lanes` entries behind the last, with addresses that may be read
    Touches  writes `live` elements of each row; 1 at `flag` when one is not finite
    """
    outputs, inputs, places, taps, o_step, k_step, channels_near = words(source, 7)
    if k_step == size and o_step != 0:
        # Rows of 32 are written while they are in L1: 128 of them are 16 KiB.
        run, k = 128, channels * taps
        corner = w + first * o_step + first_c * taps * size
        for start in range(0, k, run):
            for o in range(0, live, lanes):
                for kk in range(start, min(start + run, k), lanes):
                    rows = min(lanes, live - o)
                    transpose_to_rows(
                        dtype, lanes, corner + o * o_step + kk * size, o_step, target + o * size, row_bytes,
                        index + 8 * kk, rows, min(lanes, k - kk), rows, flag,
                    )  # fmt: skip
        return
    zero = vload_tail(dtype, lanes, w, 0)
    check = zero
    inner, outer = (channels, taps) if channels_near != 0 else (taps, channels)
    for a in range(outer):
        for b in range(inner):
            c, tap = (b, a) if channels_near != 0 else (a, b)
            at = w + load("int64", inputs + 8 * (first_c + c)) + load("int64", places + 8 * tap)
            to = target + load("int64", index + 8 * (c * taps + tap)) * row_bytes
            for o in range(0, live, lanes):
                count = min(lanes, live - o)
                if o_step == size:
                    value = vload_tail(dtype, lanes, at + (first + o) * size, count)
                else:
                    value = vpick(dtype, lanes, 0, at, outputs + 8 * (first + o))
                check = vfma(value, zero, check)
                vstore_tail(to + o * size, value, count)
    total = vreduce("sum", check)
    if total != total:
        store("int64", flag, 1)
