"""What an idle vnic-wire costs, and whether anything else disturbs a ping through it.

`vnic bench wire-idle` runs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vnic.backend.framing import LENGTH
from vnic.dataplane.wire.messages import Kind
from vnic.lab.bench.native import CThread, library, on_cpu, two_cpus
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.through import CHUNK_FRAMES, SOURCE, TARGET, Ends, children, pin
from vnic.lab.bench.wire_hub import through_a_hub
from vnic.lab.bench.wire_program import BareWire, cpu_ns
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory

WIRES: Final = 100
IDLE_S: Final = 2.0
SETTLE_S: Final = 0.5
PINGS: Final = 2000
PAUSE_NS: Final = 200_000
SIZE: Final = 98
"""Bytes of a ping's frame."""
FLOOD_SIZE: Final = 1514
AIM: Final = "at most 1.10"

IDLE = (
    f"one vnic-wire, {WIRES} wires between a guest's rings and a stream, each of which has moved a frame; CPU time of"
    f" all its threads in {IDLE_S:g} s without traffic, from the scheduler's statistics"
)
BUSY = (
    f"{PINGS} round trips of {SIZE} bytes, {PAUSE_NS // 1000} µs apart: unix stream → hub of two → unix stream, and"
    " back, by one thread in C on the CPU of vnic-wire; 99th percentiles of a round. On another CPU, vnic's Python and"
    " a monitor client, which is quiet or asks for query-links without a pause, by turns"
)
FLOODED = (
    "the same, with a vnic-wire of two workers: the second one, with its load, on another CPU; its wire is quiet, or"
    f" flooded with frames of {FLOOD_SIZE} bytes, by turns"
)


def measure(rounds: int) -> Iterator[Row]:
    yield row(f"idle, {WIRES} wires", "µs/s", [us / IDLE_S for us in _idle(rounds)], IDLE, "0")
    yield from _ratios("control busy", _beside_a_busy_monitor(rounds), BUSY)
    yield from _ratios("other wire flooded", _beside_a_flood(rounds), FLOODED)


# -- idle -----------------------------------------------------------------------------------------------------------


def _idle(rounds: int) -> Iterator[float]:
    """µs of CPU time."""
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(BareWire())
        for number in range(WIRES):
            driver = NetDriver(stack.enter_context(FakeGuestMemory(2 << 20)), size=64)
            stack.callback(driver.close)
            far = _add_stream(wire, stack, 2 * number)
            wire.add_guest(2 * number + 1, driver)
            wire.join(number, 2 * number, 2 * number + 1)
            ring = driver.rings[0]
            ring.add([], [(driver.memory.alloc(2048), 2048)])
            ring.publish()
            far.sendall(_framed(SIZE))
            deadline = time.monotonic() + 5
            while not ring.used_idx:
                if time.monotonic() > deadline:
                    raise Missing(f"a frame did not come through wire {number}")
                time.sleep(0.001)
        time.sleep(SETTLE_S)
        for _ in range(rounds):
            before = cpu_ns(wire.process.pid)
            time.sleep(IDLE_S)
            yield (cpu_ns(wire.process.pid) - before) / 1000


def _add_stream(wire: BareWire, stack: contextlib.ExitStack, port: int) -> socket.socket:
    """Add a port for a stream; its far end."""
    far, near = socket.socketpair()
    stack.enter_context(far)
    with near:
        wire.add(port, Kind.STREAM, [near.fileno()])
    return far


def _framed(size: int) -> bytes:
    return LENGTH.pack(size) + (b"\xff" * 6 + SOURCE).ljust(size, b"\0")


# -- pings ----------------------------------------------------------------------------------------------------------


class Pinger:
    """ping_pong of sockets.c, on the CPU of what is measured."""

    def __init__(self) -> None:
        self.moved, self.load = two_cpus()
        self.c = library("sockets", sixty_four=("flood_stream",))

    def p99_us(self, there: socket.socket, far: socket.socket) -> float:
        data = ctypes.create_string_buffer(_framed(SIZE))
        samples = (ctypes.c_uint64 * PINGS)()
        arguments = (data, ctypes.c_size_t(4 + SIZE), PINGS, ctypes.c_uint64(PAUSE_NS), samples)
        with on_cpu(self.moved):
            error = self.c.ping_pong(there.fileno(), far.fileno(), *arguments)
        if error:
            raise Missing(f"a ping did not come back: {os.strerror(error)}")
        return float(sorted(samples)[PINGS * 99 // 100]) / 1000


Pairs = list[tuple[float, float]]
"""Of each round: quiet, and disturbed."""


def _ratios(what: str, pairs: Pairs, method: str) -> Iterator[Row]:
    yield row(f"ping, p99: quiet ({what}: not)", "µs", [quiet for quiet, _ in pairs], method)
    yield row(f"ping, p99: {what}", "µs", [disturbed for _, disturbed in pairs], method)
    ratios = [disturbed / quiet for quiet, disturbed in pairs]
    yield row(f"ping, p99: {what} / quiet", "x", ratios, method, AIM, digits=2)


def _beside_a_busy_monitor(rounds: int) -> Pairs:
    pinger = Pinger()
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        ends = Ends(Path(folder), "stream")
        try:
            with VnicProcess(*through_a_hub(ends.netdev(0), ends.netdev(1))) as vnic:
                there, far = ends.connect()
                vnic.wait_on_the_wire("end0", "end1")
                pin(vnic.process.pid, pinger.load)
                for pid in children(vnic.process.pid):
                    pin(pid, pinger.moved)
                return _rounds(rounds, pinger, (there, far), lambda: _Asking(vnic, pinger.load))
        finally:
            ends.close()


class _Asking:
    """A context manager: a monitor client that asks without a pause."""

    def __init__(self, vnic: VnicProcess, cpu: int) -> None:
        self._client = vnic.second_client()
        self._cpu = cpu
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        os.sched_setaffinity(0, {self._cpu})
        request = json.dumps({"execute": "query-links"}).encode() + b"\n"
        while not self._stop.is_set():
            self._client.sendall(request)
            while not self._client.recv(1 << 16).endswith(b"\r\n"):
                pass

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


def _beside_a_flood(rounds: int) -> Pairs:
    pinger = Pinger()
    data = (LENGTH.pack(FLOOD_SIZE) + (TARGET + SOURCE).ljust(FLOOD_SIZE, b"\0")) * CHUNK_FRAMES
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(BareWire(workers=2))
        ends = [_add_stream(wire, stack, port) for port in range(4)]
        for number in range(2):
            wire.join(number, 2 * number, 2 * number + 1)
        pin(wire.process.pid, pinger.moved)
        os.sched_setaffinity(_worker(wire, pinger, ends[2:], ends[:2]), {pinger.load})

        def flood() -> contextlib.ExitStack:
            load = contextlib.ExitStack()
            arrived = ctypes.c_uint64()
            drain = CThread(pinger.load, pinger.c.drain_stream, ends[3].fileno(), ctypes.byref(arrived))
            window = ctypes.c_uint64(1 << 30), ctypes.byref(arrived)
            size = ctypes.c_size_t(len(data))
            load.enter_context(drain)
            load.enter_context(
                CThread(pinger.load, pinger.c.flood_stream, ends[2].fileno(), data, size, *window)
            )
            return load

        # So that the thread that drains sees that it is to stop. (Python's own timeouts make a socket non-blocking.)
        ends[3].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
        return _rounds(rounds, pinger, (ends[0], ends[1]), flood)


def _worker(wire: BareWire, pinger: Pinger, ends: list[socket.socket], others: list[socket.socket]) -> int:
    """The thread that has the wire between `ends`. Raises Missing if that between `others` has the same one."""

    def thread(there: socket.socket, far: socket.socket) -> int:
        tasks = [int(task) for task in os.listdir(f"/proc/{wire.process.pid}/task")]
        before = {task: cpu_ns(wire.process.pid, task) for task in tasks}
        pinger.p99_us(there, far)
        return max(tasks, key=lambda task: cpu_ns(wire.process.pid, task) - before[task])

    found = thread(*ends)
    if found == thread(*others):
        raise Missing("vnic-wire has given both wires to one worker")
    return found


def _rounds(
    rounds: int,
    pinger: Pinger,
    ends: tuple[socket.socket, socket.socket],
    disturb: Callable[[], contextlib.AbstractContextManager[object]],
) -> Pairs:
    pinger.p99_us(*ends)
    pairs = []
    for _ in range(rounds):
        quiet = pinger.p99_us(*ends)
        with disturb():
            pairs.append((quiet, pinger.p99_us(*ends)))
    return pairs
