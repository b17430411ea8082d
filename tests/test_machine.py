"""The machine as a value: what the probe finds under other targets, what containers and cgroups allow."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from fastconv import machine as module
from fastconv.machine import GIB, Machine, available_cores

X86 = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64", reason="x86-64"
)


def test_host_is_consistent() -> None:
    host = Machine.host()
    assert host is Machine.host()
    assert host.vector_bytes in (16, 32, 64)
    assert host.vector_registers in (16, 32)
    assert host.lanes("float32") * 4 == host.lanes("float64") * 8 == host.vector_bytes
    assert 8 << 10 <= host.l1_bytes <= host.l2_bytes <= host.l3_bytes
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert 0 < Machine.default_workspace_limit() <= GIB


def test_it_is_a_value() -> None:
    tiny = Machine(vector_bytes=16, vector_registers=16, fma=False)
    assert tiny == replace(tiny) and hash(tiny) == hash(replace(tiny))
    with pytest.raises(FrozenInstanceError):
        tiny.fma = True  # type: ignore[misc]


@X86
@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [
        ("skylake-avx512", "", (64, 32, True)),
        ("znver4", "", (64, 32, True)),
        ("skylake-avx512", "-avx512f", (32, 16, True)),
        ("haswell", "", (32, 16, True)),
        ("x86-64-v3", "", (32, 16, True)),
        # AVX without FMA: its wide vectors would need two instructions per product.
        ("sandybridge", "", (16, 16, False)),
        ("x86-64", "", (16, 16, False)),
        ("generic", "", (16, 16, False)),
        ("x86-64", "+avx2,+fma", (32, 16, True)),
    ],
)
def test_vectors_of_named_cpus(cpu: str, features: str, expected: tuple[int, int, bool]) -> None:
    found = Machine.for_cpu(cpu, features)
    assert (found.vector_bytes, found.vector_registers, found.fma) == expected


@X86
def test_features_are_those_that_were_seen_and_asked_for() -> None:
    assert Machine.for_cpu("haswell").features == ("avx2", "f16c", "fma")
    assert "amx-bf16" in Machine.for_cpu("x86-64-v4", "+amx-bf16,+amx-tile").features


@X86
@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NUMBA_CPU_NAME": "haswell"}, "32 16 True"),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, "32 16 True"),
        ({"NUMBA_CPU_NAME": "generic"}, "16 16 False"),
    ],
)
def test_numbas_environment_is_honoured(environment: dict[str, str], expected: str) -> None:
    code = "from fastconv import Machine as M; m = M.host(); print(m.vector_bytes, m.vector_registers, m.fma)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_importing_the_module_loads_no_compiler() -> None:
    code = "import sys, fastconv.machine; print(any(name in sys.modules for name in ('numba', 'llvmlite')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_fingerprint_follows_what_changes_timings_only() -> None:
    host = Machine.host()
    assert host.fingerprint == replace(host, cores=host.cores + 1, memory_bytes=1).fingerprint
    changes = (
        {"vector_bytes": 128},
        {"l2_bytes": 1},
        {"features": ()},
        {"cpu": "other"},
        {"compiler": "other"},
    )
    words = {replace(host, **change).fingerprint for change in changes}
    assert len(words | {host.fingerprint}) == len(changes) + 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits_the_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def _cgroups(monkeypatch: pytest.MonkeyPatch, root: Path, lines: str, files: dict[str, str]) -> None:
    """Put a container's control groups, as `files` below `root`, in the place of the system's."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    real = module._read
    monkeypatch.setattr(module, "_CGROUPS", root)
    monkeypatch.setattr(
        module, "_read", lambda path: lines if str(path) == "/proc/self/cgroup" else real(path)
    )


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, sys.maxsize),
        ("0::/outer/inner", {"outer/cpu.max": "300000 100000", "outer/inner/cpu.max": "max 100000"}, 3),
        ("0::/of/the/host", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "-1", "cpu/x": ""}, sys.maxsize),
        (
            "4:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("nonsense", {"cpu.max": "1 1"}, sys.maxsize),
        ("0::/", {"cpu.max": "garbage"}, sys.maxsize),
    ],
)
def test_container_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, files: dict[str, str], cores: int
) -> None:
    _cgroups(monkeypatch, tmp_path, lines, files)
    assert module._cpu_quota.__wrapped__() == cores


@pytest.mark.parametrize(
    ("lines", "files", "available"),
    [
        ("0::/", {"memory.max": "4000", "memory.current": "1000"}, 3000),
        ("0::/", {"memory.max": "max", "memory.current": "1000"}, None),
        (
            "0::/",
            {"memory.max": "4000", "memory.current": "3000", "memory.stat": "anon 1\ninactive_file 500"},
            1500,
        ),
        ("0::/", {"memory.max": "4000", "memory.current": "9000"}, 0),
        (
            "7:memory:/job",
            {"memory/job/memory.limit_in_bytes": "5000", "memory/job/memory.usage_in_bytes": "1000"},
            4000,
        ),
    ],
)
def test_container_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, files: dict[str, str], available: int | None
) -> None:
    system = module._system_memory()
    _cgroups(monkeypatch, tmp_path, lines, files)
    monkeypatch.setattr(module, "_system_memory", lambda: system)
    assert module._available_memory() == (system if available is None else available)


def test_unreadable_system_files_leave_sane_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_read", lambda path: None)
    monkeypatch.setattr(module, "_CPUS", Path("nowhere"))
    assert module._cpu_quota.__wrapped__() == sys.maxsize
    assert module._available_memory() > 0
    if sys.platform != "darwin":
        assert module._cache_sizes() == module.FALLBACK_CACHES


@pytest.mark.parametrize(
    ("text", "size"), [("48K", 48 << 10), ("2M", 2 << 20), ("512", 512), ("x", 0), ("", 0)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert module._parse_size(text) == size
