"""The micro-kernel alone: a task around `brgemm`, and a reader of its assembly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastconv.algorithms.tiles import tiles
from fastconv.kernels.gemm_tile import brgemm, brgemm_ahead, multiply_panel, multiply_turned
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import words
from fastconv.machine import Machine


@task_factory
def one_tile(mr: int, nv: int, lanes: int, dtype: str, axis: str, activation: str):  # type: ignore[no-untyped-def]
    """Call the micro-kernel once, with the arguments that stand in the context."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, y, residual, b, table, bias, segments, acc = words(ctx, 8)
        am, ak, bk, items, k, row, live, mode = words(ctx + 64, 8)
        brgemm(
            mr, nv, lanes, dtype, axis, activation,
            a, am, ak, b, bk, table, items, k, y, residual, row, live, segments, bias, acc, mode,
        )  # fmt: skip

    return task


@task_factory
def one_tile_ahead(mr: int, nv: int, lanes: int, dtype: str, axis: str, activation: str):  # type: ignore[no-untyped-def]
    """Call the micro-kernel that asks for later memory once; where and how far apart stands behind in the context."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, y, residual, b, table, bias, segments, acc = words(ctx, 8)
        am, ak, bk, items, k, row, live, mode, ahead, step = words(ctx + 64, 10)
        brgemm_ahead(
            mr, nv, lanes, dtype, axis, activation,
            a, am, ak, b, bk, table, items, k, y, residual, row, live, segments, bias, acc, mode, ahead, step,
        )  # fmt: skip

    return task


@task_factory
def one_panel(mr: int, nv: int, lanes: int, dtype: str):  # type: ignore[no-untyped-def]
    """Call the micro-kernel of packed panels once, with the arguments that stand in the context."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, y, _, b, am, k, ahead, step = words(ctx, 8)
        multiply_panel(mr, nv, lanes, dtype, a, am, b, k, y, ahead, step)

    return task


@task_factory
def one_turned_panel(mr: int, nv: int, lanes: int, dtype: str):  # type: ignore[no-untyped-def]
    """Call the micro-kernel of two packed panels once, with the arguments that stand in the context."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, y, _, b, ak, k, mode, ahead, step = words(ctx, 9)
        multiply_turned(mr, nv, lanes, dtype, a, ak, b, k, y, mode, ahead, step)

    return task


@dataclass(frozen=True)
class Loop:
    """The innermost loop of a micro-kernel."""

    lines: tuple[str, ...]

    def count(self, pattern: str) -> int:
        return sum(bool(re.match(pattern, line)) for line in self.lines)

    @property
    def spills(self) -> list[str]:
        """Instructions that move a vector register to or from the stack."""
        return [line for line in self.lines if re.search(r"%[xyz]mm", line) and "(%rsp" in line]

    @property
    def widths(self) -> set[str]:
        """Kinds of registers in which products are added up."""
        found = (re.findall(r"%([xyz]mm)", line)[-1:] for line in self.lines if is_product(line))
        return {kind for kinds in found for kind in kinds}


def is_product(line: str) -> bool:
    """Tell whether a line multiplies vectors."""
    return bool(re.match(r"v?f?n?m(add|ul)[0-9]*p[sd]\b|vfmadd[0-9]*p[sd]\b", line))


def innermost_loop(assembly: str, name: str = "brgemm_") -> Loop:
    """Return the shortest loop of the function `name...` that multiplies vectors."""
    start = re.search(rf"^\"?{name}\w*\"?:", assembly, re.MULTILINE)
    assert start, f"no function {name}... in the assembly"
    lines = [line.split("#")[0].strip() for line in assembly[start.end() :].splitlines()]
    labels: dict[str, int] = {}
    loops: list[Loop] = []
    for at, line in enumerate(lines):
        if line.startswith((".cfi_endproc", ".Lfunc_end")):
            break
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = at
        jump = re.match(r"j\w+\s+(\.L\w+)", line)
        if jump and jump[1] in labels:
            body = tuple(text for text in lines[labels[jump[1]] : at + 1] if text)
            if any(map(is_product, body)):
                loops.append(Loop(body))
    assert loops, f"no loop that multiplies vectors in {name}..."
    return min(loops, key=lambda loop: len(loop.lines))


def largest_tiles(machine: Machine) -> list[tuple[int, int]]:
    """Return the tiles with most sums for each count of vectors: where registers are scarcest."""
    best: dict[int, int] = {}
    for mr, nv in tiles(machine):
        best[nv] = max(mr, best.get(nv, 0))
    return [(mr, nv) for nv, mr in sorted(best.items())]


def judge_assembly(machine: Machine, dtype: str, form: str) -> None:
    """Raise AssertionError unless the loops of the largest tiles use full registers and no stack.

    `form` is the axis of `brgemm`, that and " ahead" for `brgemm_ahead`, or "panel".
    """
    register = {64: "zmm", 32: "ymm", 16: "xmm"}[machine.vector_bytes]
    suffix = "s" if dtype == "float32" else "d"
    lanes = machine.lanes(dtype)
    for mr, nv in largest_tiles(machine):
        if form == "panel":
            kernel = one_panel(mr, nv, lanes, dtype)
        else:
            make = one_tile_ahead if form.endswith("ahead") else one_tile
            kernel = make(mr, nv, lanes, dtype, form[0], "none")
        loop = innermost_loop(kernel.asm(), "panel_" if form == "panel" else "brgemm_")
        text = f"{mr}x{nv} {dtype} {form}:\n" + "\n".join(loop.lines)
        assert not loop.spills, text
        assert loop.widths == {register}, text
        products = loop.count(rf"vfmadd[0-9]+p{suffix}\b" if machine.fma else rf"v?mulp{suffix}\b")
        assert products >= mr * nv and products % (mr * nv) == 0, text
        # Every vector of B is loaded once a step, and serves all rows.
        loads = loop.count(rf"v?mov[ua]p[sd]\s.*\(.*%{register}")
        assert loads <= nv * products // (mr * nv), text


if __name__ == "__main__":
    host = Machine.host()
    for kind in ("float32", "float64"):
        judge_assembly(host, kind, "n")
    for other in ("m", "n ahead", "m ahead", "panel"):
        judge_assembly(host, "float32", other)
    print(host.vector_bytes, host.vector_registers, host.fma)
