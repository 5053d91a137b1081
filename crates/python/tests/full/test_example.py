"""The example that trains a classifier does train one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PHOTOGRAPHS = Path(os.environ.get("CENOTE_ASSETS", ROOT.parent / "shared/assets")) / "clothing-cc0"


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason=f"there are no photographs in {PHOTOGRAPHS}")
def test_the_classifier_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def train(epochs: int) -> str:
        command = [sys.executable, ROOT / "examples/clothing/train.py", PHOTOGRAPHS]
        options = ["--lake", tmp_path / "lake", "--epochs", str(epochs)]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout

    assert "epoch 1:" in train(2)
    again = train(6)
    assert "going on in epoch 2" in again and "epoch 1:" not in again
    accuracy = float(re.findall(r"accuracy ([0-9.]+)", again)[0])
    # Ten classes: guessing is right once in ten.
    assert accuracy > 0.2, again
