"""HOLD and PORT_RECALL: a control that was started again has all back, and nothing is lost, doubled or out of order."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tests.fakes.wire_ends import Stream, add_datagrams, datagram_pair, unread
from tests.fakes.wire_program import Flow, Refused, Sink, WireProgram, built_program, frame, until

from vnic.dataplane.wire.impair_messages import Impair, ImpairDirection, Impairment, ImpairReply
from vnic.dataplane.wire.messages import FrameReturned, Kind, PortAdd
from vnic.dataplane.wire.recall_messages import Hold, LinesDrop, LineTake, PortRecall, RecallReply

OUT = ImpairDirection.OUT
MS = 1_000_000
HOUR = 3_600_000_000_000


def recalled(wire: WireProgram, port: int) -> RecallReply:
    return RecallReply.parse(wire.request(PortRecall(port)))


def test_held_ports_send_nothing_and_lose_nothing(program: Path) -> None:
    """A hub of three: none gets a frame that another one misses."""
    with WireProgram(program) as wire:
        guests = [wire.started_guest(number) for number in (1, 2, 3)]
        sinks = [Sink(guest, 64) for guest in guests]
        wire.wire(1, 1, 2, 3)
        wire.request(Hold())
        guests[0].send(frame(1), frame(2))
        assert wire.stats(1).frames_in == 0
        for number in (1, 2, 3):
            assert wire.stats(number).drops == {}
        wire.wire(2, 1, 2, 3)
        until(lambda: all(len(sink.take()) == 2 for sink in sinks[1:]))
        assert [sink.frames for sink in sinks[1:]] == [[frame(1), frame(2)]] * 2


def test_rings_are_complete_after_a_recall(program: Path) -> None:
    """Traffic all the time: what the transmit ring has returned has arrived, and nothing else has."""
    with WireProgram(program) as wire:
        one, two = wire.guest(1), wire.guest(2)
        sink, flow = Sink(two, 128), Flow(one)
        for turn in range(60):
            one.start()
            two.start()
            wire.wire(turn + 1, 1, 2)
            for _ in range(turn % 7):
                flow.push(48)
                sink.take()
            wire.request(Hold())
            for guest in (one, two):
                assert recalled(wire, guest.port).stats.drops == {}
                guest.client.close()
                guest.connect(guest.port)
            assert len(sink.take()) == one.driver.rings[1].used_idx
        assert sink.frames == [frame(number) for number in range(len(sink.frames))]
        assert flow.sent >= len(sink.frames) > 1000


def test_a_full_ring_has_the_rest_returned(program: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with WireProgram(program) as wire, ours, theirs:
        add_datagrams(wire, 2, theirs.dup())
        guest = wire.started_guest(1)
        guest.driver.fill_rx(4)
        wire.wire(1, 1, 2)
        for number in range(10):
            ours.send(frame(number))
        got = guest.receive(4)
        wire.request(Hold())
        recalled(wire, 1)
        reply = recalled(wire, 2)
        back = [event for event in wire.events if isinstance(event, FrameReturned)]
        assert [event.number for event in back] == list(range(1, len(back) + 1))
        got += [event.frame for event in back]
        ours.send(frame(10))
        while len(got) < 11:
            got.append(theirs.recv(2000))
        assert got == [frame(number) for number in range(11)]
        assert (reply.kind, reply.stats.port, reply.stats.frames_in, reply.lines) == (Kind.DGRAM, 2, 4, ())


def test_streams_go_on_in_the_middle_of_a_frame(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        wire.wire(1, 1, 2)
        whole = (60).to_bytes(4, "big") + frame(1, 60)
        one.sock.sendall(whole + whole[:20])
        assert two.receive() == frame(1, 60)
        until(lambda: not unread(one.sock))
        wire.request(Hold())
        for number in (1, 2):
            recalled(wire, number)
        assert wire.memories[1].read() == (whole[:20], b"")
        assert wire.memories[2].read() == (b"", b"")


def test_frames_under_way_keep_their_time(program: Path) -> None:
    """The delay goes on while the ports are with nobody, and the order stays."""
    with WireProgram(program) as wire, datagram_pair(wire, 1) as one, datagram_pair(wire, 2) as two:
        wire.wire(1, 1, 2)
        wire.request(Impair(2, OUT, Impairment(delay_ns=300 * MS)))
        begin = time.monotonic()
        for number in range(20):
            one.send(frame(number))
        until(lambda: wire.stats(1).frames_in == 20)
        wire.request(Hold())
        recalled(wire, 1)
        ((direction, line),) = recalled(wire, 2).lines
        assert (direction, line.waiting, line.passed) == (OUT, 20, 0)
        with datagram_pair(wire, 11) as _, datagram_pair(wire, 12) as three:
            report = ImpairReply.parse(wire.request(LineTake(12, OUT, 2)))
            assert report == line
            wire.wire(2, 11, 12)
            assert [three.recv(2000) for _ in range(20)] == [frame(number) for number in range(20)]
            assert time.monotonic() - begin > 0.29
            with pytest.raises(Refused, match="no line of port 2 was kept"):
                wire.request(LineTake(11, OUT, 2))
        del two


def test_lines_that_no_port_takes_are_dropped(program: Path) -> None:
    with WireProgram(program) as wire, datagram_pair(wire, 1) as one, datagram_pair(wire, 2):
        wire.wire(1, 1, 2)
        wire.request(Impair(2, OUT, Impairment(delay_ns=HOUR)))
        for number in range(20):
            one.send(frame(number))
        until(lambda: wire.stats(1).frames_in == 20)
        wire.request(Hold())
        assert recalled(wire, 2).lines[0][1].waiting == 20
        wire.request(LinesDrop())
        with pytest.raises(Refused, match="no line of port 2 was kept"):
            wire.request(LineTake(1, OUT, 2))


def test_a_port_has_one_line_in_a_direction(program: Path) -> None:
    with WireProgram(program) as wire, datagram_pair(wire, 1), datagram_pair(wire, 2):
        for number in (1, 2):
            wire.request(Impair(number, OUT, Impairment(delay_ns=HOUR)))
        recalled(wire, 2)
        with pytest.raises(Refused, match="port 1 is impaired"):
            wire.request(LineTake(1, OUT, 2))


def test_replies_say_what_they_answer(program: Path) -> None:
    with WireProgram(program) as wire, datagram_pair(wire, 7):
        for request in (PortRecall(7), PortRecall(7), PortAdd(9, Kind.TAP)):
            try:
                wire.request(request)
            except Refused:
                pass
            assert wire.last is not None
            assert (wire.last.request, wire.last.port) == (request.type, request.port)


def test_a_hanging_program_ends_when_control_is_gone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And when the keeper is gone, who held the channel for control's successor. This one's main thread hangs at the
    end of the channel."""
    hanging = built_program(tmp_path_factory, "vnic-wire-hangs", "-DTEST_HANG")
    wire = WireProgram(hanging)
    begin = time.monotonic()
    wire.sock.close()
    assert wire.child.wait(30) == 1
    assert time.monotonic() - begin > 1.9
    assert wire.child.stderr is not None
    wire.child.stderr.close()
