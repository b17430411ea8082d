"""Reading what others wrote: every value is asked for by name and kind, and refused with its place."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MOST_TEXT = 4000
MOST_KEYS = 500
MOST_WHOLE = 1 << 53


class _Required:
    """Stands for "no default"."""


REQUIRED: Any = _Required()


def clean(text: str) -> str:
    r"""Return `text` with every character that is no sign replaced: controls, surrogates, writing directions.

    Examples
    --------
    >>> clean("conv\x00\x1b[1m")
    'conv\ufffd\ufffd[1m'
    """
    return "".join("\ufffd" if unicodedata.category(sign).startswith("C") else sign for sign in text)


@dataclass(frozen=True, slots=True)
class Place:
    """A value of a document and where it stands in it."""

    value: Any
    where: str

    def _refused(self, key: str, rule: str, value: object) -> ValueError:
        kind = type(value).__name__
        shown = clean(repr(value)[:60]) if isinstance(value, int | float | str) else kind
        return ValueError(f"{self.where}.{key} must be {rule}, got {shown}")

    def get(self, key: str, default: Any) -> Any:
        """Return the value of `key`; null and absent are the same."""
        if not isinstance(self.value, dict):
            raise ValueError(f"{self.where} must be an object, got {type(self.value).__name__}")
        found = self.value.get(key)
        if found is None:
            if default is REQUIRED:
                raise ValueError(f"{self.where}.{key} is missing")
            return default
        return found

    def inside(self, key: str) -> Place:
        """Return an object in this object."""
        return Place(self.get(key, REQUIRED), f"{self.where}.{key}")

    def text(self, key: str, default: Any = REQUIRED) -> str:
        """Return a text of a reasonable length, without control characters."""
        found = self.get(key, default)
        if not isinstance(found, str) or len(found) > MOST_TEXT:
            raise self._refused(key, f"text of at most {MOST_TEXT} characters", found)
        return clean(found)

    def one_of(self, key: str, words: Sequence[str]) -> str:
        """Return one of `words`."""
        found = self.text(key)
        if found not in words:
            raise self._refused(key, f"one of {', '.join(words)}", found)
        return found

    def number(self, key: str, default: Any = REQUIRED, most: float = 1e300) -> float:
        """Return a finite number from 0 to `most`."""
        found = self.get(key, default)
        if found is default and default is not REQUIRED:
            return float(default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
            raise self._refused(key, f"a number from 0 to {most:g}", found)
        return float(found)

    def whole(self, key: str, default: Any = REQUIRED, least: int = 0, most: int = MOST_WHOLE) -> int:
        """Return a whole number from `least` to `most`."""
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise self._refused(key, f"a whole number from {least} to {most}", found)
        return found

    def numbers(self, key: str, longest: int, most: float) -> tuple[float, ...]:
        """Return a list of numbers above 0; an absent one is empty."""
        found = self.get(key, [])
        if not isinstance(found, list) or len(found) > longest:
            raise self._refused(key, f"a list of at most {longest} numbers", found)
        for value in found:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
                raise self._refused(key, f"numbers above 0 up to {most:g}", value)
        return tuple(float(value) for value in found)

    def texts(self, key: str) -> dict[str, str]:
        """Return an object of plain values as texts; an absent one is empty, nested values are left out."""
        found = self.get(key, {})
        if not isinstance(found, dict) or len(found) > MOST_KEYS:
            raise self._refused(key, f"an object with at most {MOST_KEYS} keys", found)
        plain = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
        return {clean(name[:MOST_TEXT]): clean(_plain(value)[:MOST_TEXT]) for name, value in plain.items()}

    def items(self, key: str, longest: int) -> Iterator[Place]:
        """Yield the places of a list."""
        found = self.get(key, REQUIRED)
        if not isinstance(found, list) or len(found) > longest:
            raise self._refused(key, f"a list of at most {longest}", found)
        for number, value in enumerate(found):
            yield Place(value, f"{self.where}.{key}[{number}]")


def _plain(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value}" if isinstance(value, int) or math.isfinite(value) else "not finite"
