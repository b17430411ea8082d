"""The walk of depthwise convolution: sums of a strip slide over the image, and each input is loaded once.

Sums slide along one axis of the image, the walk; across it stands a strip of outputs. An input of the walk meets the
taps of all windows it lies in at once: with k taps and stride s, ceil(k / s) windows are open at a time, the oldest of
which is finished and stored, and the others move on by one place. Inputs beside the image are stepped over, so padding
costs nothing and no tap is multiplied by a stored zero along the walk.

`depthwise_planes_tile` walks down the rows of planes (NCHW), `strips_tile` along rows of pixels (NHWC).
Source: none. Start reading at `emit_walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    close_loop,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_store,
    enter_loop,
    i64,
    item_bytes,
)

#: Most turns of a walk that are written out.
MOST_TURNS = 3


class Walk(NamedTuple):
    """Taps and stride along the axis over which the sums slide."""

    taps: int
    stride: int

    @property
    def open(self) -> int:
        """Windows that are open at a time."""
        return -(-self.taps // self.stride)

    def at(self, phase: int) -> list[tuple[int, int]]:
        """Return (tap, age of the window) of all taps that meet an input of this phase."""
        return [(tap, tap // self.stride) for tap in range(phase, self.taps, self.stride)]


def _emit_if(b: Any, condition: Any, values: list[Any], body: Callable[[], list[Any]]) -> list[Any]:
    """Emit `body` under `condition`; return what it returns, or `values` where it is stepped over."""
    origin = b.block
    taken, after = b.function.append_basic_block("taken"), b.function.append_basic_block("after")
    b.cbranch(condition, taken, after)
    b.position_at_end(taken)
    made = body()
    final = b.block
    b.branch(after)
    b.position_at_end(after)
    merged = []
    for old, new in zip(values, made, strict=True):
        phi = b.phi(old.type)
        phi.add_incoming(old, origin)
        phi.add_incoming(new, final)
        merged.append(phi)
    return merged


class Strip(NamedTuple):
    """What a walk does with the sums of one strip: `extent` inputs, sums of a new window, and two emitters."""

    extent: Any
    start: list[Any]
    #: (position on the walk, (tap, age of its window) there, sums by age) -> sums
    add: Callable[[Any, list[tuple[int, int]], list[list[Any]]], list[list[Any]]]
    #: (output, its sums) -> nothing
    finish: Callable[[Any, list[Any]], None]

    def windows(self, flat: Sequence[Any]) -> list[list[Any]]:
        """Return the sums of each window, youngest first, from those of all."""
        across = len(self.start)
        return [list(flat[i : i + across]) for i in range(0, len(flat), across)]

    def added(self, place: Any, taps: list[tuple[int, int]], windows: list[list[Any]]) -> list[Any]:
        """Return all sums with the products of one input of the walk."""
        return _flat(self.add(place, taps, windows))


def _flat(windows: list[list[Any]]) -> list[Any]:
    return [value for window in windows for value in window]


def emit_walk(b: Any, walk: Walk, arg: dict[str, Any], strip: Strip) -> None:
    """Emit the walk over the inputs of outputs `first` to `last` - 1.

    The windows change places once a turn. As many turns as there are windows are written out, after which each sum is
    in its register again: where a turn has few products, moves cost a tenth of it.
    """
    loop, end = b.function.append_basic_block("walk"), b.function.append_basic_block("walked")
    phis = enter_loop(b, loop, [arg["first"], *strip.start * walk.open])
    newest, windows = phis[0], strip.windows(phis[1:])
    turns = walk.open if walk.open <= MOST_TURNS else 1
    for turn in range(turns):
        windows = [strip.start, *_emit_turn(b, walk, newest, windows, arg, strip)[:-1]]
        newest = b.add(newest, i64(1))
        again = b.icmp_signed("<", b.sub(newest, i64(walk.open - 1)), arg["last"])
        if turn < turns - 1:
            more = b.function.append_basic_block("turn")
            b.cbranch(again, more, end)
            b.position_at_end(more)
    close_loop(b, loop, phis, [newest, *_flat(windows)], again, end)


def _emit_turn(
    b: Any, walk: Walk, newest: Any, windows: list[list[Any]], arg: dict[str, Any], strip: Strip
) -> list[list[Any]]:
    """Emit the inputs between the opening of one window and that of the next, and the store of the oldest one."""
    oldest = windows[-1]
    for phase in range(min(walk.stride, walk.taps)):
        place = b.sub(b.add(b.mul(newest, i64(walk.stride)), i64(phase)), arg["before"])
        inside = b.icmp_unsigned("<", place, strip.extent)
        flat = _emit_if(b, inside, _flat(windows), partial(strip.added, place, walk.at(phase), windows))
        windows = strip.windows(flat)
        if phase == (walk.taps - 1) % walk.stride:
            oldest = windows[-1]
    output = b.sub(newest, i64(walk.open - 1))

    def store() -> list[Any]:
        strip.finish(output, oldest)
        return []

    _emit_if(b, b.icmp_signed(">=", output, arg["first"]), [], store)
    return windows


def emit_each(
    b: Any, arg: dict[str, Any], steps: dict[str, Any], held: Any, body: Callable[[dict[str, Any]], None]
) -> None:
    """Emit the loop over `count` strips, and the return: arguments named in `steps` move on, the residual by `held`."""
    loop, end = b.function.append_basic_block("strip"), b.function.append_basic_block("strips_done")
    names = ("count", "residual", *steps)
    phis = enter_loop(b, loop, [arg[name] for name in names])
    now = dict(zip(names, phis, strict=True))
    body(arg | now)
    left = b.sub(now["count"], i64(1))
    has_residual = b.icmp_signed("!=", arg["residual"], i64(0))
    residual = b.select(has_residual, b.add(now["residual"], held), i64(0))
    following = [left, residual, *(b.add(now[name], step) for name, step in steps.items())]
    close_loop(b, loop, phis, following, b.icmp_signed(">", left, i64(0)), end)
    b.ret_void()


class Stores(NamedTuple):
    """How finished vectors are stored; `has_residual` is the same for a whole walk, so LLVM makes two walks of it."""

    dtype: str
    activation: str
    has_residual: Any
    residual: Any

    @classmethod
    def of(cls, b: Any, dtype: str, activation: str, residual: Any) -> Stores:
        """Return how to store beside `residual`, 0 where there is none."""
        return cls(dtype, activation, b.icmp_signed("!=", residual, i64(0)), residual)

    def emit(self, b: Any, value: Any, base: Any, shift: Any, mask: Any) -> None:
        """Emit residual, activation and store of one vector at `base` + `shift`; without `mask` all lanes live."""
        size = item_bytes(self.dtype)

        def add() -> list[Any]:
            at = b.add(self.residual, shift)
            if mask is None:
                return [b.fadd(value, emit_load(b, at, value.type, size))]
            return [b.fadd(value, emit_masked_load(b, self.dtype, at, mask))]

        (total,) = _emit_if(b, self.has_residual, [value], add)
        result = emit_activation(b, self.dtype, self.activation, total)
        if mask is None:
            emit_store(b, result, b.add(base, shift), size)
        else:
            emit_masked_store(b, self.dtype, result, b.add(base, shift), mask)
