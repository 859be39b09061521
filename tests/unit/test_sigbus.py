"""Mapped memory that is truncated: accesses find zeros, however Python makes them; unguarded they are the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

PROGRAM = """
import mmap, os
from vnic import sigbus

fd = os.memfd_create("guest")
os.ftruncate(fd, 1 << 20)
mapping = mmap.mmap(fd, 1 << 20)
read_only = mmap.mmap(fd, 1 << 20, prot=mmap.PROT_READ)
mapping[:] = b"x" * len(mapping)
lost = []
with sigbus.survived(lambda: lost.append(1)):
    os.ftruncate(fd, 8192)
    assert mapping[:8192] == b"x" * 8192 and not lost
    assert mapping[8192] == 0 and len(lost) == 1
    assert mapping[8000:20000] == b"x" * 192 + bytes(11808) and len(lost) == 3
    field = memoryview(mapping)[65536:65540].cast("H")
    field[1] = 3
    assert field.tolist() == [0, 3] and len(lost) == 4
    field.release()
    mapping[100000:200000] = b"y" * 100000
    assert mapping[100000:200000] == b"y" * 100000
    assert read_only[8192:8196] == bytes(4)
mapping.close()
print("survived", flush=True)
read_only[70000]
"""


def test_truncated_memory_reads_as_zeros() -> None:
    """In a process of its own, which the last access, outside of the guard, ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("survived\n", "")
    assert done.returncode == -signal.SIGBUS
