"""No way of calling from threads, forks and processes aborts, hangs or changes a bit; each runs in a child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LIMIT_SECONDS = 100

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a matter of POSIX")

#: Numba's layer as the user has it, and what makes it so.
LAYERS = {
    "omp": {"NUMBA_THREADING_LAYER": "omp"},
    "tbb": {"NUMBA_THREADING_LAYER": "tbb"},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
    "no libgomp": {"BLOCK_LIBGOMP": "omppool,tbbpool"},
}
IN_ONE_PROCESS = ("main_thread", "ten_threads", "users_prange", "after_users_region")
FORKS = ("fork", "fork_of_fork", "fork_while_others_compute", "multiprocessing_fork", "futures")
NEW_PROCESSES = ("forkserver", "spawn", "joblib")


def scenarios(*names: str, **words: str) -> list[str]:
    """Run scenarios in a child process; return what it printed, or fail with what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "FASTCONV_EXECUTOR"))}
    # Two threads even where there is one core, so that the machine is not what decides.
    environment |= {
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": str(HERE.parent),
        "PYTHONWARNINGS": "ignore",
    } | words
    process = subprocess.Popen(
        [sys.executable, str(HERE / "scenarios_of_processes.py"), *names],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"hangs after {out.split()}: {err[-2000:]}")
    assert process.returncode == 0, f"exit code {process.returncode} after {out.split()}: {err[-3000:]}"
    done = out.splitlines()
    assert [line for line in done if not line.startswith("layer")] == list(names)
    return done


def has_tbb() -> bool:
    code = "import numba; numba.get_num_threads()"
    environment = {**os.environ, **LAYERS["tbb"]}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


@pytest.fixture(params=LAYERS, scope="module")
def layer(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "tbb" and not has_tbb():
        pytest.skip("Numba finds no TBB here")
    return LAYERS[request.param]


@pytest.mark.parametrize("handler", [{}, {"HANDLE_SIGTERM": "1"}], ids=["plain", "sigterm-handler"])
@pytest.mark.parametrize("executor", ["pool", "numba"])
def test_threads_and_forks(layer: dict[str, str], executor: str, handler: dict[str, str]) -> None:
    scenarios(*IN_ONE_PROCESS, *FORKS, FASTCONV_EXECUTOR=executor, **layer, **handler)


@pytest.mark.parametrize(
    ("executor", "handler"),
    [("pool", {"HANDLE_SIGTERM": "1"}), ("numba", {})],
    ids=["pool-sigterm-handler", "numba-plain"],
)
def test_new_processes(executor: str, handler: dict[str, str]) -> None:
    scenarios("main_thread", "after_users_region", *NEW_PROCESSES, FASTCONV_EXECUTOR=executor, **handler)


def test_a_fork_before_the_first_call_is_noticed() -> None:
    """The child imports the library after its parent has used OpenMP, and still stays out of it."""
    code = (
        "import os, numba, numpy as np\n"
        "@numba.njit(parallel=True)\n"
        "def region(x):\n"
        "    for i in numba.prange(x.size):\n"
        "        x[i] += 1\n"
        "region(np.zeros(100))\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0)\n"
        "import scenarios_of_processes as s\n"
        "os._exit(not s.right())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
        "FASTCONV_EXECUTOR": "numba",
    }
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=LIMIT_SECONDS)


def test_processes_end_cleanly_however_they_use_threads() -> None:
    code = (
        "import sys, threading, scenarios_of_processes as s\n"
        "s.digest(2)\n"
        "if len(sys.argv) > 1:\n"
        "    threading.Thread(target=s.right, daemon=True).start()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    for words in ([], ["daemon"]) * 3:
        subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, check=True, timeout=LIMIT_SECONDS
        )
