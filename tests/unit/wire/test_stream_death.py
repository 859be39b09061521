"""Streams whose program is killed at any point of its bookkeeping: another one goes on within the same connections."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.wire_ends import framed
from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, WireProgram, built_program, frame

from vnic.backend.framing import Deframer
from vnic.dataplane.wire.messages import Kind, PortAdd, WireSet, pack_request
from vnic.dataplane.wire.stream_memory import MAX_BYTES, MEMORY_BYTES, StreamMemory, StreamMemoryError

KILL_AT = "VNIC_WIRE_KILL_AT"
MARK = 1_000_000
"""The number of the frame that ends a flow; one more for each program that was killed."""
BATCH = 64


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that kills itself at the point that the environment names."""
    return built_program(tmp_path_factory, "vnic-wire-mortal", "-DTEST_KILL")


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ours, server.accept()[0]


class Flow:
    """The far end of one port: it sends numbered frames in odd pieces, and checks those of the other end."""

    def __init__(self, pair: tuple[socket.socket, socket.socket], rng: random.Random) -> None:
        self.ours, self.theirs = pair
        for sock in pair:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self._rng = rng
        sizes = [rng.choice((14, 60, 61, 300, 1514)) for _ in range(70)]
        sizes[20], sizes[40] = 30_000, MAX_FRAME
        self.sizes = sizes
        self._data = bytearray(framed(*(frame(number, max(size, 20)) for number, size in enumerate(sizes))))
        self._deframer = Deframer()
        self.got: list[int | None] = []
        """The numbers of the frames that came; None: not as it was sent."""
        self.memory = StreamMemory()
        self.memory.write(b"", b"")

    def mark(self, number: int) -> None:
        self._data += framed(frame(MARK + number))

    @property
    def has_more(self) -> bool:
        return bool(self._data)

    def step(self) -> bool:
        """Send and receive a little. False: neither was possible."""
        moved = False
        try:
            if self._data:
                del self._data[: self.ours.send(self._data[: self._rng.randrange(1, 5000)])]
                moved = True
        except BlockingIOError:
            pass
        try:
            data = self.ours.recv(self._rng.randrange(1, 9000))
            assert data, "the connection was closed"
            self._deframer.feed(data)
            moved = True
        except BlockingIOError:
            pass
        while (each := self._deframer.next()) is not None:
            number = int.from_bytes(each[14:18], "big")
            self.got.append(number if each == frame(number, len(each)) else None)
        return moved

    def restart(self) -> None:
        """What control does when the program has died."""
        state = self.memory.read()
        self.memory.close()
        self.memory = StreamMemory()
        self.memory.write(*state)

    def close(self) -> None:
        self.memory.close()
        self.ours.close()
        self.theirs.close()


@contextmanager
def running(program: Path, flows: list[Flow]) -> Iterator[WireProgram]:
    with WireProgram(program) as wire:
        for port, flow in enumerate(flows, 1):
            request = PortAdd(port, Kind.STREAM, max_frame=MAX_FRAME)
            wire.request(request, [flow.theirs.fileno(), flow.memory.fd])
        wire.sock.send(pack_request(0, WireSet(1, (1, 2))))  # it may die before it answers
        yield wire


def move(wire: WireProgram, flows: list[Flow], mark: int) -> bool:
    """Let the flows run until their marks have come, or the program dies: then False."""
    while not all(flow.got and flow.got[-1] == MARK + mark for flow in flows):
        moved = [flow.step() for flow in flows]
        if not any(moved):
            readers = [wire.sock, *(flow.ours for flow in flows)]
            writers = [flow.ours for flow in flows if flow.has_more]
            readable, writable, _ = select.select(readers, writers, [], PATIENCE_S)
            assert readable or writable, "nothing comes any more"
            if wire.sock in readable and not wire.sock.recv(1 << 16):
                wire.child.wait(PATIENCE_S)
                return False
    return True


def check(flow: Flow, sent: int, deaths: int) -> None:
    """At most one batch is missing, in one place; at most one frame is not as it was sent; none came twice."""
    numbers = [number for number in flow.got if number is not None and number < MARK]
    assert numbers == sorted(set(numbers))
    assert len(flow.got) - len([number for number in flow.got if number is not None]) <= deaths
    missing = sorted(set(range(sent)) - set(numbers))
    assert len(missing) <= deaths * 2 * BATCH
    if missing and deaths == 1:
        assert missing == list(range(missing[0], missing[-1] + 1))


def survives(program: Path, kind: str, point: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """One run with a death at this point. True: it was never reached."""
    pair = unix_pair if kind == "unix" else tcp_pair
    with closing(Flow(pair(), random.Random(1))) as one, closing(Flow(pair(), random.Random(2))) as two:
        flows = [one, two]
        for flow in flows:
            flow.mark(0)
        monkeypatch.setenv(KILL_AT, str(point))
        with running(program, flows) as wire:
            alive = move(wire, flows, 0)
        if not alive:
            for flow in flows:
                flow.restart()
                flow.mark(1)
            monkeypatch.delenv(KILL_AT)
            with running(program, flows) as wire:
                assert move(wire, flows, 1)
        for flow, other in ((one, two), (two, one)):
            check(flow, len(other.sizes), deaths=not alive)
        return alive


@pytest.mark.parametrize(
    ("kind", "first", "step"),
    [("unix", 1, 4), ("unix", 2, 4), ("unix", 3, 4), ("unix", 4, 4), ("tcp", 1, 17)],
)
def test_killed_at_any_point(
    mortal: Path, kind: str, first: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = first
    while not survives(mortal, kind, point, monkeypatch):
        point += step
    assert point > 200, "the points are not reached"


@given(st.integers(0, MEMORY_BYTES - 1), st.binary(min_size=1, max_size=400), st.integers(0, 5000))
def test_no_content_of_the_memory_misleads_control(at: int, garbage: bytes, slot: int) -> None:
    with closing(StreamMemory()) as memory:
        memory.write(b"in", b"out")
        assert memory.read() == (b"in", b"out")
        os.pwrite(memory.fd, garbage[: MEMORY_BYTES - at], at)
        os.pwrite(memory.fd, garbage, slot % 1400)
        try:
            left = memory.read()
        except StreamMemoryError:
            return
        assert max(map(len, left)) <= MAX_BYTES


@pytest.mark.parametrize(
    ("done", "rest"),
    [
        (0, b""),
        (1, struct.pack(">I", 20)[1:] + bytes(20)),
        (4, bytes(20)),
        (10, bytes(14)),
        (24, b""),
        (25, struct.pack(">I", 30)[1:] + bytes(30)),
        (58, b""),
    ],
)
def test_a_frame_that_was_cut_is_completed(done: int, rest: bytes) -> None:
    with closing(StreamMemory()) as memory:
        memory.write(b"", b"")
        slot = struct.pack("<4I56xI4x2I", 0, 0, 2, 0, done, 20, 30)
        os.pwrite(memory.fd, slot, 64 + 3 * 336)
        os.pwrite(memory.fd, struct.pack("<I", 1), 4)
        assert memory.read() == (b"", rest)
