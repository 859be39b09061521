"""Control is killed at random, and before random lines, while it serves a vhost-user client; its successors go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KILLS = 120


@pytest.mark.parametrize("kind", ["device", "socket"])
def test_each_request_is_answered_once_and_no_change_comes_without_an_order(kind: str) -> None:
    """And no interrupt is lost, each ordered change arrives, and no descriptor is left over."""
    paths = [str(ROOT), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.killed_attachment", kind, str(KILLS), "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["faults"] == 0, done.stderr
    assert result["kills"] == KILLS
    assert result["rounds"] > 3  # on the slowest machine
    assert result["descriptors"] <= 16, "of one client with three rings"
    assert result["left"] == 3, "the state, the socket, and the lock of its path"
    assert result["open"] < 64
