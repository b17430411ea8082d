"""Run in a child process by `test_operators_memory`: operators on arrays beside pages that nobody may touch.

``python scenarios_of_operators.py NAME`` runs the cases of one operator with each array, table and workspace placed
against the end of its pages and then against the beginning, inputs read-only. Reading or writing one element too far
ends the process with a signal; the last line printed says in which case.
"""

from __future__ import annotations

import faulthandler
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracle import Array
from scenarios_of_memory import Place

import fastconv
from fastconv import image
from fastconv.machine import Machine
from fastconv.operators import gradients as gradient_operators
from fastconv.operators import (
    running,
    split_gradient,
    split_spread,
    spreading,
    strips,
    winograd_gradient,
    winograd_spread,
)
from fastconv.operators import transposed as transposing
from fastconv.runtime import launcher, work, workspace

LANES = Machine.host().lanes("float32")
#: Channels and columns around the edges of vectors.
SIZES = ((1, LANES - 1, 9, 7), (2, 3, 8, LANES + 1), (1, 4 * LANES + 1, 5, 3), (1, 2, 11, 4 * LANES + 3))
Case = tuple[str, Array, Callable[..., Any]]


def images(shape: tuple[int, ...], dtype: str, layout: str) -> Array:
    n, c, h, w = shape
    drawn = np.random.default_rng(0).integers(-9, 10, (n, c, h, w) if layout == "NCHW" else (n, h, w, c))
    x: Array = drawn.astype(dtype)
    return x


def each(dtypes: tuple[str, ...], *calls: Callable[..., Any]) -> Iterator[Case]:
    """Yield each call on images of every size, dtype and layout."""
    for shape in SIZES:
        for dtype in dtypes:
            for layout in ("NCHW", "NHWC"):
                for number, call in enumerate(calls):
                    name = f"{shape} {dtype} {layout} call {number}"
                    x = images(shape, dtype, layout)

                    def run(
                        x: Array, call: Callable[..., Any] = call, layout: str = layout, **words: Any
                    ) -> Any:
                        return call(x, layout=layout, threads=1, **words)

                    yield name, x, run


def pooling() -> Iterator[Case]:
    def maximum(*settings: Any) -> Callable[..., Any]:
        return lambda x, **words: fastconv.max_pool2d(x, *settings, **words)

    def places(*settings: Any) -> Callable[..., Any]:
        return lambda x, **words: fastconv.max_pool2d(x, *settings, return_indices=True, **words)

    def mean(*settings: Any) -> Callable[..., Any]:
        return lambda x, **words: fastconv.avg_pool2d(x, *settings, **words)

    settings = ((3, 2, 1), (2, 1, 0), (3, 3, 1), (2, 5, 0), ((2, 3), (1, 4), 0))
    yield from each(
        ("float32", "float64", "int32"), *(maximum(*s) for s in settings), fastconv.global_max_pool2d
    )
    yield from each(("float32", "int64"), *(places(*s) for s in settings))
    yield from each(
        ("float32", "float64"),
        *(mean(*s) for s in settings),
        fastconv.global_avg_pool2d,
        lambda x, **words: fastconv.adaptive_avg_pool2d(x, (2, 3), **words),
    )


def unfolding() -> Iterator[Case]:
    for settings in ((3, 1, 1, 1), (3, 2, 1, 1), (2, 3, 0, 2), (1, 1, 0, 1)):
        unfold = partial(fastconv.im2col, kernel_size=settings[0], **steps(settings))
        for name, x, run in each(
            ("float32", "float64"), lambda x, unfold=unfold, **words: unfold(x, **words)
        ):
            yield f"im2col {settings} {name}", x, run
            layout = "NCHW" if "NCHW" in name else "NHWC"
            size = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
            fold = partial(
                fastconv.col2im, output_size=size, kernel_size=settings[0], layout=layout, threads=1
            )
            yield f"col2im {settings} {name}", run(x), partial(fold, **steps(settings))


def steps(settings: tuple[int, ...]) -> dict[str, Any]:
    return dict(zip(("stride", "padding", "dilation"), settings[1:], strict=True))


def local() -> Iterator[Case]:
    """The image is in guarded memory as a whole, the weights behind it: the case is both."""
    for o, stride in ((1, 1), (2 * LANES, 1), (2 * LANES + 3, 2), (5, 3)):
        for shape in SIZES:
            for dtype in ("float32", "float64", "int32"):
                for layout, word in (("NCHW", "OIHWPQ"), ("NHWC", "PQHWIO")):
                    x = images(shape, dtype, layout)
                    _, c, h, w = shape
                    oh, ow = (h - 1) // stride + 1, (w - 1) // stride + 1
                    weights = images((o, c, 3, 3 * oh * ow), dtype, "NCHW").reshape(
                        (o, c, 3, 3, oh, ow) if word == "OIHWPQ" else (oh, ow, 3, 3, c, o)
                    )
                    layouts = {"layout": layout, "weight_layout": word}
                    run = partial(
                        fastconv.locally_connected2d, stride=stride, padding=1, threads=1, **layouts
                    )
                    yield f"{o} {stride} {shape} {dtype} {layout} of w", weights, partial(swapped, run, x)
                    yield f"{o} {stride} {shape} {dtype} {layout} of x", x, partial(run, w=weights)


def swapped(run: Callable[..., Any], x: Array, w: Array, **words: Any) -> Any:
    return run(x, w, **words)


def separable() -> Iterator[Case]:
    """Strips of two rows, so that the first, an inner one and the last are met."""
    mock.patch.object(
        strips, "heights", lambda rows, _: [(k, min(2, rows - k)) for k in range(0, rows, 2)]
    ).start()
    for o, stride in ((1, 1), (LANES, 1), (2 * LANES + 3, 2)):
        for shape in SIZES:
            for dtype in ("float32", "float64"):
                x = images(shape, dtype, "NHWC")
                first, second = (
                    images(wanted, dtype, "NCHW") for wanted in ((3, 3, shape[1], 1), (1, 1, shape[1], o))
                )
                run = partial(fastconv.separable_conv2d, stride=stride, padding=1, layout="NHWC", threads=1)
                yield f"{o} {stride} {shape} {dtype}", x, partial(run, depthwise_w=first, pointwise_w=second)


def sweeps() -> Iterator[Case]:
    """Filters of images of few channels, whose rows end at any place of a vector; separable ones, and others."""
    kernels = [np.ones(taps) for taps in ((3, 3), (1, 5), (7, 1), (15, 15))] + [
        np.eye(3),
        np.eye(2, 9),
        np.eye(11),
    ]
    for size in ((1, 1, 1), (2, 5, 3), (9, 4 * LANES + 1, 1), (21, 3 * LANES - 1, 3), (5, 700, 3)):
        for dtype in ("float32", "float64", "uint8", "int16"):
            for kernel in kernels:
                for mode in ("reflect", "constant", "wrap"):
                    x = images((1, *size), dtype, "NCHW")[0]
                    call = partial(image.filter2d, kernel=kernel, mode=mode, threads=1)
                    yield f"{size} {dtype} {kernel.shape} {mode}", x, call


def transposed() -> Iterator[Case]:
    """Phases in one convolution, in several, and none at all; images and then weights beside the pages."""
    for o, k, stride, padding in (
        (1, 4, 2, 1),
        (LANES + 1, 2, 2, 0),
        (3, 3, 2, 1),
        (5, 3, 1, 1),
        (2, 2, 3, 0),
    ):
        for shape in SIZES:
            for dtype, layout in (("float32", "NHWC"), ("float64", "NCHW")):
                x, w = images(shape, dtype, layout), images((shape[1], o, k, k), dtype, "NCHW")
                run = partial(
                    fastconv.conv_transpose2d, stride=stride, padding=padding, layout=layout, threads=1
                )
                yield f"{o} {k} {stride} {shape} {dtype} {layout} of x", x, partial(run, w=w)
                yield f"{o} {k} {stride} {shape} {dtype} {layout} of w", w, partial(swapped, run, x)


def gradients() -> Iterator[Case]:
    """Gradients by the kernels: fewer outputs than a tile has rows, and more; images and then gradients guarded."""
    # The last size is one for a matrix unit where there is one.
    for o, k, stride, padding in ((3, 3, 1, 1), (LANES + 1, 2, 2, 1), (14, 5, 1, 0)):
        for shape in (*SIZES, (2, 17, 9, 33)):
            for dtype, layout in (("float32", "NHWC"), ("float64", "NCHW"), ("float32", "NCHW")):
                x, w_shape = images(shape, dtype, layout), (o, shape[1], k, k)
                if min(shape[2:]) + 2 * padding < k:
                    continue
                words: dict[str, Any] = {"stride": stride, "padding": padding, "layout": layout}
                y_shape = fastconv.conv_output_shape(x.shape, w_shape, **words)
                g = images((1, 1, 1, math.prod(y_shape)), dtype, "NCHW").reshape(y_shape)
                run = partial(fastconv.conv2d_weight_grad, w_shape=w_shape, threads=1, **words)
                yield f"{o} {k} {shape} {dtype} {layout} of x", x, partial(run, grad_out=g)
                yield f"{o} {k} {shape} {dtype} {layout} of gradients", g, partial(by_gradient, run, x)


def winograd_gradients() -> Iterator[Case]:
    """Gradients by the kernels by Winograd, which takes none of so few channels on its own."""
    mock.patch.object(gradient_operators, "winograd_way", lambda p: winograd_gradient.way(p, 4)).start()
    mock.patch.object(split_gradient, "works", return_value=False).start()
    for o, stride, padding in ((3, 1, 1), (LANES + 1, 2, 0), (9, 2, 1)):
        for shape in SIZES:
            for dtype, layout in (("float32", "NHWC"), ("float64", "NCHW"), ("float64", "NHWC")):
                x, w_shape = images(shape, dtype, layout), (o, shape[1], 3, 3)
                words: dict[str, Any] = {"stride": stride, "padding": padding, "layout": layout}
                y_shape = fastconv.conv_output_shape(x.shape, w_shape, **words)
                g = images((1, 1, 1, math.prod(y_shape)), dtype, "NCHW").reshape(y_shape)
                run = partial(fastconv.conv2d_weight_grad, w_shape=w_shape, threads=1, **words)
                yield f"{o} {stride} {shape} {dtype} {layout} of x", x, partial(run, grad_out=g)
                yield f"{o} {stride} {shape} {dtype} {layout} of gradients", g, partial(by_gradient, run, x)


def spread() -> Iterator[Case]:
    """Transposed convolution with its weights read as they stand; images and then weights guarded."""
    mock.patch.object(spreading, "work", lambda t, _: spreading._work(t)).start()
    for o, k, stride in ((1, 3, 2), (LANES + 1, 3, 1), (3, 2, 3)):
        for shape in SIZES:
            for dtype, layout in (("float32", "NHWC"), ("float64", "NCHW")):
                x, w = images(shape, dtype, layout), images((shape[1], o, k, k), dtype, "NCHW")
                run = partial(fastconv.conv_transpose2d, stride=stride, padding=1, layout=layout, threads=1)
                yield f"{o} {k} {stride} {shape} {dtype} {layout} of x", x, partial(run, w=w)
                yield f"{o} {k} {stride} {shape} {dtype} {layout} of w", w, partial(swapped, run, x)


def matrix_spread() -> Iterator[Case]:
    """The same on a matrix unit, where there is one."""
    mock.patch.object(split_spread, "MANY_WEIGHTS", 1).start()
    for o, k, stride in ((16, 3, 2), (33, 3, 1), (40, 2, 3)):
        for shape in ((1, 65, 5, 3), (2, 64, 4, 8), (1, 90, 7, 5)):
            for layout in ("NHWC", "NCHW"):
                x, w = images(shape, "float32", layout), images((shape[1], o, k, k), "float32", "NCHW")
                run = partial(fastconv.conv_transpose2d, stride=stride, padding=1, layout=layout, threads=1)
                yield f"{o} {k} {stride} {shape} {layout} of x", x, partial(run, w=w)
                yield f"{o} {k} {stride} {shape} {layout} of w", w, partial(swapped, run, x)


def winograd_weights() -> Iterator[Case]:
    """The same by Winograd's transforms, with weights that are transformed where they lie."""
    mock.patch.object(transposing, "_by_winograd", winograd_spread.suits).start()
    for o, stride in ((1, 2), (LANES + 1, 1), (3, 1), (LANES // 2, 2)):
        for shape in ((1, LANES - 1, 9, 7), (2, 3, 4, 5), (3, LANES, 1, 2)):
            for layout in ("NHWC", "NCHW"):
                x, w = images(shape, "float64", layout), images((shape[1], o, 3, 3), "float64", "NCHW")
                run = partial(fastconv.conv_transpose2d, stride=stride, padding=1, layout=layout, threads=1)
                yield f"{o} {stride} {shape} {layout} of x", x, partial(run, w=w)
                yield f"{o} {stride} {shape} {layout} of w", w, partial(swapped, run, x)


def by_gradient(run: Callable[..., Any], x: Array, g: Array, **words: Any) -> Any:
    return run(x, grad_out=g, **words)


OPERATORS: dict[str, Callable[[], Iterator[Case]]] = {
    "gradients": gradients,
    "winograd_gradients": winograd_gradients,
    "spread": spread,
    "matrix_spread": matrix_spread,
    "winograd_weights": winograd_weights,
    "transposed": transposed,
    "separable": separable,
    "pooling": pooling,
    "unfolding": unfolding,
    "local": local,
    "sweeps": sweeps,
}


def guards(name: str) -> None:
    done = 0
    for case, x, call in OPERATORS[name]():
        expected = call(x)
        several = isinstance(expected, tuple)
        results = expected if several else (expected,)
        for side in ("end", "start"):
            print(name, case, side, flush=True)
            place = Place(side)
            given = place.put(x)
            outs = tuple(place.put(np.zeros_like(y), frozen=False) for y in results)
            moved = guarded_run(place)
            with (
                mock.patch.object(workspace, "take", place.take),
                mock.patch.object(workspace, "give"),
                mock.patch.object(work, "STACK_BYTES", 0),
                mock.patch.object(launcher, "STACK_BYTES", 0),
                mock.patch.object(running.runtime, "run", moved),
            ):
                call(given, out=outs if several else outs[0])
            for y, out in zip(results, outs, strict=True):
                np.testing.assert_array_equal(out, y)
            for guarded in place.all:
                guarded.check()
        done += 1
    print(f"done {done}")


def guarded_run(place: Place) -> Callable[..., None]:
    """Return `runtime.run` with the tables of the work in guarded memory."""
    plain = running.runtime.run

    def run(prepared: work.Work, *addresses: int) -> None:
        context = place.moved(prepared.context, prepared.keep)
        # A work made now takes no scratch from the stack, whose neighbours are not guarded.
        again = work.Work(
            prepared.kernel, context, prepared.tasks, prepared.scratch_bytes, prepared.seconds, prepared.keep
        )
        plain(again, *addresses)

    return run


if __name__ == "__main__":
    faulthandler.enable()
    guards(sys.argv[1])
