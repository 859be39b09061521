"""The C parts of the measures, compiled when they are needed: what plays drivers and peers at the speed of vnic-wire.

The `wire-…` measures load them by ctypes, or run them in guests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vnic.dataplane.wire.build import compilers
from vnic.lab.bench.report import Missing

SOURCES = Path(__file__).with_name("native")
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


def _compile(name: str, target: Path, *flags: str, sources: Path = SOURCES) -> None:
    """Raises Missing where there is no compiler, or it fails."""
    found = compilers()
    if not found:
        raise Missing("there is no C compiler here (apt-get install gcc)")
    command = [*found[0], *FLAGS, *flags, "-o", str(target), str(sources / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{name}.c does not compile: {done.stderr.strip()}")


def library(name: str, *, sixty_four: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A file of `native/` as a library; the functions named in `sixty_four` return 64 bits."""
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        target = Path(folder) / f"{name}.so"
        _compile(name, target, "-shared", "-fPIC")
        loaded = ctypes.CDLL(str(target), use_errno=True)
    for function in sixty_four:
        loaded[function].restype = ctypes.c_int64
    return loaded


def program(name: str, sources: Path = SOURCES) -> bytes:
    """A file of `native/`, or of another folder, as a static program, which runs in a guest."""
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        target = Path(folder) / name
        _compile(name, target, "-static", sources=sources)
        return target.read_bytes()


class CThread:
    """A context manager: a C function that runs in a thread of its own on one CPU, until `stop`, its last argument,
    becomes 1."""

    def __init__(self, cpu: int, function: Callable[..., Any], *arguments: Any) -> None:
        self._stop = ctypes.c_uint32()
        self._cpu = cpu
        self._function, self._arguments = function, arguments
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.result: Any = None

    def _run(self) -> None:
        os.sched_setaffinity(0, {self._cpu})
        self.result = self._function(*self._arguments, ctypes.byref(self._stop))

    @property
    def id(self) -> int:
        """The kernel's number of the thread, which runs."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def __enter__(self) -> CThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        self._thread.join()


def two_cpus() -> tuple[int, int]:
    """One CPU for what is measured, and one for what loads it. Raises Missing where there is one only."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Missing("two CPUs are needed: one for what is measured, one for its load")
    return cpus[0], cpus[1]


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread runs there, and where it may otherwise afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
