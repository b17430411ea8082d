"""The disk cache of kernels: never stale, never trusted, never in the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PACKAGE = Path(fastconv.__file__).parent

FACTORY = """
from fastconv.kernels.atomics import plain_load, plain_store
from fastconv.kernels.jit import task_factory
from fastconv.kernels.helper_of_tests import value

@task_factory
def fill(first: int, word: str):
    def task(ctx, i, scratch):
        plain_store(plain_load(ctx + 8) + 8 * i, value(i) + first)
    return task
"""
HELPER = """
from fastconv.kernels.jit import device

@device
def value(i):
    return {0} * i
"""
PROGRAM = """
import json, numpy as np
from fastconv.algorithms.factory_of_tests import fill
from fastconv.runtime import Work, run
found = {}
for first, word in ((1, "a"), (2, "a"), (1, "b")):
    kernel = fill(first, word)
    y = np.zeros(4, np.int64)
    run(Work(kernel, np.zeros(3, np.int64), 4, 0, 0.0), 0, y.ctypes.data, 0, 1)
    found[kernel.name] = [y.tolist(), kernel._compiled.cache_hits]
print(json.dumps(found))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package, to edit, with a helper in one file and a kernel that uses it in another."""
    copy = tmp_path / "site" / "fastconv"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "compare", "algorithms"))
    (copy / "algorithms").mkdir()
    (copy / "algorithms" / "__init__.py").write_text("")
    (copy / "algorithms" / "factory_of_tests.py").write_text(FACTORY)
    (copy / "kernels" / "helper_of_tests.py").write_text(HELPER.format(10))
    return tmp_path


def command(code: str) -> list[str]:
    return [sys.executable, "-W", "always", "-c", code]


def environment(tree: Path, **words: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "FASTCONV_"))}
    return {**kept, "PYTHONPATH": str(tree / "site"), "FASTCONV_CACHE_DIR": str(tree / "cache"), **words}


def check(tree: Path, *, hits: int | None, factor: int = 10, warnings: int = 0, **words: str) -> str:
    """Run the program in a process of its own; compare values, hits and the number of warnings."""
    code = words.pop("code", "") + PROGRAM
    done = subprocess.run(
        command(code), env=environment(tree, **words), capture_output=True, text=True, timeout=60, cwd=tree
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    right = {"fill_1_a": 1, "fill_2_a": 2, "fill_1_b": 1}
    assert {name: values for name, (values, _) in found.items()} == {
        name: [first + factor * i for i in range(4)] for name, first in right.items()
    }
    if hits is not None:
        assert sum(hit for _, hit in found.values()) == hits
    assert len(re.findall("RuntimeWarning: fastconv", done.stderr)) == warnings, done.stderr
    return done.stderr


def stored(tree: Path) -> list[Path]:
    return sorted((tree / "cache").rglob("*.bin"))


def test_second_process_loads_and_an_edited_helper_is_noticed(tree: Path) -> None:
    check(tree, hits=0)
    assert len(stored(tree)) == 4  # three kernels and the serial loop
    assert stored(tree)[0].parent.stat().st_mode & 0o777 == 0o700
    check(tree, hits=3)
    (tree / "site" / "fastconv" / "kernels" / "helper_of_tests.py").write_text(HELPER.format(20))
    check(tree, hits=0, factor=20)
    (tree / "site" / "fastconv" / "kernels" / "helper_of_tests.py").write_text(HELPER.format(10))
    check(tree, hits=3)


def test_damaged_files_are_compiled_again_with_one_warning(tree: Path) -> None:
    check(tree, hits=0)
    files = stored(tree)
    whole = [path.read_bytes() for path in files]
    damages = (
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b"more",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    )
    for path, content, damage in zip(files, whole, damages, strict=True):
        path.write_bytes(damage(content))
    check(tree, hits=0, warnings=1)
    check(tree, hits=3)  # repaired


def test_content_of_another_kind_is_compiled_again(tree: Path) -> None:
    check(tree, hits=0)
    forge = (
        "import pickle, sys, hashlib, pathlib\n"
        "from fastconv.kernels import store\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    store._write(path, pickle.dumps([1, 2, 3]))\n"
    )
    files = [str(path) for path in stored(tree)]
    subprocess.run([*command(forge), *files], env=environment(tree), check=True, timeout=60, cwd=tree)
    check(tree, hits=0, warnings=1)
    check(tree, hits=3)


def test_processes_that_race_agree(tree: Path) -> None:
    racing = [
        subprocess.Popen(
            command(PROGRAM), env=environment(tree), cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in racing]
    assert [process.returncode for process in racing] == [0] * 3, answers
    values = [{name: cell[0] for name, cell in json.loads(out).items()} for out, _ in answers]
    assert all(value == values[0] for value in values)
    check(tree, hits=3)
    assert not list((tree / "cache").rglob("*.tmp"))


@pytest.mark.parametrize(
    "setting",
    [{"NUMBA_OPT": "1"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}],
    ids=lambda setting: next(iter(setting)),
)
def test_other_flags_and_other_cpus_have_kernels_of_their_own(tree: Path, setting: dict[str, str]) -> None:
    check(tree, hits=0)
    check(tree, hits=0, **setting)
    check(tree, hits=3, **setting)
    check(tree, hits=3)


def test_switched_off(tree: Path) -> None:
    check(tree, hits=0, FASTCONV_NO_JIT_CACHE="1")
    assert not (tree / "cache").exists()


def test_unusable_places_cost_one_warning_and_nothing_else(tree: Path) -> None:
    blocked = tree / "file"
    blocked.write_text("not a directory")
    assert "Error" in check(tree, hits=0, warnings=1, FASTCONV_CACHE_DIR=str(blocked))
    full = "import os\ndef full(*_, **__):\n    raise OSError(28, 'No space left')\nos.fdopen = full\n"
    assert "No space left" in check(tree, hits=0, warnings=1, code=full)
    assert stored(tree) == []
    assert not list((tree / "cache").rglob("*.tmp"))
    homeless = (
        "import pathlib, platformdirs as p\np.user_cache_path = lambda name: pathlib.Path('~/.cache')\n"
    )
    assert "home" in check(tree, hits=0, warnings=1, code=homeless, FASTCONV_CACHE_DIR="")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are a matter of POSIX")
def test_what_others_can_write_is_not_read(tree: Path) -> None:
    check(tree, hits=0)
    check(tree, hits=0, warnings=1, code="import os\nos.geteuid = lambda: 12345\n")
    directory = stored(tree)[0].parent
    directory.chmod(0o777)
    check(tree, hits=0, warnings=1)
    directory.chmod(0o700)
    check(tree, hits=3)


def test_old_versions_are_pruned_when_a_new_one_comes(tree: Path) -> None:
    for number in range(40):
        (tree / "cache" / "kernels" / f"old{number}").mkdir(parents=True)
    check(tree, hits=0)
    assert len(list((tree / "cache" / "kernels").iterdir())) == 17


def test_sources_edited_under_a_running_process_are_not_stored_for_the_next(tree: Path) -> None:
    helper = tree / "site" / "fastconv" / "kernels" / "helper_of_tests.py"
    edit = (
        "import fastconv.algorithms.factory_of_tests, pathlib\n"
        f"pathlib.Path({str(helper)!r}).write_text({HELPER.format(30)!r})\n"
    )
    check(tree, hits=0, code=edit)
    assert stored(tree) == []
    check(tree, hits=0, factor=30)


def test_without_the_compiler_the_first_use_says_so(tree: Path) -> None:
    code = "import fastconv, fastconv.algorithms.factory_of_tests as f\nf.fill(1, 'a').address"
    done = subprocess.run(
        command(code),
        env=environment(tree, NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tree,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: fastconv needs Numba's compiler: unset NUMBA_DISABLE_JIT"
    )


def test_import_starts_and_compiles_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\n"
        "before = dict(os.environ), len(threading.enumerate())\n"
        "import fastconv\n"
        "assert before == (dict(os.environ), len(threading.enumerate()))\n"
        "assert not {'numba', 'llvmlite', 'fastconv.kernels'} & set(sys.modules)\n"
    )
    words = {**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], env=words, check=True, timeout=60)
    assert not (tmp_path / "cache").exists()


def test_factories_remember_and_name_their_kernels() -> None:
    from fastconv.kernels.jit import task_factory

    @task_factory
    def nothing(count: int, scale: float = 0.5, word: str = "a_b"):  # type: ignore[no-untyped-def]
        def task(ctx: int, i: int, scratch: int) -> None:
            pass

        return task

    assert nothing(1) is nothing(count=1, scale=0.5)
    names = [
        nothing(*words).name for words in ((1,), (-1,), (1, 0.25), (1, 0.5, "a"), (1, 0.5, "1"), (True,))
    ]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    with pytest.raises(TypeError, match="constants of kernels are int, float or str"):
        nothing(None)
    assert "nothing_1_0p5_a" in nothing(1, 0.5, "a").asm()


WARMUP = """
import sys, numpy as np, fastconv
from fastconv.kernels import jit
from fastconv.planning.warmup import warmup
from fastconv.problem import Problem
words = ["n1c8h20w20_o16k3x3_s1p1d1g1_nchw_f32", "n0c8h20w20_o16k1x1_s1p0d1g1_nchw_f32_bias"]
seen = []
warmup([words[0], Problem.parse(words[1])], progress=lambda done, total: seen.append((done, total)))
assert seen == [(0, 2), (1, 2), (2, 2)]
kernels = jit.compiled()
x = np.ones((1, 8, 20, 20), np.float32)
fastconv.conv2d(x, np.ones((16, 8, 3, 3), np.float32), padding=1, threads=1)
fastconv.conv2d(x, np.ones((16, 8, 1, 1), np.float32), np.ones(16, np.float32), threads=1)
assert kernels and jit.compiled() == kernels
try:
    warmup(["not a problem"])
except ValueError:
    pass
else:
    sys.exit("accepted nonsense")
"""


def test_warmup_compiles_what_later_calls_need(tmp_path: Path) -> None:
    words = {**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", WARMUP], env=words, check=True, timeout=120)
    assert list(tmp_path.rglob("*.bin"))
