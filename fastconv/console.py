"""What every command shares: where it prints, how it shows progress, how it ends when the user made a mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Width of tables that go to a file or a pipe.
PIPE_WIDTH = 160

T = TypeVar("T")


def consoles() -> tuple[Console, Console]:
    """Return where results go and where progress goes, so that a pipe holds results only."""
    out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    return out, Console(stderr=True, highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar that only a terminal sees, and that is gone in the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def usage(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `function`; what it refuses is the user's to mend: exit code 2 and no traceback."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from None
