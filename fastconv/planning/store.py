"""Small JSON files that processes share: what is read may be damaged or hostile, what is written may not fit.

A file is written under another name and renamed, so a reader sees the old or the new one. Nothing is executed or
unpickled. The folder is ``FASTCONV_DECISIONS_DIR``, else one in the user's data folder;
``FASTCONV_DECISIONS_READONLY=1`` keeps it as it is.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import platformdirs

SCHEMA = 1
#: A file is a few kilobytes; what is longer than this is not one of ours.
MOST_BYTES = 1 << 20
#: What damage looks like to those who read.
DAMAGE = (OSError, RuntimeError, ValueError, RecursionError)


def root() -> Path:
    """Return the folder of all machines; it need not exist."""
    chosen = os.environ.get("FASTCONV_DECISIONS_DIR")
    found = Path(chosen) if chosen else platformdirs.user_data_path("fastconv", appauthor=False) / "decisions"
    return found.absolute()


def read_only() -> bool:
    """Tell whether the user wants the folder left as it is."""
    return os.environ.get("FASTCONV_DECISIONS_READONLY", "0") not in ("", "0")


def read(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file of this schema.

    Raises
    ------
    OSError, RuntimeError, ValueError, RecursionError
        When it cannot be read; FileNotFoundError when there is none.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    require(len(data) <= MOST_BYTES, f"is longer than {MOST_BYTES} bytes")
    return parse(data.decode("utf-8"))


def parse(text: str) -> dict[str, Any]:
    """Return the JSON object of this schema in `text`; raises ValueError and RecursionError."""
    value = json.loads(text, parse_constant=_no_constant)
    require(isinstance(value, dict) and value.get("schema") == SCHEMA, f"schema must be {SCHEMA}")
    found: dict[str, Any] = value
    return found


def write(path: Path, value: dict[str, Any]) -> None:
    """Write an object, with the schema, in place of what the file held; raises OSError and RuntimeError."""
    text = json.dumps({"schema": SCHEMA, **value}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def require(holds: bool, rule: str) -> None:
    """Raise a ValueError that names the rule unless it holds."""
    if not holds:
        raise ValueError(rule)


def number(value: object, least: float, most: float) -> bool:
    """Tell whether a parsed value is a number in that range; whole numbers beyond floats and NaN are in none."""
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]


_warned: set[str] = set()


def warn(message: str) -> None:
    """Warn once per kind of message, which is what stands before the bracket: much damage is one piece of news."""
    kind = message.split("(")[0]
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")
