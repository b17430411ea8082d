"""Runs kernels: how many threads, which executor, whose scratch memory. The only part that starts threads.

Read `launcher.run` first; the drain loop itself is compiled code in `kernels.drain`.
"""

from fastconv.runtime.launcher import compile_ahead, run
from fastconv.runtime.threads import effective_threads, get_num_threads, set_num_threads
from fastconv.runtime.work import Work
from fastconv.runtime.workspace import clear_workspaces, workspace_bytes

__all__ = [
    "Work",
    "clear_workspaces",
    "compile_ahead",
    "effective_threads",
    "get_num_threads",
    "run",
    "set_num_threads",
    "workspace_bytes",
]
