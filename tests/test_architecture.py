"""The shape of the house, read from the syntax trees: who may import whom, and who may touch what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import fastconv
from fastconv.algorithms import registry

HOME = Path(fastconv.__file__).parent
#: Files by name in the package, without the suffix: "kernels/simd", "kernels/__init__".
FILES = {path.relative_to(HOME).with_suffix("").as_posix(): path for path in sorted(HOME.rglob("*.py"))}

#: Layers from the ground up. A file imports from lower layers and from its own folder, never up or sideways.
LAYERS = (
    ("problem", "machine"),
    ("arguments", "arrays"),
    ("kernels",),
    ("runtime",),
    ("algorithms",),
    ("planning",),
    ("api",),
    ("operators",),
    ("image", "nn", "viz", "compare"),
    ("console",),
    ("cli_workloads",),
    ("cli_compare", "cli_images"),
    ("cli",),
    ("__init__", "__main__"),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}

#: The files of kernels/ that write LLVM instructions.
EMITTERS = {f"kernels/{name}" for name in ("simd", "masks", "epilogue", "atomics", "peak", "transpose")} | {
    name for name in FILES if name.startswith("kernels/") and name.endswith("_tile")
}
#: Ask the compiler for its version, or for the target it compiles for.
KNOW_LLVM = EMITTERS | {"kernels/store", "machine"}

PROBES = {
    "cpu_count", "process_cpu_count", "sched_getaffinity", "sysconf", "getloadavg", "processor",
    "get_host_cpu_name", "get_host_cpu_features", "virtual_memory", "sysctlbyname",
}  # fmt: skip
PROBED_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/sys/")
COMPILERS = {"njit", "jit", "cfunc", "vectorize", "guvectorize", "stencil", "jit_module"}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def nodes(name: str) -> Iterator[ast.AST]:
    """Yield the syntax of a file without what only type checkers read."""
    waiting: list[ast.AST] = [tree(name)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def imports(name: str) -> set[str]:
    """Return the dotted names that a file imports, those inside functions too."""
    found = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """Return the files of ours that a file imports."""
    found = set()
    for dotted in imports(name):
        parts = dotted.split(".")
        if parts[0] != "fastconv":
            continue
        candidates = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        candidates = [file for path in candidates for file in (path, f"{path}/__init__")]
        found.add(next((file for file in candidates if file in FILES), "__init__"))
    return found


def layer(name: str) -> str:
    return name.split("/")[0]


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_layer(name: str) -> None:
    assert layer(name) in HEIGHT, f"say in LAYERS where {name} stands"


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    if name == "__init__":
        pytest.skip("it imports only when asked for a name")
    for other in own_imports(name):
        if other == "__init__" and HEIGHT[layer(name)] > HEIGHT["api"]:
            continue  # what stands above the public face may use it
        if layer(other) != layer(name):
            assert HEIGHT[layer(other)] < HEIGHT[layer(name)], (
                f"{name} imports {other}, which is not below it"
            )


def test_no_file_imports_itself_through_others() -> None:
    above: dict[str, set[str]] = {name: own_imports(name) - {name, "__init__"} for name in FILES}
    while free := [name for name, needs in above.items() if not needs & set(above)]:
        for name in free:
            del above[name]
    assert not above, f"these import each other in a circle: {sorted(above)}"


@pytest.mark.parametrize("name", FILES)
def test_vector_instructions_are_written_in_the_simd_files_only(name: str) -> None:
    used = {dotted for dotted in imports(name) if dotted.split(".")[0] == "llvmlite"}
    if name not in KNOW_LLVM:
        assert not used
    if name not in EMITTERS:
        assert not {dotted for dotted in used if dotted.startswith("llvmlite.ir")}


@pytest.mark.parametrize("name", FILES)
def test_only_machine_looks_at_the_host(name: str) -> None:
    if name == "machine":
        pytest.skip("this is the one")
    for node in nodes(name):
        if isinstance(node, ast.Attribute):
            assert node.attr not in PROBES, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom):
            assert not PROBES & {alias.name for alias in node.names}, f"line {node.lineno}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(PROBED_FILES), f"line {node.lineno}"


@pytest.mark.parametrize("name", FILES)
def test_only_jit_compiles(name: str) -> None:
    if name == "kernels/jit":
        pytest.skip("this is the one")
    assert not {dotted for dotted in imports(name) if dotted.split(".")[-1] in COMPILERS}
    for node in nodes(name):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "numba":
            assert node.attr not in COMPILERS, f"line {node.lineno}"


@pytest.mark.parametrize("name", FILES)
def test_no_code_is_made_from_text(name: str) -> None:
    for node in nodes(name):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("exec", "eval", "compile", "__import__"), f"line {node.lineno}"


def algorithm_files() -> dict[str, ast.Module]:
    """Return the files of algorithms/ that define one, as the registry finds them."""
    return {
        name: tree(name)
        for name in FILES
        if layer(name) == "algorithms"
        and any(
            isinstance(node, ast.Assign)
            and any(ast.unparse(target) == "ALGORITHM" for target in node.targets)
            for node in tree(name).body
        )
    }


def test_no_algorithm_imports_another() -> None:
    found = set(algorithm_files())
    assert len(found) == len(registry.all())
    for name in found:
        assert not own_imports(name) & found, name


def class_of(module: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)


def test_every_algorithm_answers_the_questions_in_the_same_order() -> None:
    def questions(body: list[ast.stmt]) -> list[str]:
        return [node.name for node in body if isinstance(node, ast.FunctionDef)]

    interface = class_of(tree("algorithms/interface"), "Algorithm")
    asked = questions(interface.body)
    for name, module in algorithm_files().items():
        last = module.body[-1]
        assert ast.unparse(last).startswith("ALGORITHM = "), f"{name} ends in ALGORITHM = TheClass()"
        made = ast.unparse(last).removeprefix("ALGORITHM = ").removesuffix("()")
        answered = [question for question in questions(class_of(module, made).body) if question in asked]
        assert answered == [question for question in asked if question in answered], name


@pytest.mark.parametrize("name", [name for name in FILES if layer(name) in ("planning", "api", "runtime")])
def test_nobody_above_or_below_names_an_algorithm(name: str) -> None:
    for node in nodes(name):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in registry.all(), f"line {node.lineno}"


@pytest.mark.parametrize("name", FILES)
def test_files_stay_small(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 450


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=HOME.parent
    )
    return done.stdout.strip()


def test_importing_loads_and_starts_nothing() -> None:
    loaded = in_a_new_process(
        "import sys, threading; before = set(sys.modules); import fastconv;"
        "new = set(sys.modules) - before;"
        "print(*sorted(m for m in new if m.partition('.')[0] not in sys.stdlib_module_names));"
        "print(threading.active_count(), fastconv.__version__)"
    )
    assert loaded.splitlines() == ["fastconv", f"1 {fastconv.__version__}"]


def test_problems_need_no_compiler() -> None:
    assert (
        in_a_new_process("import fastconv, sys; fastconv.Problem; print('numba' in sys.modules)") == "False"
    )


def test_public_names_are_there() -> None:
    assert set(fastconv.__all__) <= set(dir(fastconv))
    for name in fastconv.__all__:
        assert getattr(fastconv, name) is not None
    with pytest.raises(AttributeError, match="module 'fastconv' has no attribute 'convolve'"):
        fastconv.convolve  # noqa: B018


def test_public_names_are_typed_as_they_are_loaded() -> None:
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree("__init__"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module is not None and node.module.startswith("fastconv")
    }
    assert typed == fastconv._HOME
