"""Where machine code waits between processes: one checked file per compiled function, in a private directory.

Numba's own disk cache trusts what it must not: it does not notice an edited helper in another file, mixes
up two functions that differ only in their flags, and lets a truncated file surface as an exception in user
code. Here the directory is named after everything that shapes the code (all kernel sources, the versions of
Python, Numba and llvmlite, Numba's code flags), the file after the function (its byte code, constants,
closure, flags, CPU), and the content carries its own checksum. Whatever is wrong with a file means one
thing: compile again.

The content is a pickle, so whoever can write the directory can run code as you. It is created for its owner
alone, and a directory or file of somebody else is not read.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import sys
import uuid
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import llvmlite
import numba
import platformdirs
from numba.core import config, serialize
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys

PACKAGE = Path(__file__).resolve().parent.parent
#: Folders whose sources make machine code; each of their files is part of the name of the directory.
SOURCES = ("kernels", "algorithms", "operators")
#: How many directories of other versions are left alone when a new one is created.
KEPT_VERSIONS = 16
_MAGIC = b"fastconv kernel 1\n"
_DIGEST_BYTES = 32
#: Numba's settings that change the code of a function and are no part of a target's own name.
_CODE_FLAGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "ENABLE_AVX",
    "DISABLE_INTEL_SVML",
)


def disk_cache_wanted() -> bool:
    """Tell whether the user left the disk cache on (``FASTCONV_NO_JIT_CACHE``)."""
    return os.environ.get("FASTCONV_NO_JIT_CACHE", "0") in ("", "0")


def cache_root() -> Path:
    """Return the folder of all versions: in ``FASTCONV_CACHE_DIR``, else in the user's cache folder."""
    chosen = os.environ.get("FASTCONV_CACHE_DIR")
    root = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("fastconv")
    if not root.is_absolute() and not chosen:
        raise OSError("this user has no home directory")
    return root.absolute() / "kernels"


def source_digest() -> str:
    """Return the hash of every source file that makes machine code, as the files are now."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


try:
    # Taken when the first kernel module is imported: sources edited later belong to another process.
    _DIGEST_AT_IMPORT: str | None = source_digest()
except OSError:
    _DIGEST_AT_IMPORT = None


def sources_word() -> str:
    """Return a short word that changes with the sources of machine code: what was timed is not what runs then."""
    return (_DIGEST_AT_IMPORT or "unknown")[:8]


def version_directory() -> Path:
    """Return the folder for the kernels of exactly these sources, this Python, this Numba and these flags."""
    flags = [f"{name}={getattr(config, name, None)}" for name in _CODE_FLAGS]
    words = [_DIGEST_AT_IMPORT, sys.version, sys.platform, numba.__version__, llvmlite.__version__, *flags]
    return cache_root() / hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()[:24]


class KernelStore(_Cache):
    """The disk cache of one compiled function, put in the place of Numba's.

    Parameters
    ----------
    function : FunctionType
        The Python function; its qualified name must say which variant it is.
    flags : str
        The compiler flags it is compiled with.
    """

    def __init__(self, function: FunctionType, flags: str) -> None:
        self._function = function
        self._flags = flags
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(version_directory())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Nothing to do: files are replaced one by one."""

    def load_overload(self, sig: object, target_context: Any) -> Any:
        """Return the stored result, or None when there is none that can be trusted."""
        try:
            path = self._path(sig, target_context.codegen())
            payload = _read(path) if path else None
            if payload is None:
                return None
            # Before it loads any code, Numba fills all its type registries: 0.2 s that machine code has no
            # use for. All it can need is Numba's own runtime, if the names of its symbols say so (parallel
            # regions, code that is not optimized).
            if b"NRT_" in payload:
                rtsys.initialize(target_context)
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception as error:
            _warn(f"a stored kernel cannot be loaded and is compiled again ({_text(error)})")
            return None

    def save_overload(self, sig: object, data: Any) -> None:
        """Store a result; a failure costs the next process a compilation and nobody an exception."""
        try:
            path = self._path(sig, data.codegen)
            if path is None or data.library.has_dynamic_globals or source_digest() != _DIGEST_AT_IMPORT:
                return
            _write(path, serialize.dumps(data._reduce()))
        except Exception as error:
            _warn(
                f"a kernel cannot be stored and will be compiled again by the next process ({_text(error)})"
            )

    def _path(self, sig: object, codegen: Any) -> Path | None:
        if not (self._enabled and disk_cache_wanted() and _DIGEST_AT_IMPORT):
            return None
        source = _foreign_source(self._function.__code__.co_filename)
        if source is None:
            return None
        cells = [repr(cell.cell_contents) for cell in self._function.__closure__ or ()]
        words = [
            self._function.__module__,
            self._flags,
            str(sig),
            repr(codegen.magic_tuple()),
            source,
            *cells,
        ]
        words += _code_words(self._function.__code__)
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]
        directory = version_directory()
        return directory / f"{self._function.__name__[:80]}-{digest}.bin" if _is_ours(directory) else None


def _code_words(code: CodeType) -> Iterator[str]:
    yield from (code.co_code.hex(), repr(code.co_names), repr(code.co_varnames), repr(code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_words(constant)
        else:
            yield f"{type(constant).__name__} {constant!r}"


@lru_cache(maxsize=256)
def _foreign_source(filename: str) -> str | None:
    """Return the hash of a source outside the hashed folders, "" inside them, None without a file."""
    path = Path(filename)
    try:
        if path.resolve().relative_to(PACKAGE).parts[0] in SOURCES:
            return ""
    except ValueError:
        pass
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@lru_cache(maxsize=8)
def _is_ours(directory: Path) -> bool:
    """Create `directory` for its owner alone; tell whether nobody else can write to it."""
    new = not directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "geteuid"):
        status = directory.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            _warn(f"{directory} can be written by others; kernels are compiled in every process instead")
            return False
    if new:
        _prune(directory)
    return True


def _prune(newest: Path) -> None:
    others = [path for path in newest.parent.iterdir() if path.is_dir() and path != newest]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_VERSIONS:]:
        shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to another user")
            content = file.read()
    except FileNotFoundError:
        return None
    head = len(_MAGIC) + _DIGEST_BYTES
    payload = content[head:]
    if content[:head] != _MAGIC + hashlib.sha256(payload).digest():
        raise ValueError(f"{path} is damaged")
    return payload


def _write(path: Path, payload: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=1)
def _warned() -> list[str]:
    return []


def _warn(message: str) -> None:
    """Say it once per process: a broken cache is an inconvenience, not news at every call."""
    if not _warned():
        _warned().append(message)
        warnings.warn(f"fastconv: {message}", RuntimeWarning, stacklevel=2)
