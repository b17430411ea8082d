"""Kernels behind the convolutions that make up a transposed one: their outputs put in place."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import move
from fastconv.kernels.simd import item_bytes, load, store, words

Task = Callable[[int, int, int], None]


@task_factory
def place_pixels() -> Task:
    """Return the task that copies one row of pixels of one phase to every so many pixels of an image, NHWC.

    Shapes   parts (phases, 4): rows, columns, bytes to the first pixel in x and in y; images, rows, pixels and groups
             of channels of x are `x_image` ... bytes apart, of y `y_image` ...; `count` bytes of each group are copied
    Touches  writes its pixels of y
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, parts, phases, most, groups, count = words(ctx, 8)
        x_image, x_row, x_pixel, x_group, y_image, y_row, y_pixel = words(ctx + 64, 7)
        phase, rest = i % phases, i // phases
        row, image = rest % most, rest // most
        rows, columns, x_first, y_first = words(parts + 32 * phase, 4)
        if row < rows:
            source, target = (
                x + image * x_image + x_first + row * x_row,
                y + image * y_image + y_first + row * y_row,
            )
            for column in range(columns):
                for group in range(groups):
                    move(
                        target + column * y_pixel + group * count,
                        source + column * x_pixel + group * x_group,
                        count,
                    )

    return task


@task_factory
def place_planes(dtype: str) -> Task:
    """Return the task that copies one plane of one phase to every so many rows and columns of a plane, NCHW.

    Shapes   parts as of `place_pixels`; plane o of group g of x at ``g*x_group + o*x_plane``; planes of y side by side
    Touches  writes its pixels of y
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, parts, phases, per_group, groups, step = words(ctx, 8)
        x_image, x_group, x_plane, x_row, y_image, y_plane, y_row = words(ctx + 64, 7)
        o, rest = i % per_group, i // per_group
        group, image = rest % groups, rest // groups
        for phase in range(phases):
            rows, columns, x_first, y_first = words(parts + 32 * phase, 4)
            source = x + image * x_image + group * x_group + o * x_plane + x_first
            target = y + image * y_image + (group * per_group + o) * y_plane + y_first
            for row in range(rows):
                for column in range(columns):
                    at, to = source + row * x_row + column * size, target + row * y_row + column * step
                    if size == 4:
                        store("int32", to, load("int32", at))
                    else:
                        store("int64", to, load("int64", at))

    return task
