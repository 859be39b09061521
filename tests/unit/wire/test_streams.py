"""STREAM ports: QEMU's framing, partial reads and writes, back-pressure, and the hand-over in the middle of frames."""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.wire_ends import Stream, await_lost, framed, passed, unread
from tests.fakes.wire_program import MAX_FRAME, Refused, WireProgram, frame, until

from vnic.backend.framing import Deframer, FramingError
from vnic.dataplane.wire.messages import Kind, PortAdd, PortRemove
from vnic.dataplane.wire.stream_memory import StreamMemory

LONGEST_KEPT = 4 + MAX_FRAME
"""The most bytes of a stream that are handed over in one direction."""


def test_frames_pass_both_ways(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.send(frame(1), frame(2, 1514), frame(3, MAX_FRAME))
        assert two.receive_all(3) == [frame(1), frame(2, 1514), frame(3, MAX_FRAME)]
        two.send(frame(4))
        assert one.receive() == frame(4)
        stats = wire.stats(1)
        assert (stats.frames_in, stats.bytes_in) == (3, 64 + 1514 + MAX_FRAME)
        assert (stats.frames_out, stats.bytes_out, stats.drops) == (1, 64, {})


def test_frames_come_in_pieces_cut_at_every_byte(program: Path) -> None:
    frames = [frame(1, 20), frame(2, 21), frame(3, 300)]
    data = framed(*frames)
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        for cut in range(1, len(data)):
            one.sock.sendall(data[:cut])
            whole = sum(len(framed(*frames[: n + 1])) <= cut for n in range(3))
            assert two.receive_all(whole) == frames[:whole]
            one.sock.sendall(data[cut:])
            assert two.receive_all(3 - whole) == frames[whole:]
        for at in range(len(data)):
            one.sock.sendall(data[at : at + 1])
        assert two.receive_all(3) == frames


def test_frames_before_the_wire_wait_for_it(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        one.send(frame(1))
        wire.wire(1, 1, 2)
        assert two.receive() == frame(1)


def test_empty_and_short_frames_are_left_out(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.send(*[b""] * 1000, b"x" * 13, frame(1), b"", b"y", frame(2))
        assert two.receive_all(2) == [frame(1), frame(2)]
        assert wire.stats(1).too_short == 2


def test_slow_receiver_stops_the_sender_and_loses_nothing(program: Path) -> None:
    rng = random.Random(1)
    sizes = [rng.choice((60, 61, 1514, 9000, MAX_FRAME)) for _ in range(600)]
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        data = framed(*(frame(number, size) for number, size in enumerate(sizes)))
        one.sock.setblocking(False)
        sent = 0
        received: list[bytes] = []
        while len(received) < len(sizes):
            if sent < len(data):
                try:
                    sent += one.sock.send(data[sent : sent + 1_000_000])
                    continue
                except BlockingIOError:
                    pass  # all is full, from here to the far end
            received.append(two.receive())
        assert received == [frame(number, size) for number, size in enumerate(sizes)]
        assert wire.stats(2).drops == {}


def test_flood_on_one_side_does_not_stop_the_other(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.fill()
        two.send(frame(1))
        assert one.receive() == frame(1)


def test_end_of_stream_is_reported_with_the_part_of_a_frame(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.sock.sendall(framed(frame(1)) + framed(frame(2))[:30])
        one.sock.close()
        assert await_lost(wire, 1) == 0
        assert two.receive() == frame(1)
        two.send(frame(3))
        until(lambda: wire.stats(1).no_peer == 1)
        assert wire.remove(1).input == framed(frame(2))[:30]


def test_end_of_stream_is_seen_while_frames_wait(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2):
        wire.wire(1, 1, 2)
        one.fill()
        one.sock.close()
        assert await_lost(wire, 1) == 0


def test_peer_that_resets_is_reported(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with WireProgram(program) as wire, Stream(wire, 1, pair=(ours, theirs)), Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        assert await_lost(wire, 1) == errno.ECONNRESET
        two.send(frame(1))
        until(lambda: wire.stats(1).no_peer == 1)


def test_wrong_length_ends_the_stream_and_is_given_back(program: Path) -> None:
    bad = struct.pack(">I", MAX_FRAME + 1) + b"some more"
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.sock.sendall(framed(frame(1)) + bad)
        assert await_lost(wire, 1) == errno.EBADMSG
        assert two.receive() == frame(1)
        assert wire.remove(1).input == bad


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 67, 68, 69])
def test_half_read_frame_is_handed_over_and_back(program: Path, cut: int) -> None:
    data = framed(frame(1), frame(2))
    with WireProgram(program) as wire, Stream(wire, 1, input=data[:cut]) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.sock.sendall(data[cut : cut + 50])
        whole = [frame(1)] if cut + 50 >= 68 else []
        assert two.receive_all(len(whole)) == whole
        until(lambda: unread(one.sock) == 0)
        removed = wire.remove(1)
        assert removed.input == data[68 * len(whole) : cut + 50]
        assert removed.output == b""


def test_half_written_frame_is_handed_over_and_back(program: Path) -> None:
    rest = frame(7)[10:]
    with WireProgram(program) as wire, Stream(wire, 1, output=rest) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        two.send(frame(8))
        assert one.sock.recv(len(rest), socket.MSG_WAITALL) == rest
        assert one.receive() == frame(8)
        # Fill the socket until a part of a frame stays behind, then go on from what is given back.
        two.fill()
        removed = wire.remove(1)
        got = b""
        one.sock.setblocking(False)
        while True:
            try:
                piece = one.sock.recv(1 << 20)
            except BlockingIOError:
                break
            if not piece:
                break
            got += piece
        data = got + removed.output
        assert len(data) % 1518 == 0
        assert data == framed(bytes(1514)) * (len(data) // 1518)


def test_frames_that_wait_are_given_back(program: Path) -> None:
    """What was read and found no room goes on at control, with nothing lost and nothing twice."""
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        one.sock.setblocking(False)
        numbers, sent = 0, 1004
        while sent == 1004:
            try:
                sent = one.sock.send(framed(frame(numbers, 1000)))
                numbers += 1
            except BlockingIOError:
                break
        pair = wire.remove(1), wire.remove(2)
        two.sock.setblocking(False)
        got = b""
        try:
            while piece := two.sock.recv(1 << 20):
                got += piece
        except BlockingIOError:
            pass
        got += pair[1].output + pair[0].input
        expected = framed(*(frame(number, 1000) for number in range(numbers)))
        assert len(pair[0].input) <= LONGEST_KEPT
        assert got == expected[: len(got)]


def test_hub_of_three_streams(program: Path) -> None:
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as one,
        Stream(wire, 2) as two,
        Stream(wire, 3) as three,
    ):
        wire.wire(1, 1, 2, 3)
        one.send(frame(1))
        assert (two.receive(), three.receive()) == (frame(1), frame(1))
        three.send(frame(2))
        assert (one.receive(), two.receive()) == (frame(2), frame(2))
        # One that does not read does not stop the others.
        for number in range(200):
            one.send(frame(number, 9000))
            assert two.receive() == frame(number, 9000)
        assert wire.stats(3).no_room > 0


def test_wire_can_change_while_frames_flow(program: Path) -> None:
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as one,
        Stream(wire, 2) as two,
        Stream(wire, 3) as three,
    ):
        wire.wire(1, 1, 2)
        one.send(frame(1))
        assert two.receive() == frame(1)
        wire.wire(1, 1, 3)
        one.send(frame(2))
        assert three.receive() == frame(2)
        wire.wire(1)
        one.send(frame(3))
        until(lambda: wire.stats(1).no_peer == 1)


def test_stream_to_a_guest_waits_for_its_buffers(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one:
        guest = wire.started_guest(2)
        wire.wire(1, 1, 2)
        frames = [frame(number, 100 + number) for number in range(300)]
        one.send(*frames)
        got: list[bytes] = []
        while len(got) < 300:
            guest.driver.fill_rx(20)
            got += guest.receive(min(20, 300 - len(got)))
        assert got == frames
        guest.send(frame(1), frame(2))
        assert one.receive_all(2) == [frame(1), frame(2)]
        passed(wire, 2, 2)


@pytest.fixture(scope="module")
def running(program: Path) -> Iterator[WireProgram]:
    """One program for all examples."""
    with WireProgram(program) as wire:
        yield wire


_numbers = itertools.count(1)


@given(st.lists(st.one_of(st.binary(max_size=90).map(framed), st.binary(max_size=6)), max_size=8), st.data())
def test_any_bytes_are_taken_as_the_reference_takes_them(
    running: WireProgram, parts: list[bytes], data: st.DataObject
) -> None:
    """The same frames as from `Deframer`, or the end of the stream where that raises."""
    stream = b"".join(parts)
    cut = data.draw(st.integers(0, len(stream)))
    reference = Deframer()
    reference.feed(stream)
    frames, invalid = [], False
    try:
        while (each := reference.next()) is not None:
            frames.append(each)
    except FramingError:
        invalid = True
    wire, port, other = running, next(_numbers), next(_numbers)
    with Stream(wire, port) as one, Stream(wire, other) as two:
        wire.wire(1, port, other)
        one.sock.sendall(stream[:cut])
        one.sock.sendall(stream[cut:])
        whole = [each for each in frames if len(each) >= 14]
        assert two.receive_all(len(whole)) == whole
        rest = reference.save().rest
        if invalid:
            assert await_lost(wire, port) == errno.EBADMSG
            given_back = wire.remove(port).input
            assert len(given_back) >= 4
            assert rest.startswith(given_back)  # what came later was not read
        else:
            until(lambda: unread(one.sock) == 0)
            assert wire.remove(port).input == rest
        wire.remove(other)


def test_guest_memory_that_goes_away_costs_its_own_frames(program: Path) -> None:
    """The kernel refuses to read it; the far end's stream goes on with the frames of others."""
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        guest = wire.started_guest(3)
        wire.wire(1, 1, 2, 3)
        guest.send(frame(1))
        assert (one.receive(), two.receive()) == (frame(1), frame(1))
        ring = guest.driver.rings[1]
        memory = guest.memory
        ring.take_used()
        ring.add([(memory.alloc(12), 12), (memory.guest_addr + memory.size - 4096, 600)], [])
        os.ftruncate(memory.fd, memory.fd_offset + memory.size - 4096)
        ring.publish()
        until(lambda: wire.stats(1).refused == 1 and wire.stats(2).refused == 1)
        two.send(frame(2))
        assert one.receive() == frame(2)


def test_what_is_not_a_stream_is_refused(program: Path) -> None:
    add = PortAdd(1, Kind.STREAM, max_frame=MAX_FRAME)
    twice = PortAdd(1, Kind.STREAM, 2, max_frame=MAX_FRAME)
    to = PortAdd(1, Kind.STREAM, max_frame=MAX_FRAME, dest=b"x")
    with (
        WireProgram(program) as wire,
        socket.socket() as sock,
        open("/dev/null") as null,
        tempfile.TemporaryFile() as file,
        closing(StreamMemory()) as unwritten,
        closing(StreamMemory()) as good,
        closing(StreamMemory()) as bad,
    ):
        good.write(b"", b"")
        bad.write(bytes(LONGEST_KEPT), bytes(LONGEST_KEPT))
        os.pwrite(bad.fd, struct.pack("<I", LONGEST_KEPT + 1), 64 + 4)
        for request, fds, field in (
            (add, [], "fds"),
            (add, [sock.fileno()], "fds"),
            (add, [sock.fileno(), file.fileno()], "fds"),
            (add, [sock.fileno(), bad.fd], "memory"),
            (twice, [sock.fileno(), good.fd], "fds"),
            (add, [null.fileno(), good.fd], "fds"),
            (to, [sock.fileno(), good.fd], "dest_len"),
        ):
            with pytest.raises(Refused) as refused:
                wire.request(request, fds)
            assert field in refused.value.text
        assert wire.all_stats() == []
        wire.request(add, [sock.fileno(), unwritten.fd])
        wire.request(PortRemove(1))
        assert unwritten.read() == (b"", b"")
