"""What the machine offers: vectors, registers, caches, cores and memory, as one frozen value.

This is the only file that looks at the host. The instruction set is never guessed from a CPU's name: a probe
of a few vector instructions is compiled for the very target that Numba compiles for, and its assembly says
which there are, so `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` are honoured without a table of CPUs.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

GIB = 1 << 30
#: Used where the system does not tell: the smallest sizes found on desktop CPUs of the last ten years.
FALLBACK_CACHES = (32 << 10, 256 << 10, 2 << 20)
FALLBACK_MEMORY = 2 * GIB
#: Clock of the typical core, in Hz.
CLOCK = 3.8e9

_CGROUPS = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")

# One instruction of each kind that kernels care about, on the widest vectors; narrower targets split them.
_PROBE = """
define void @probe(ptr %p) {
  %a = load <16 x float>, ptr %p, align 4
  %q = getelementptr <16 x float>, ptr %p, i64 1
  %b = load <16 x float>, ptr %q, align 4
  %h = load <8 x half>, ptr %p, align 2
  %e = fpext <8 x half> %h to <8 x float>
  store <8 x float> %e, ptr %q, align 4
  %f = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %b)
  store <16 x float> %f, ptr %p, align 4
  %r = getelementptr <16 x float>, ptr %p, i64 5
  %t = fptrunc <16 x float> %f to <16 x bfloat>
  store <16 x bfloat> %t, ptr %r, align 2
  ret void
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""
# LLVM's word for a feature -> the text that shows it in the probe's assembly.
_X86_EVIDENCE = {
    "avx512f": "zmm",
    "avx2": "ymm",
    "fma": "vfmadd",
    "f16c": "vcvtph2ps",
    "avx512bf16": "vcvtneps2bf16",
}
_ARM_EVIDENCE = {"neon": "fmla", "bf16": "bfcvtn"}


@dataclass(frozen=True, slots=True)
class Facts:
    """How fast one core is: the rates that make time of an algorithm's counts of work and traffic.

    The defaults are typical of servers of 2023 with vectors of 64 bytes. They serve until `fastconv.measure_machine`
    has measured the machine itself; nothing is measured unasked.

    Parameters
    ----------
    multiply_adds : float
        Multiply-adds of full vectors of float32, per second; operations where that takes two.
    l1_rate, l2_rate : float
        Bytes per second that are read while they stay in that cache.
    l3_rate, memory_rate : float
        Bytes per second that move when an array is copied there: each one is read, and each line that is written is
        read before, so three for each byte copied.
    matrix_products : float
        Products of 16 x 32 by 32 x 16 bfloat16 per second; means nothing without a matrix unit.
    region_seconds : float
        To hand work to a second thread and to hear that it is done.
    measured : bool
        Whether they were measured on this machine.
    """

    multiply_adds: float = 7.6e9
    l1_rate: float = 3.8e11
    l2_rate: float = 1.7e11
    l3_rate: float = 5e10
    memory_rate: float = 2.2e10
    matrix_products: float = CLOCK / 16
    region_seconds: float = 2e-6
    measured: bool = False

    @classmethod
    def typical(cls, vector_bytes: int, hertz: float | None) -> Facts:
        """Return typical values, scaled by what is known: caches send full vectors, and run with the clock."""
        some = cls()
        clock = 1.0 if hertz is None else hertz / CLOCK
        wide = vector_bytes / 64
        return Facts(
            multiply_adds=some.multiply_adds * clock,
            l1_rate=some.l1_rate * clock * wide,
            l2_rate=some.l2_rate * clock * wide,
            matrix_products=some.matrix_products * clock,
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that kernels, cost models and stored decisions depend on.

    Parameters
    ----------
    vector_bytes
        Width of one vector register: 64 (AVX-512), 32 (AVX2 with FMA) or 16 (SSE, NEON).
    vector_registers
        Architectural vector registers: 32 or 16.
    fma
        Whether one instruction multiplies and adds vectors.
    features
        Sorted words of the instruction set, as LLVM spells them.
    l1_bytes, l2_bytes, l3_bytes
        Data caches as one core sees them; the last one may be shared.
    cores
        CPUs this process may use, by affinity and by container quota.
    memory_bytes
        Memory available when the machine was first looked at, container limit included.
    cpu, compiler
        Names of the compilation target and of the compiler. They tell machines apart in `fingerprint`;
        nothing is decided by them.
    facts
        How fast it is. Costs depend on it; stored decisions, being times themselves, do not.
    """

    vector_bytes: int
    vector_registers: int
    fma: bool
    features: tuple[str, ...] = ()
    l1_bytes: int = FALLBACK_CACHES[0]
    l2_bytes: int = FALLBACK_CACHES[1]
    l3_bytes: int = FALLBACK_CACHES[2]
    cores: int = 1
    memory_bytes: int = FALLBACK_MEMORY
    cpu: str = "unknown"
    compiler: str = ""
    facts: Facts = Facts()

    def lanes(self, dtype: npt.DTypeLike) -> int:
        """Return how many elements of `dtype` one vector register holds."""
        return self.vector_bytes // np.dtype(dtype).itemsize

    @property
    def fingerprint(self) -> str:
        """A short word that changes when timings from here stop being valid; not with cores or memory."""
        return _fingerprint(self)

    @staticmethod
    def host() -> Machine:
        """Return the machine that Numba compiles for in this process; looked at once."""
        return _host()

    @staticmethod
    def for_cpu(cpu: str, features: str = "") -> Machine:
        """Return this host with the instruction set of another CPU, by LLVM's name such as ``haswell``."""
        import llvmlite
        import numba

        evidence = _probe(cpu, features)
        wide, avx = "avx512f" in evidence, "avx2" in evidence and "fma" in evidence
        words = evidence | {word[1:] for word in features.split(",") if word.startswith("+")}
        l1, l2, l3 = _cache_sizes()
        return Machine(
            vector_bytes=64 if wide else 32 if avx else 16,
            vector_registers=32 if wide or _is_arm() else 16,
            fma="fma" in evidence or "neon" in evidence,
            features=tuple(sorted(words)),
            l1_bytes=l1,
            l2_bytes=l2,
            l3_bytes=l3,
            cores=available_cores(),
            memory_bytes=_available_memory(),
            cpu=cpu,
            compiler=f"numba {numba.__version__} llvmlite {llvmlite.__version__}",
            facts=Facts.typical(64 if wide else 32 if avx else 16, _highest_clock()),
        )

    @staticmethod
    def default_workspace_limit() -> int:
        """Return the bytes of scratch memory a call may use when nothing is said: at most 1 GiB."""
        return _default_workspace_limit()


def available_cores() -> int:
    """Return the CPUs this process may use now: affinity is asked every time, the container's quota once."""
    if hasattr(os, "sched_getaffinity"):
        visible = len(os.sched_getaffinity(0))
    else:
        visible = os.cpu_count() or 1
    return max(1, min(visible, _cpu_quota()))


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the CPUs this process may use, in order; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


@lru_cache(maxsize=1)
def _host() -> Machine:
    import llvmlite.binding as llvm
    from numba.core import codegen, config

    cpu = config.CPU_NAME or llvm.get_host_cpu_name()
    if config.CPU_FEATURES is not None:
        features = config.CPU_FEATURES
    elif config.CPU_NAME is not None:
        # Numba would add the host's features; whoever names an older CPU wants that CPU's vectors.
        features = ""
    else:
        features = codegen.get_host_cpu_features()
    machine = Machine.for_cpu(cpu, features)
    if "amx-bf16" in machine.features and not _matrix_unit_granted():
        usable = tuple(word for word in machine.features if not word.startswith("amx"))
        machine = replace(machine, features=usable)
    return machine


def _matrix_unit_granted() -> bool:
    """Ask the system for the use of the matrix registers, which Linux gives to processes that ask (once, for good).

    It refuses where a signal stack is too small for 8 KiB of registers more.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request_permission, tile_data)
    return answer == 0


@lru_cache(maxsize=1)
def _default_workspace_limit() -> int:
    # Without the compiler: a call that names its problem must not wait for the probe.
    return min(GIB, _available_memory() // 4)


@lru_cache(maxsize=64)
def _fingerprint(machine: Machine) -> str:
    facts = (
        machine.vector_bytes,
        machine.vector_registers,
        machine.fma,
        machine.features,
        machine.l1_bytes,
        machine.l2_bytes,
        machine.l3_bytes,
        machine.cpu,
        machine.compiler,
        sys.platform,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _is_arm() -> bool:
    return platform.machine().lower() in {"aarch64", "arm64"}


def _probe(cpu: str, features: str) -> frozenset[str]:
    """Return the words of the instruction set that show in code compiled for `cpu` (about 5 ms)."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features)
    assembly = target.emit_assembly(llvm.parse_assembly(_PROBE))
    evidence = _ARM_EVIDENCE if _is_arm() else _X86_EVIDENCE
    return frozenset(word for word, text in evidence.items() if text in assembly)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _cache_sizes() -> tuple[int, int, int]:
    found = _sysfs_caches() or _sysctl_caches() or {}
    l1, l2, l3 = (found.get(level, 0) for level in (1, 2, 3))
    l1 = l1 or FALLBACK_CACHES[0]
    l2 = l2 or FALLBACK_CACHES[1]
    # Machines without a third level do their sharing in the second.
    return l1, l2, l3 or max(l2, FALLBACK_CACHES[2])


def _sysfs_caches() -> dict[int, int]:
    if not sys.platform.startswith("linux"):
        return {}
    cpu = min(os.sched_getaffinity(0))
    found: dict[int, int] = {}
    for index in sorted((_CPUS / f"cpu{cpu}" / "cache").glob("index*")):
        level, size, kind = _read_int(index / "level"), _read(index / "size"), _read(index / "type")
        if level is not None and size is not None and kind != "Instruction":
            found[level] = _parse_size(size)
    return found


def _parse_size(text: str) -> int:
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text.rstrip("KMGkmg")
    return int(digits) * scale if digits.isdigit() else 0


def _sysctl_caches() -> dict[int, int]:
    if sys.platform != "darwin":
        return {}
    names = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}
    # perflevel0 are the fast cores; Intel Macs know only the plain names.
    return {level: _sysctl(f"hw.perflevel0.{name}") or _sysctl(f"hw.{name}") for level, name in names.items()}


def _sysctl(name: str) -> int:
    import ctypes

    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    libc = ctypes.CDLL(None)
    failed = libc.sysctlbyname(
        name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return 0 if failed else value.value


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, both versions, from the innermost to the root."""
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and controllers == "":
            roots = [_CGROUPS, _CGROUPS / "unified"]
        elif controller in controllers.split(","):
            roots = [_CGROUPS / controller, _CGROUPS / controllers]
        else:
            continue
        # Inside a container the path is the host's and may not exist here; the root then holds the limit.
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                folder = root.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield folder


@lru_cache(maxsize=1)
def _cpu_quota() -> int:
    """Return the CPUs that the container's time quota pays for, rounded up; a huge number without one."""
    quotas = [float("inf")]
    for folder in _cgroup_folders("cpu"):
        share, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
        words = (_read(folder / "cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            share, period = int(words[0]), int(words[1])
        if share and period and share > 0 and period > 0:
            quotas.append(share / period)
    quota = min(quotas)
    return sys.maxsize if math.isinf(quota) else max(1, math.ceil(quota))


def _highest_clock() -> float | None:
    """Return the highest clock of the first CPU in Hz, if the system tells; virtual machines rarely do."""
    kilohertz = _read_int(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq")
    return kilohertz * 1e3 if kilohertz and 1e5 <= kilohertz <= 1e8 else None


def _available_memory() -> int:
    return max(0, min([_system_memory(), *_cgroup_memory()]))


def _cgroup_memory() -> Iterator[int]:
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for folder in _cgroup_folders("memory"):
        for limit_name, used_name in names:
            limit, used = _read_int(folder / limit_name), _read_int(folder / used_name)
            if limit is not None and used is not None:
                yield limit - max(0, used - _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Return the bytes of file cache that a container gives back when it needs memory."""
    for line in (_read(folder / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key in {"inactive_file", "total_inactive_file"} and value.isdigit():
            return int(value)
    return 0


def _system_memory() -> int:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return FALLBACK_MEMORY
