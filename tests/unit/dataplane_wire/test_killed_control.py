"""Control is killed at random while two guests exchange frames through vnic-wire, and its successors adopt it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import need

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("seed", [1, 2])
def test_no_frame_is_lost_doubled_or_reordered(seed: int) -> None:
    need("vnic-wire")
    paths = [str(ROOT), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    command = [sys.executable, "-m", "tests.fakes.killed_control", "150", str(seed)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["programs"] == 1, "vnic-wire goes on"
    assert result["while_dead"] > 0, "and moves frames while there is no control"
    assert min(result["sent"]) > 1000
    assert result["descriptors"] <= 4, "the state, the channel, and the process"
