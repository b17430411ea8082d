"""How fast this machine is: measured once in about a second when asked for, kept on disk, used by every estimate.

`host` is the machine with what was measured; before that, and wherever the file is damaged, missing or unwanted
(``FASTCONV_FACTS=off``), with typical values. No call of `conv2d` measures anything. A file can move estimates and
nothing else: rates far from what machines have are not believed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fastconv import arrays, runtime
from fastconv.algorithms.interface import Array
from fastconv.kernels import bandwidth, matrix_tile, peak
from fastconv.machine import Facts, Machine
from fastconv.planning import store
from fastconv.planning.tuner import race

LINE = 64
#: Seconds for each of the rates.
SHORT, LONG = 0.05, 0.15
#: A rate that differs from the typical one by more than this factor is not believed.
BELIEVED = 200.0
#: Largest array that is copied to see how fast memory is.
MOST_BYTES = 1 << 29


def host() -> Machine:
    """Return the machine of this process with the facts measured on it, or with typical ones."""
    machine = Machine.host()
    return _known(machine, path(machine)) if _wanted() else machine


def path(machine: Machine) -> Path:
    """Return the file that holds the facts of a machine; it need not exist."""
    return store.root() / f"{machine.fingerprint}.facts.json"


def forget() -> None:
    """Look at the file again at the next call of `host`."""
    _known.cache_clear()


def measured() -> Machine:
    """Return the machine with measured facts, measuring and keeping them now if nobody did before."""
    machine = host()
    if machine.facts.measured or not _wanted():
        return machine
    return replace(machine, facts=measure_machine())


def measure_machine() -> Facts:
    """Measure how fast one core multiplies and moves data, in about a second, and keep it for every later process.

    Estimates use it from then on. Everything else that runs meanwhile makes the machine look slower than it is.
    ``fastconv tune`` does it first when nobody has; `conv2d` never does.

    Returns
    -------
    Facts

    Examples
    --------
    >>> import fastconv
    >>> fastconv.measure_machine().multiply_adds > 0
    True
    """
    machine = Machine.host()
    found = _measure(machine)
    if not store.read_only():
        try:
            values = {
                name: float(f"{value:.3g}") for name, value in asdict(found).items() if name != "measured"
            }
            store.write(path(machine), {"facts": values})
        except (OSError, RuntimeError) as error:
            store.warn(
                f"what was measured about this machine cannot be stored ({type(error).__name__}: {error})"
            )
    forget()
    return found


def _wanted() -> bool:
    return os.environ.get("FASTCONV_FACTS", "").strip().lower() not in ("off", "0")


@lru_cache(maxsize=8)
def _known(machine: Machine, file: Path) -> Machine:
    try:
        return replace(machine, facts=_parsed(store.read(file).get("facts"), machine.facts))
    except FileNotFoundError:
        return machine
    except store.DAMAGE as error:
        store.warn(f"what was measured about this machine is not used ({type(error).__name__}: {error})")
        return machine


def _parsed(value: object, typical: Facts) -> Facts:
    store.require(isinstance(value, dict), "facts must be an object")
    assert isinstance(value, dict)
    found = {}
    for field in fields(Facts):
        if field.name == "measured":
            continue
        near, given = getattr(typical, field.name), value.get(field.name)
        rule = f"{field.name} must be a number within a factor of {BELIEVED:.0f} of {near:.3g}"
        store.require(store.number(given, near / BELIEVED, near * BELIEVED), rule)
        found[field.name] = float(given)  # type: ignore[arg-type]
    return Facts(**found, measured=True)


def _measure(machine: Machine) -> Facts:
    lanes = machine.lanes("float32")
    gflops = peak.measure_fma_gflops("float32", lanes, SHORT)
    l3_rate = _copied(lanes, _inside(machine.l2_bytes, machine.l3_bytes))
    far = min(2 * machine.l3_bytes, MOST_BYTES, machine.memory_bytes // 8)
    return Facts(
        # Without fused ones, counts of cycles know that a multiplication and an addition are two operations.
        multiply_adds=gflops * 1e9 / (2 * lanes) * (1 if machine.fma else 2),
        l1_rate=_read(lanes, machine.l1_bytes // 2),
        l2_rate=_read(lanes, _inside(machine.l1_bytes, machine.l2_bytes)),
        l3_rate=l3_rate,
        memory_rate=min(_copied(lanes, max(far, machine.l3_bytes // 2)), l3_rate),
        matrix_products=_matrix_products(machine),
        region_seconds=_region_seconds(machine),
        measured=True,
    )


def _inside(inner: int, outer: int) -> int:
    """Return a size that is far too large for the inner cache and far from filling the outer one."""
    return max(min(4 * inner, outer // 2), inner)


def _aligned(size: int) -> tuple[Array, int]:
    """Return an array with `size` bytes that begin at a cache line, and where; vectors never lie across two."""
    data = np.zeros(size + LINE, np.uint8)
    # Memory that was never written is one page of zeros, seen many times.
    data[:] = 0
    return data, -(-arrays.address(data) // LINE) * LINE


def _read(lanes: int, size: int) -> float:
    """Return the bytes per second read from an array of about `size` bytes."""
    step = bandwidth.STEP * lanes * 4
    steps = max(size // step, 1)
    rounds = max(1, (1 << 20) // (steps * step))
    _data, source = _aligned(steps * step)
    _sum, total = _aligned(lanes * 4)
    context = (rounds, source, steps, total)
    return rounds * steps * step / bandwidth.best_seconds(bandwidth.read_stream(lanes), context, SHORT)


def _copied(lanes: int, size: int) -> float:
    """Return the bytes per second that move while one half of `size` bytes is copied to the other."""
    step = bandwidth.STEP * lanes * 4
    steps = max(size // 2 // step, 1)
    _data, source = _aligned(steps * step)
    _copy, target = _aligned(steps * step)
    context = (1, source, steps, target)
    return 3 * steps * step / bandwidth.best_seconds(bandwidth.copy_stream(lanes), context, LONG)


def _matrix_products(machine: Machine) -> float:
    if "amx-bf16" not in machine.features:
        return machine.facts.matrix_products
    items = 4096
    shape, table = matrix_tile.tile_configuration(), np.zeros(2 * items, np.int64)
    _data, tiles = _aligned(8 * matrix_tile.TILE_BYTES)
    context = (arrays.address(shape), tiles, arrays.address(table), items)
    return 4 * items / bandwidth.best_seconds(bandwidth.matrix_stream(), context, SHORT)


def _region_seconds(machine: Machine) -> float:
    """Return what the second of two threads costs: two tasks that do nothing, by two threads and by one."""
    if machine.cores < 2:
        return machine.facts.region_seconds
    context = np.zeros(3, np.int64)
    # Estimated as long enough for the runtime to take a second thread.
    work = runtime.Work(bandwidth.nothing(), context, 2, 0, 1e-3)
    alone, together = race([partial(runtime.run, work, 0, 0, 0, threads) for threads in (1, 2)], rounds=30)
    return max(together.best - alone.best, 1e-7)
