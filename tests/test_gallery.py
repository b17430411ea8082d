"""The scripts of the gallery run, and each leaves a picture with something on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HOME = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((HOME / "bench" / "gallery").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_script_makes_its_picture(script: Path, tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    paths = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        check=True,
        timeout=240,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    (picture,) = tmp_path.iterdir()
    assert picture.stem == script.stem
    pixels = np.asarray(pillow.open(picture))
    assert min(pixels.shape[:2]) >= 400 and pixels.std() > 20


def test_there_are_five() -> None:
    assert len(SCRIPTS) == 5
