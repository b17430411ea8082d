"""Strips of an image, and weights, as bfloat16 parts: what matrix tiles are filled from.

A line is a run of padded columns of one row that a tile reads side by side: with a stride every second, third ... one,
so that lines of a phase are what taps of that phase need. Everything else is zero padding or comes by the column map.
"""

from __future__ import annotations

import numpy as np

from fastconv.kernels.jit import device
from fastconv.kernels.packing import pack_row
from fastconv.kernels.simd import load, store, zero_bytes
from fastconv.kernels.split_tile import split_pairs, split_rows


@device
def pack_pixel_lines(
    cuts: int, corner: int, strip: int, lines: int, count: int, run: int, first_row: int, row_in: int, col_in: int,
    left: int, inner: int, sw: int, channels: int, x_row: int, x_pixel: int, part: int, flag: int,
) -> None:  # fmt: skip
    """Cut a strip of an NHWC image into parts.

    Shapes   lines: (padded row, column phase, first position) int64 each; line: `run` positions; strip
             [32 channels][part][position][32]
    Touches  writes the strip; 1 at `flag` when a value is not finite
    """
    for line in range(count):
        offset, phase = load("int64", lines + 24 * line), load("int64", lines + 24 * line + 8)
        to = strip + load("int64", lines + 24 * line + 16) * 64
        row = load("int64", row_in + 8 * (first_row + offset))
        start = min(max((left - phase + sw - 1) // sw, 0), run)
        stop = min(max((left + inner - phase + sw - 1) // sw, start), run)
        for c in range(0, channels, 32):
            target = to + c // 32 * cuts * part
            source = corner + row * x_row + c * 4
            if row < 0:
                for p in range(cuts):
                    zero_bytes(target + p * part, run * 64)
                continue
            at = source + (phase + start * sw - left) * x_pixel
            split_rows(
                cuts, at, sw * x_pixel, target + start * 64, 64, part, stop - start, channels - c, flag
            )
            for border in range(run - (stop - start)):
                q = border if border < start else border + stop - start
                column = load("int64", col_in + 8 * (phase + q * sw))
                live = 0 if column < 0 else channels - c
                split_rows(
                    cuts, source + max(column, 0) * x_pixel, 0, target + q * 64, 64, part, 1, live, flag
                )


@device
def pack_plane_lines(
    cuts: int, corner: int, strip: int, lines: int, count: int, run: int, first_row: int, row_in: int, col_in: int,
    left: int, inner: int, sw: int, channels: int, x_row: int, x_plane: int, plane: int, buffer: int, flag: int,
) -> None:  # fmt: skip
    """Cut a strip of an NCHW image into parts, pairs of channels side by side.

    Shapes   lines as `pack_pixel_lines`; strip [32 channels][part][pair of channels][position][2], `plane` bytes
             a pair; buffer: two lines of float32
    Touches  writes the strip and the buffer; 1 at `flag` when a value is not finite
    """
    part = 16 * plane
    for c in range(0, (channels + 31) // 32 * 32, 2):
        to = strip + c // 32 * cuts * part + c % 32 // 2 * plane
        source = corner + c * x_plane
        # A channel that is not there is its neighbour once more: its weights are zero.
        other = x_plane if c + 1 < channels else 0
        for line in range(count):
            offset, phase = load("int64", lines + 24 * line), load("int64", lines + 24 * line + 8)
            target = to + load("int64", lines + 24 * line + 16) * 4
            row = load("int64", row_in + 8 * (first_row + offset))
            if row < 0 or c >= channels:
                for p in range(cuts):
                    zero_bytes(target + p * part, run * 4)
                continue
            at = source + row * x_row
            if sw > 2:
                pack_row(at, buffer, phase, run, sw, col_in, left, inner, 4)
                pack_row(at + other, buffer + 4 * run, phase, run, sw, col_in, left, inner, 4)
                split_pairs(cuts, 1, buffer, 4 * run, target, part, run, flag)
                continue
            start = min(max((left - phase + sw - 1) // sw, 0), run)
            stop = min(max((left + inner - phase + sw - 1) // sw, start), run)
            inside, to_inside = at + (phase + start * sw - left) * 4, target + start * 4
            if sw == 1:
                split_pairs(cuts, 1, inside, other, to_inside, part, stop - start, flag)
            else:
                split_pairs(cuts, 2, inside, other, to_inside, part, stop - start, flag)
            for border in range(run - (stop - start)):
                q = border if border < start else border + stop - start
                column = load("int64", col_in + 8 * (phase + q * sw))
                if column < 0:
                    for p in range(cuts):
                        store("int32", target + p * part + q * 4, np.int32(0))
                else:
                    split_pairs(cuts, 1, at + column * 4, other, target + q * 4, part, 1, flag)


@device
def whole_weights(
    cuts: int, planar: int, panel: int, o: int, channels: int, taps: int, target: int, room: int
) -> None:
    """Put the weights of output channel `o` of a block together again, in OIHW order.

    Touches  writes channels * taps float32 at target, and 4 bytes at `room`
    """
    for c in range(channels):
        for tap in range(taps):
            tile = panel + (c // 32 * taps + tap) * cuts * 2048 + o // 16 * 1024
            if planar != 0:
                at = tile + o % 16 * 64 + c % 32 * 2
            else:
                at = tile + c % 32 // 2 * 64 + o % 16 * 4 + c % 2 * 2
            total = np.float32(0)
            for p in range(cuts):
                # The half word holds the upper half of a float32.
                place = at + p * 2048
                both = load("int32", place - place % 4)
                store("int32", room, both & np.int32(-65536) if place % 4 != 0 else both << 16)
                total += load("float32", room)
            store("float32", target + (c * taps + tap) * 4, total)
