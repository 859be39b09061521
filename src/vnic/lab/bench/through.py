"""Floods a program from one socket to another, and counts per second and per CPU-second: vnic or QEMU, with the same
netdevs and no guest.

`wire-hub` and `wire-tap` use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vnic.backend.framing import LENGTH
from vnic.lab.bench.native import CThread, library, two_cpus
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing
from vnic.lab.bench.wire_program import cpu_ns
from vnic.lab.guest.qemu_kit import QemuKit

WARM_UP_S: Final = 0.5
SECONDS: Final = 1.5
CONNECT_TIMEOUT_S: Final = 20.0
CHUNK_FRAMES: Final = 128
WINDOW: Final = 1 << 16
"""Frames of a stream that may be under way: more than sockets hold."""
TENTH_OF_A_SECOND: Final = struct.pack("@ll", 0, 100_000)
"""A struct timeval."""
TARGET: Final = bytes.fromhex("020000000002")
SOURCE: Final = bytes.fromhex("020000000001")
ETH_P_802_EX1: Final = b"\x88\xb5"


@dataclass(frozen=True, slots=True)
class Rate:
    """Frames that arrived."""

    per_second: float
    per_cpu_second: float


class Ends:
    """The two far ends in `folder`: unix sockets of one kind, which the program's netdevs `end0` and `end1` use."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._stream = kind == "stream"
        self._far: list[socket.socket] = []
        for index in range(2):
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM)
            far.bind(self.far_path(index))
            far.settimeout(CONNECT_TIMEOUT_S)
            if self._stream:
                far.listen(1)
            self._far.append(far)

    def far_path(self, index: int) -> str:
        return str(self._folder / f"far{index}.sock")

    def open(self, index: int) -> socket.socket:
        """That end's near socket, as a program would open it."""
        if self._stream:
            near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            near.connect(self.far_path(index))
        else:
            near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            near.bind(str(self._folder / f"end{index}.sock"))
            for timeout in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                near.setsockopt(socket.SOL_SOCKET, timeout, TENTH_OF_A_SECOND)
        return near

    def netdev(self, index: int) -> str:
        """The -netdev of that end, for either program."""
        far = self.far_path(index)
        if self._stream:
            return f"stream,id=end{index},addr.type=unix,addr.path={far}"
        own = self._folder / f"end{index}.sock"
        return f"dgram,id=end{index},local.type=unix,local.path={own},remote.type=unix,remote.path={far}"

    def connect(self) -> list[socket.socket]:
        """The two sockets, when the program has opened its own."""
        for index, far in enumerate(self._far):
            if self._stream:
                self._far[index], _ = far.accept()
                far.close()
            else:
                self._connect_datagrams(far, str(self._folder / f"end{index}.sock"))
            self._far[index].settimeout(None)
        return self._far

    @staticmethod
    def _connect_datagrams(far: socket.socket, own: str) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while True:
            try:
                far.connect(own)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Missing(f"the program did not open its socket: {error}") from None
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        for far in self._far:
            far.close()


class QemuNetdevs:
    """A context manager around a QEMU without a machine, which has netdevs only."""

    def __init__(self, kit: QemuKit, arguments: Sequence[str]) -> None:
        none = ("-machine", "none", "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none")
        self._command = [*kit.command, *none, *arguments]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


Arguments = Callable[[str, str], Sequence[str]]
"""The options that lead from the one end to the other, made of the two ends' own -netdev."""


class Flood:
    """The load, in C, on a CPU of its own."""

    def __init__(self, window: int = WINDOW) -> None:
        """`window`: how many frames of a stream may be under way."""
        self._window = window
        self._moved, self._load = two_cpus()
        self._c = library("sockets", sixty_four=("flood_stream", "flood_datagrams"))

    def vnic(self, kind: str, size: int, arguments: Arguments, ready: Callable[[], None]) -> Rate:
        """The rate through `vnic run`. `ready` is called when the program is connected."""
        with _ends(kind) as ends, VnicProcess(*arguments(ends.netdev(0), ends.netdev(1))) as vnic:
            far = ends.connect()
            ready()
            vnic.wait_on_the_wire("end0", "end1")
            return self._rate_of(kind, size, far, lambda: [vnic.process.pid, *children(vnic.process.pid)])

    def qemu(
        self, kit: QemuKit, kind: str, size: int, arguments: Arguments, ready: Callable[[], None]
    ) -> Rate:
        """The same through QEMU."""
        with (
            _ends(kind) as ends,
            QemuNetdevs(kit, arguments(ends.netdev(0), ends.netdev(1))) as qemu,
        ):
            far = ends.connect()
            ready()
            return self._rate_of(kind, size, far, lambda: [qemu.process.pid])

    def bare(self, kind: str, size: int) -> Rate:
        """The rate through the least program there can be: one thread that reads from one socket and writes to another,
        each time as much as a call takes."""
        with _ends(kind) as ends, contextlib.ExitStack() as stack:
            near = [stack.enter_context(ends.open(index)) for index in range(2)]
            far = ends.connect()
            arguments: list[object] = [sock.fileno() for sock in near]
            if kind == "stream":
                forward = self._c.forward_stream
            else:
                forward = self._c.forward_datagrams
                arguments.append(ends.far_path(1).encode())
            thread = stack.enter_context(CThread(self._moved, forward, *arguments))
            stack.callback(_shut_down, near)
            return self._rate(kind, size, far, lambda: cpu_ns(os.getpid(), thread.id))

    def _rate_of(self, kind: str, size: int, far: list[socket.socket], pids: Callable[[], list[int]]) -> Rate:
        """The rate through these processes."""
        for pid in pids():
            pin(pid, self._moved)
        return self._rate(kind, size, far, lambda: sum(map(cpu_ns, pids())))

    def _rate(self, kind: str, size: int, far: list[socket.socket], cpu: Callable[[], int]) -> Rate:
        frame = (TARGET + SOURCE + ETH_P_802_EX1).ljust(size, b"\0")
        arrived = ctypes.c_uint64()
        window: tuple[object, ...] = ()
        if kind == "stream":
            frame = LENGTH.pack(size) + frame
            data = frame * CHUNK_FRAMES
            flood, drain = self._c.flood_stream, self._c.drain_stream
            window = (ctypes.c_uint64(self._window * len(frame)), ctypes.byref(arrived))
        else:
            data = frame
            flood, drain = self._c.flood_datagrams, self._c.drain_datagrams
        with contextlib.ExitStack() as stack:
            # When both ends are shut down, the two threads wake up from whatever they wait for.
            stack.enter_context(CThread(self._load, drain, far[1].fileno(), ctypes.byref(arrived)))
            stack.enter_context(
                CThread(self._load, flood, far[0].fileno(), data, ctypes.c_size_t(len(data)), *window)
            )
            stack.callback(_shut_down, far)
            time.sleep(WARM_UP_S)
            bytes_before, cpu_before = arrived.value, cpu()
            began = time.perf_counter()
            time.sleep(SECONDS)
            frames = (arrived.value - bytes_before) / len(frame)
            seconds, busy_ns = time.perf_counter() - began, cpu() - cpu_before
        if not frames or not busy_ns:
            raise Missing(f"no frames of {size} bytes came through")
        return Rate(frames / seconds, frames * 1e9 / busy_ns)


@contextlib.contextmanager
def _ends(kind: str) -> Iterator[Ends]:
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        ends = Ends(Path(folder), kind)
        try:
            yield ends
        finally:
            ends.close()


def _shut_down(far: list[socket.socket]) -> None:
    for sock in far:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def children(pid: int) -> list[int]:
    """The processes that one has started, vnic-wire among them."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as listed:
            found += map(int, listed.read().split())
    return found


def pin(pid: int, cpu: int) -> None:
    """All threads of a process run on this CPU from now on."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(task), {cpu})
