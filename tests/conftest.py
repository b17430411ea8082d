"""What every test file shares: helpers beside the tests can be imported, hypothesis draws the same cases every time."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Deadlines are wall-clock assertions, and the first example of each kernel compiles it.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_decisions_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep stored decisions of this machine away from tests, and those of tests away from the machine.

    Estimates are by typical rates: a second to measure them is too long for every test that tunes.
    """
    place = tmp_path_factory.getbasetemp() / "decisions" / str(next(_numbers))
    monkeypatch.setenv("FASTCONV_DECISIONS_DIR", str(place))
    monkeypatch.setenv("FASTCONV_FACTS", "off")


_numbers = itertools.count()
