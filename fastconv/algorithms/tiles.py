"""Which register tile, and what it costs: the small model behind every algorithm on the micro-kernel."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from fastconv.machine import Machine
from fastconv.problem import Problem

#: Costs count cycles: the time of two multiply-adds of vectors and of two loads, as products of whole layers reach it
#: (94 % of what chains of multiply-adds alone do).
CYCLE_SHARE = 0.94
#: What is left of the rates of caches and memory while products run and stores wait (measured: 72 of 172 GB/s from L2,
#: 29 of 51 from L3).
L2_SHARE, FAR_SHARE = 0.42, 0.565
#: Cycles around one register tile beside its products: call, first loads, last additions.
TILE_OVERHEAD = 40.0
#: Cycles to start a task and to hand it out.
TASK_OVERHEAD = 600.0


#: Rows a tile may have: divisors of the usual sizes and what fills the registers. Each tile is a kernel to compile, and
#: the numbers left out never won by more than 2 %.
ROWS = (1, 2, 4, 6, 7, 8, 9, 10, 12, 13, 14, 16, 20, 24, 28)


class Tile(NamedTuple):
    """A register tile: MR rows of A against NV vectors of B."""

    mr: int
    nv: int


def cycles_per_second(machine: Machine) -> float:
    """Return how many of the cycles that costs count pass in a second."""
    return CYCLE_SHARE * machine.facts.multiply_adds / 2


def l2_rate(machine: Machine) -> float:
    """Return the bytes per cycle that come from L2 beside products."""
    return L2_SHARE * machine.facts.l2_rate / cycles_per_second(machine)


def far_rate(machine: Machine, size: float) -> float:
    """Return the bytes per cycle that move beyond L2, to and from an image and its result of `size` bytes in all."""
    facts = machine.facts
    whole = facts.l3_rate if size <= machine.l3_bytes // 2 else facts.memory_rate
    return FAR_SHARE * whole / cycles_per_second(machine)


def weight_rate(machine: Machine, size: float) -> float:
    """Return the bytes per cycle that come beyond L2 from `size` bytes of weights, read as a whole again and again.

    Beyond an eighth of L3, which images and other cores use too, they come from memory (of 300 MB: those of 40).
    """
    facts = machine.facts
    whole = facts.l3_rate if size <= machine.l3_bytes // 8 else facts.memory_rate
    return FAR_SHARE * whole / cycles_per_second(machine)


def missed(machine: Machine, size: float, some: float, all: float) -> float:
    """Return which part of data that is read again and again is not found in L2: how much that is follows its size.

    None up to `some` times the size of L2, everything from `all` times on: in between lines are lost to each other and
    to what streams past.
    """
    return min(max((size / machine.l2_bytes - some) / (all - some), 0.0), 1.0)


def image_cycles(problem: Problem, machine: Machine, moved: float) -> float:
    """Return the cycles in which `moved` bytes of the image and its result pass through memory."""
    size = problem.x_bytes + problem.y_bytes
    cycles = moved / far_rate(machine, size)
    return cycles / 4 if size < machine.l2_bytes else cycles


@lru_cache(maxsize=64)
def tiles(machine: Machine) -> tuple[Tile, ...]:
    """Return the tiles that fit the registers: MR * NV sums, NV columns of B and one broadcast row of A."""
    spare = machine.vector_registers - 1 - (0 if machine.fma else 1)
    found = [Tile(mr, nv) for nv in (1, 2, 3, 4) for mr in ROWS]
    return tuple(tile for tile in found if tile.mr * tile.nv + tile.nv <= spare)


def step_cycles(
    tile: Tile, machine: Machine, k: int, *, split_loads: bool = False, from_l2: int | None = None
) -> float:
    """Return the cycles of one of `k` steps: two FMAs or two loads at a time, at least the latency of a chain.

    `split_loads` says that vectors of B start anywhere, so that each costs two loads. A panel of B beyond half of L1
    streams from L2. Where B is the image itself it always does, and A too: `from_l2` is then how many lines a row of
    B touches more than it has vectors.
    """
    sums = tile.mr * tile.nv
    loads = tile.mr + tile.nv * (2 if split_loads else 1)
    products = sums if machine.fma else 2 * sums
    row = tile.nv * machine.vector_bytes
    streamed = row / l2_rate(machine) if k * row > machine.l1_bytes // 2 else 0.0
    if from_l2 is not None:
        streamed = (row + from_l2 * machine.vector_bytes + 4 * tile.mr) / l2_rate(machine)
    loads_at_once = machine.facts.l1_rate / machine.vector_bytes / cycles_per_second(machine)
    return max(products / 2, loads / loads_at_once, 4.0, streamed) + 0.1


def tiled_cycles(
    tile: Tile,
    machine: Machine,
    rows: int,
    cols: int,
    k: int,
    lanes: int,
    *,
    split_loads: bool = False,
    from_l2: int | None = None,
) -> float:
    """Return the cycles of a `rows` x `cols` product of depth `k`, edges included."""
    step = step_cycles(tile, machine, k, split_loads=split_loads, from_l2=from_l2)
    count = -(-rows // tile.mr) * -(-cols // (tile.nv * lanes))
    # Each row of a tile is stored to another place, and more than about 8 places at once are waited for: 6x4 beats
    # 14x2 by 12 % where k is 64, 7x2 beats it by 13 % where k is 147.
    stores = 2.0 * tile.mr * tile.nv + 4.0 * tile.mr + 10.0 * max(tile.mr - 8, 0)
    return count * (k * step + stores + TILE_OVERHEAD)


def best_tiles(
    machine: Machine,
    rows: int,
    cols: int,
    k: int,
    lanes: int,
    *,
    split_loads: bool = False,
    from_l2: int | None = None,
    keep: int = 1,
) -> tuple[Tile, ...]:
    """Return the `keep` cheapest tiles for a product of that size, best first."""

    def cycles(tile: Tile) -> tuple[float, int]:
        cost = tiled_cycles(tile, machine, rows, cols, k, lanes, split_loads=split_loads, from_l2=from_l2)
        return cost, -tile.mr * tile.nv

    return tuple(sorted(tiles(machine), key=cycles)[:keep])


def seconds(problem: Problem, machine: Machine, cycles: float, tasks: int) -> float:
    """Return the time of `cycles` of work in `tasks` equal pieces on the problem's threads."""
    workers = min(problem.threads, max(tasks, 1))
    rounds = -(-tasks // workers) if tasks else 0
    found = (cycles / max(tasks, 1) + TASK_OVERHEAD) * rounds / cycles_per_second(machine)
    return found + (machine.facts.region_seconds if workers > 1 else 0.0)
