"""Landlock's rules, in a process of their own, as they cannot be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vnic.sandbox import landlock

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = """
import os, sys
from vnic.sandbox.landlock import DEVICE, READ, WRITE, Right, Rule, confine
folder = sys.argv[1]
confine([Rule("/usr", READ), Rule(f"{folder}/in", WRITE), Rule(f"{folder}/file", Right.WRITE_FILE),
         Rule(f"{folder}/file", WRITE), Rule("/dev/null", DEVICE), Rule(f"{folder}/none", WRITE)])
def tried(path, flags):
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        return type(error).__name__
    return "opened"
for path, flags in (("in/new", os.O_CREAT | os.O_WRONLY), ("out/new", os.O_CREAT | os.O_WRONLY),
                    ("out/old", os.O_RDONLY), ("file", os.O_WRONLY), ("none/new", os.O_CREAT | os.O_WRONLY)):
    print(path, tried(f"{folder}/{path}", flags))
print("null", tried("/dev/null", os.O_RDWR))
"""


@pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no landlock")
def test_files_outside_of_the_rules_are_out_of_reach(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "old").touch()
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[:-1] == [
        "in/new opened",
        "out/new PermissionError",
        "out/old PermissionError",
        "file opened",
        "none/new FileNotFoundError",
        "null opened",
    ], done.stderr
