"""Runs a shell script in network and mount namespaces of its own, with this vnic as `vnic`: labs of several hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.process import Place

TIMEOUT_S = 240.0
"""Some guests boot, one after the other."""


def run_script(place: Place, script: Path) -> str:
    """What the script prints. The namespaces that it makes by `ip netns` are in a /run of its own."""
    programs = place.folder / "bin"
    programs.mkdir()
    vnic = programs / "vnic"
    vnic.write_text(f'#!/bin/sh\nexec {sys.executable} -m vnic "$@"\n')
    vnic.chmod(0o700)
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec sh "$0"', str(script)],
        env={**place.environment, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(place.folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    vnic.unlink()
    assert done.returncode == 0, done.stdout
    return done.stdout
