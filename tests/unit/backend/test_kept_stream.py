"""KeptStream and KeptOutput: a process that is killed at any line leaves a stream that its successor goes on with."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from tests.fakes.killer import Killed, Killer

from vnic.backend import connection, kept_stream, output
from vnic.backend.connection import (
    FramedConnection,
    FramedConnectionRecord,
    restored_connection,
)
from vnic.backend.framing import LENGTH, DeframerRecord
from vnic.backend.kept_stream import MEMORY_BYTES, KeptStream, OutOfStep
from vnic.net.queue import Frame

FILES = {connection.__file__, kept_stream.__file__, output.__file__}


class HandLoop:
    """An event loop that the test turns."""

    def __init__(self) -> None:
        self.readers: dict[Any, Any] = {}
        self.writers: dict[Any, Any] = {}
        self.soon: list[Any] = []

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Any, *args: Any) -> Any:
        self.soon.append((callback, args))

    def add_reader(self, sock: Any, callback: Any) -> None:
        self.readers[sock] = callback

    def add_writer(self, sock: Any, callback: Any) -> None:
        self.writers[sock] = callback

    def remove_reader(self, sock: Any) -> None:
        self.readers.pop(sock, None)

    def remove_writer(self, sock: Any) -> None:
        self.writers.pop(sock, None)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)
        for table in (self.readers, self.writers):
            for callback in list(table.values()):
                callback()


class Client:
    """FrameUser: notes the frames."""

    name = "net0"

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, queue: int, frame: Frame) -> bool:
        self.frames.append(bytes(frame))
        return True

    def flush(self, queue: int) -> None: ...


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        return ours, theirs


PAIRS = {"unix": unix_pair, "tcp": tcp_pair}


class Process:
    """The end of a stream in a process that may be killed, and in the ones that follow."""

    def __init__(self, sock: socket.socket) -> None:
        self.kept = KeptStream.make()
        self.client = Client()
        self.lost: list[str] = []
        self.old: list[socket.socket] = []
        self.sock = sock
        self.loop: Any
        self.loop = HandLoop()
        self.connection = FramedConnection(self.loop, sock, self.client, self.lost.append, kept=self.kept)

    def restart(self) -> None:
        """The next process has the descriptors, and the record of an open connection."""
        record = FramedConnectionRecord(
            deframer=DeframerRecord(rest=b""), out=b"", paused=False, sender_waits=False, lost=None
        )
        self.old.append(self.sock)
        self.sock = self.sock.dup()
        self.loop = HandLoop()
        self.kept = KeptStream(self.kept.fd)
        made = restored_connection(
            self.loop, record, self.sock, self.client, self.lost.append, kept=self.kept
        )
        assert made is not None
        self.connection = made

    def run(self) -> None:
        self.loop.turn()

    def close(self) -> None:
        for each in (*self.old, self.sock):
            each.close()
        self.kept.close()


def frames(sizes: Sequence[int]) -> list[bytes]:
    """Frames that tell their place in the sequence."""
    return [f"{at:06d}".encode() + bytes([at % 251]) * (size - 6) for at, size in enumerate(sizes)]


def framed(all_frames: Sequence[bytes]) -> bytes:
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in all_frames)


def deframed(data: bytes) -> list[bytes]:
    """The frames in a byte stream, which ends with a whole one."""
    found, at = [], 0
    while at < len(data):
        (size,) = LENGTH.unpack_from(data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(data)
    return found


def drain(sock: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def assert_whole(got: Sequence[bytes], sent: Sequence[bytes], lost_at_most: int) -> None:
    """In order, none twice, none that was not sent, and only some missing."""
    numbers = {frame: at for at, frame in enumerate(sent)}
    places = [numbers[frame] for frame in got]
    assert places == sorted(set(places))
    assert len(sent) - len(got) <= lost_at_most


def pair(kind: str) -> tuple[socket.socket, socket.socket]:
    ours, theirs = PAIRS[kind]()
    for each in (ours, theirs):
        each.setblocking(False)
    return ours, theirs


SIZES = [60, 6, 1514, 60, 5000, 9, 1514, 700, 60, 60]
PIECES = [1, 2, 3, 61, 4, 700, 1, 2000, 3000, 5, 1600, 90, 10**6]
"""How the bytes of these frames come."""


def read_with_kill(kind: str, line: int) -> int:
    """Returns the lines that were run."""
    ours, peer = pair(kind)
    process, killer = Process(ours), Killer(FILES, [line])
    sent = frames(SIZES)
    data = framed(sent)
    try:
        at = 0
        for size in PIECES:
            peer.setblocking(True)
            peer.sendall(data[at : at + size])
            at += size
            try:
                with killer.at_work():
                    process.run()
                    process.run()
            except Killed:
                process.restart()
                process.run()
        for _ in range(20):
            process.run()
        assert process.lost == []
        assert_whole(process.client.frames, sent, 0 if killer.lines < line else len(SIZES) - 1)
        assert process.client.frames[-1] == sent[-1] or killer.lines >= line
        more = frames([100] * 12)[-1]
        peer.sendall(framed([more]))
        process.run()
        process.run()
        assert process.client.frames[-1] == more  # it is in step
    finally:
        process.close()
        peer.close()
    return killer.lines


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.in_a_child
def test_killed_at_any_line_a_reader_goes_on_in_step(kind: str) -> None:
    lines = read_with_kill(kind, -1)
    assert lines > 200
    for line in range(1, lines + 1):
        read_with_kill(kind, line)


def write_with_kill(kind: str, sizes: Sequence[int], line: int) -> int:
    """The peer reads too little, and then all."""
    ours, peer = pair(kind)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000)
    process, killer = Process(ours), Killer(FILES, [line])
    sent = frames(sizes)
    received = b""
    try:
        for at, frame in enumerate(sent):
            try:
                with killer.at_work():
                    process.connection.send(frame)
                    process.run()
            except Killed:
                process.restart()
            if at % 5 == 4:
                received += drain(peer)
        for _ in range(400):
            received += drain(peer)
            try:
                with killer.at_work():
                    process.run()
            except Killed:
                process.restart()
        assert process.lost == []
        killed = 0 < line <= killer.lines
        assert_whole(deframed(received), sent, len(sizes) if killed else 0)
        more = frames([100] * 200)[-1]
        process.connection.send(more)
        assert deframed(drain(peer)) == [more]
    finally:
        process.close()
        peer.close()
    return killer.lines


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.in_a_child
def test_killed_at_any_line_a_writer_leaves_no_half_frame(kind: str) -> None:
    """Frames are written, wait, and are half written."""
    sizes = [60, 1514, 9000, 9000, 60, 9000, 1514, 9000, 9000, 60]
    lines = write_with_kill(kind, sizes, -1)
    step = max(1, lines // 300)
    for line in range(1, lines + 1, step):
        write_with_kill(kind, sizes, line)


def test_half_written_tcp_frame_is_completed_at_any_byte() -> None:
    """However much of it the kernel took in the call in which the process was killed."""
    piece = framed(frames([200]))
    for taken in range(len(piece) + 1):
        ours, peer = pair("tcp")
        process = Process(ours)
        process.kept.begin_piece(piece)
        process.kept.writing()
        if taken:
            assert ours.send(piece[:taken]) == taken
        process.restart()
        process.run()
        process.connection.send(b"next")
        assert deframed(drain(peer)) == [piece[4:], b"next"]
        process.kept.begin_piece(piece)  # and the next process is killed in the same way
        process.kept.writing()
        assert process.sock.send(piece[:7]) == 7
        process.restart()
        process.run()
        assert deframed(drain(peer)) == [piece[4:]]
        process.close()
        peer.close()


def test_half_read_frame_is_completed_at_any_byte() -> None:
    data = framed(frames([60]))
    for kind in PAIRS:
        for here in range(len(data)):
            ours, peer = pair(kind)
            process = Process(ours)
            if here:
                peer.send(data[:here])
            process.run()
            process.restart()
            peer.send(data[here:])
            process.run()
            process.run()
            assert process.client.frames == frames([60])
            process.close()
            peer.close()


def test_a_long_frame_whose_write_was_killed_ends_a_unix_connection() -> None:
    """The kernel does not tell how much of it was taken."""
    ours, peer = pair("unix")
    process = Process(ours)
    process.kept.begin_piece(bytes(50_000))
    process.kept.writing()
    process.restart()
    process.run()
    assert process.lost == ["vnic was killed while it wrote a frame"]
    process.close()
    peer.close()


def test_unix_frames_of_usual_length_are_written_whole_or_not_at_all() -> None:
    """So that nothing has to be announced for them."""
    ours, peer = pair("unix")
    process = Process(ours)
    frame = bytes(9000)
    while not process.connection._output.waiting:
        process.connection.send(frame)
    got = deframed(drain(peer))
    assert got
    assert set(got) == {frame}
    process.close()
    peer.close()


def test_memory_of_any_content_is_refused_or_taken_without_an_exception() -> None:
    rng = random.Random(1)
    for _ in range(300):
        ours, peer = pair(rng.choice(list(PAIRS)))
        process = Process(ours)
        for cell in range(3):
            word = rng.choice([0, rng.getrandbits(20), rng.getrandbits(64), 1 << 49, 3 << 48])
            os.pwrite(process.kept.fd, word.to_bytes(8, sys.byteorder), 8 * cell)
        process.restart()
        process.run()
        process.close()
        peer.close()


def test_memory_of_another_size_is_refused() -> None:
    fd = os.memfd_create("short")
    os.ftruncate(fd, MEMORY_BYTES - 8)
    with pytest.raises(OSError, match="Invalid argument"):
        KeptStream(fd)
    os.close(fd)


def test_input_without_its_offset_ends_the_connection() -> None:
    """As on a kernel that knows no SO_PEEK_OFF for the socket: nobody knows whether half a frame was taken out."""
    ours, peer = pair("unix")
    process = Process(ours)
    process.kept.announce(b"half")
    ours.setsockopt(socket.SOL_SOCKET, 42, -1)
    with pytest.raises(OutOfStep, match="while it read half a frame"):
        KeptStream(os.dup(process.kept.fd)).take_up(ours)
    process.close()
    peer.close()
