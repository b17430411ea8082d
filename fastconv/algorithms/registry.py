"""Which algorithms there are: every file of this folder that ends in ``ALGORITHM = TheClass()``.

Looking them up imports their files, and so Numba; nothing does it before the first plan is made.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import fastconv.algorithms as folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastconv.algorithms.interface import AnyAlgorithm

#: Takes everything and is slow; the last to be asked.
LAST = "reference"


@cache
def all() -> Mapping[str, AnyAlgorithm]:  # read as registry.all()
    """Return name -> algorithm in the order in which equal costs are decided: by name, the reference last."""
    modules = (
        importlib.import_module(f"{folder.__name__}.{file.name}")
        for file in pkgutil.iter_modules(folder.__path__)
    )
    found = [module.ALGORITHM for module in modules if hasattr(module, "ALGORITHM")]
    found.sort(key=lambda algorithm: (algorithm.name == LAST, algorithm.name))
    return MappingProxyType({algorithm.name: algorithm for algorithm in found})


def list_algorithms() -> dict[str, str]:
    """Return the names that ``algorithm=`` takes beside "auto", each with one line on what it is and when it wins.

    ``fastconv.algorithms`` is the package that holds them, one file each; a name cannot be both.

    Examples
    --------
    >>> import fastconv
    >>> "direct" in fastconv.list_algorithms()
    True
    """
    return {name: algorithm.summary for name, algorithm in all().items()}


def get(name: object) -> AnyAlgorithm:
    """Return the algorithm of that name.

    Raises
    ------
    TypeError
        When `name` is no string.
    ValueError
        Listing the names there are.
    """
    if not isinstance(name, str):
        raise TypeError(f"algorithm must be 'auto' or a name, got {type(name).__name__} {name!r}")
    if name not in all():
        raise ValueError(f"algorithm must be one of 'auto', {', '.join(map(repr, all()))}, got {name!r}")
    return all()[name]
