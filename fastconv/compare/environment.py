"""What a reader of numbers must know about where they were made; it names no host, user or path."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastconv.compare.peers import Peer, all_peers
from fastconv.machine import Machine, usable_cores

#: Environment variables that change how fast libraries are.
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_SPINCOUNT", "KMP_BLOCKTIME",
    "KMP_AFFINITY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "NUMBA_NUM_THREADS", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "FASTCONV_EXECUTOR", "FASTCONV_NUM_THREADS",
    "MALLOC_ARENA_MAX", "XLA_FLAGS",
)  # fmt: skip


def library_versions(peers: Sequence[Peer] = ()) -> dict[str, str]:
    """Return the versions of Python, of what fastconv stands on, and of the installed ones among `peers`."""
    import fastconv

    found = {"python": platform.python_version(), "fastconv": fastconv.__version__}
    for name in ("numba", "llvmlite", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found | {peer.distribution: peer.version() for peer in peers if not peer.missing()}


def description(measure_peak: bool = True) -> dict[str, str]:
    """Return what `fastconv info` prints, line by line; folders are shown here and never stored."""
    from fastconv import runtime
    from fastconv.kernels import store
    from fastconv.planning import facts

    machine = Machine.host()
    lanes = ", ".join(f"{machine.lanes(name)} {name}" for name in ("float32", "float64"))
    registers = f"{machine.vector_registers} registers of {machine.vector_bytes * 8} bits ({lanes})"
    scratch = size(machine.default_workspace_limit())
    caches = (machine.l1_bytes, machine.l2_bytes, machine.l3_bytes)
    lines = {
        "system": f"{sys.platform} {platform.machine()}, compiling for {machine.cpu}",
        "vectors": registers + (", fused multiply-add" if machine.fma else ", no fused multiply-add"),
        "instructions": " ".join(_vector_words(machine)) or "the base set",
        "caches": ", ".join(f"L{level} {size(count)}" for level, count in enumerate(caches, start=1)),
        "cores": f"{machine.cores} usable, {runtime.get_num_threads()} threads by default",
        "threading": f"own pool; Numba's layer: {_numba_layer()}",
        "memory": f"{size(machine.memory_bytes)} available, scratch up to {scratch}",
        "speed": _speed(facts.host()),
        "kernel cache": str(store.version_directory()) if store.disk_cache_wanted() else "switched off",
        "fingerprint": machine.fingerprint,
        "versions": ", ".join(f"{name} {number}" for name, number in library_versions(_installed()).items()),
    }
    if measure_peak:
        peaks = {dtype: fma_peak(dtype) for dtype in ("float32", "float64")}
        lines["FMA peak"] = (
            ", ".join(f"{value:.0f} GFLOP/s {dtype}" for dtype, value in peaks.items()) + ", one core"
        )
    return lines


def _speed(machine: Machine) -> str:
    """Return the rates that estimates are made of."""
    facts = machine.facts
    caches = {"L1": facts.l1_rate, "L2": facts.l2_rate, "L3": facts.l3_rate, "memory": facts.memory_rate}
    parts = [f"{facts.multiply_adds / 1e9:.2f} vector multiply-adds a ns"]
    parts += [f"{name} {rate / 1e9:.0f} GB/s" for name, rate in caches.items()]
    if "amx-bf16" in machine.features:
        parts.append(f"{facts.matrix_products / 1e9:.2f} matrix products a ns")
    parts.append(f"a second thread after {facts.region_seconds * 1e6:.1f} us")
    origin = "measured" if facts.measured else "typical, not measured: see fastconv info --measure"
    return ", ".join(parts) + f" ({origin})"


def _numba_layer() -> str:
    import numba

    from fastconv.runtime import region

    return str(numba.threading_layer()) if region.usable() else "none that is safe here"


def _installed() -> list[Peer]:
    return [peer for peer in all_peers().values() if not peer.missing()]


def _vector_words(machine: Machine) -> list[str]:
    """Return the features that kernels may care about; the others are about everything else a CPU does."""
    kinds = ("avx", "amx", "fma", "f16c", "neon", "bf16", "sse4")
    return [word for word in machine.features if word.startswith(kinds)]


def size(count: int) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> size(0), size(2048), size(5 << 20)
    ('0 B', '2 KiB', '5 MiB')
    """
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def machine_lines() -> dict[str, str]:
    """Return what readers of numbers want to know about the machine; it names no host, user or folder."""
    from fastconv.runtime import get_num_threads

    machine = Machine.host()
    caches = (machine.l1_bytes, machine.l2_bytes, machine.l3_bytes)
    lines = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cpu": machine.cpu,
        "vectors": f"{machine.vector_bytes * 8} bits, {machine.vector_registers} registers",
        "instructions": " ".join(_vector_words(machine)) or "the base set",
        "caches": ", ".join(f"L{level} {size(count)}" for level, count in enumerate(caches, start=1)),
        "cores": f"{machine.cores} usable, {get_num_threads()} threads by default",
        "memory": f"{size(machine.memory_bytes)} available",
        "fingerprint": machine.fingerprint,
    }
    said = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    plain = [f"{name}={value}" for name, value in said.items() if re.fullmatch(r"[\w.,:=+-]{0,80}", value)]
    return lines | ({"variables": " ".join(plain)} if plain else {})


def identity() -> dict[str, str]:
    """Return who measured, where: only for whoever asks for it."""
    return {"host": platform.node(), "user": getpass.getuser(), "folder": str(Path.cwd())}


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process, and those that it starts, on as many cores as there are threads, where that can be.

    Nobody then takes more cores than it says, and nobody wanders from one cache to another.
    """
    cores = usable_cores()
    if not cores or threads >= len(cores):
        yield
        return
    # The last ones: the first core also serves interrupts.
    os.sched_setaffinity(0, cores[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def today() -> str:
    """Return the time now, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fma_peak(dtype: str) -> float:
    """Return the measured FMA peak of one core in GFLOP/s."""
    from fastconv.kernels.peak import fma_gflops

    return float(fma_gflops(dtype))
