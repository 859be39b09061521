"""DGRAM ports: one frame per datagram, over unix sockets, UDP and multicast, connected or not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.fakes.wire_ends import (
    Stream,
    add_datagrams,
    datagram_pair,
    passed,
    sockaddr_in,
    sockaddr_un,
    unread,
)
from tests.fakes.wire_program import MAX_FRAME, PATIENCE_S, Refused, WireProgram, frame, until

from vnic.backend.datagram import multicast_socket
from vnic.dataplane.wire.messages import Kind, PortAdd, PortFlag

Inet = tuple[str, int]


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(PATIENCE_S)
    return sock


def test_stream_and_datagrams_join(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, datagram_pair(wire, 2) as datagrams:
        wire.wire(1, 1, 2)
        stream.send(*(frame(number, 60 + number) for number in range(8)))
        assert [datagrams.recv(MAX_FRAME) for _ in range(8)] == [
            frame(number, 60 + number) for number in range(8)
        ]
        datagrams.send(frame(9, 60_000))
        assert stream.receive() == frame(9, 60_000)
        stats = wire.stats(2)
        assert (stats.frames_in, stats.frames_out, stats.drops) == (1, 8, {})


def test_short_datagrams_are_left_out(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, datagram_pair(wire, 2) as datagrams:
        wire.wire(1, 1, 2)
        for data in (b"", b"x" * 13, frame(1)):
            datagrams.send(data)
        assert stream.receive() == frame(1)
        assert wire.stats(2).too_short == 2


def test_too_long_datagram_is_dropped(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, datagram_pair(wire, 2) as datagrams:
        wire.wire(1, 1, 2)
        datagrams.send(bytes(MAX_FRAME + 1))
        datagrams.send(frame(1))
        assert stream.receive() == frame(1)
        assert wire.stats(2).too_long == 1


def test_slow_datagram_receiver_stops_the_stream(program: Path) -> None:
    """A connected unix socket tells when there is room."""
    frames = [frame(number, 1000) for number in range(2000)]
    with WireProgram(program) as wire, Stream(wire, 1) as stream, datagram_pair(wire, 2) as datagrams:
        wire.wire(1, 1, 2)
        stream.sock.setblocking(False)
        got: list[bytes] = []
        sent = 0
        while len(got) < len(frames):
            try:
                while sent < len(frames):
                    # One call takes all or nothing of so few bytes.
                    stream.send(frames[sent])
                    sent += 1
            except BlockingIOError:
                pass
            got.append(datagrams.recv(MAX_FRAME))
        assert got == frames
        assert wire.stats(2).drops == {}


def test_unconnected_unix_receiver_that_is_slow(program: Path, tmp_path: Path) -> None:
    """The kernel does not tell when its queue has room; the port tries again, and loses nothing."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(there)
    ours.settimeout(PATIENCE_S)
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.bind(here)
    frames = [frame(number) for number in range(200)]
    with WireProgram(program) as wire, Stream(wire, 1) as stream, ours:
        add_datagrams(wire, 2, theirs, dest=sockaddr_un(there))
        wire.wire(1, 1, 2)
        stream.send(*frames)
        assert [ours.recv(MAX_FRAME) for _ in frames] == frames
        ours.sendto(frame(1), here)
        assert stream.receive() == frame(1)
        assert wire.stats(2).drops == {}


def test_missing_unix_receiver_loses_frames_and_nothing_else(program: Path, tmp_path: Path) -> None:
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.bind(str(tmp_path / "here"))
    there = str(tmp_path / "there")
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        add_datagrams(wire, 2, theirs, dest=sockaddr_un(there))
        wire.wire(1, 1, 2)
        stream.send(frame(1))
        until(lambda: wire.stats(2).refused == 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.bind(there)
            ours.settimeout(PATIENCE_S)
            stream.send(frame(2))
            assert ours.recv(MAX_FRAME) == frame(2)


@pytest.mark.needs("loopback")
def test_udp_to_a_destination(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, udp() as ours:
        theirs = udp()
        address: Inet = theirs.getsockname()
        add_datagrams(wire, 2, theirs, dest=sockaddr_in(ours.getsockname()))
        wire.wire(1, 1, 2)
        stream.send(frame(1, 1400), frame(2))
        assert [ours.recv(MAX_FRAME), ours.recv(MAX_FRAME)] == [frame(1, 1400), frame(2)]
        ours.sendto(frame(3), address)
        assert stream.receive() == frame(3)
        # 69 KiB are more than UDP takes.
        stream.send(frame(4, MAX_FRAME), frame(5))
        assert ours.recv(MAX_FRAME) == frame(5)
        assert wire.stats(2).refused == 1


@pytest.mark.needs("loopback")
def test_icmp_error_does_not_end_a_udp_port(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        ours = udp()
        there: Inet = ours.getsockname()
        theirs = udp()
        here: Inet = theirs.getsockname()
        theirs.connect(there)
        add_datagrams(wire, 2, theirs)
        wire.wire(1, 1, 2)
        ours.close()
        stream.send(*(frame(number) for number in range(10)))
        until(lambda: wire.stats(2).refused + wire.stats(2).frames_out == 10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(there)
            again.sendto(frame(11), here)
            assert stream.receive() == frame(11)


@pytest.mark.needs("loopback")
@pytest.mark.parametrize("leaves_own_out", [False, True])
def test_multicast(program: Path, leaves_own_out: bool) -> None:
    """The group's members get what each sends; so does the sender, unless it drops what its own address sent."""
    group = ("239.255.77.1", 0)
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        first = multicast_socket(group, "127.0.0.1")
        group = (group[0], first.getsockname()[1])
        second = multicast_socket(group, "127.0.0.1")
        second.settimeout(PATIENCE_S)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with second, sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            # What a socket that is bound to the group sends comes from the interface's address.
            own = sockaddr_in(("127.0.0.1", group[1]))
            flags = PortFlag.MULTICAST_OWN if leaves_own_out else PortFlag(0)
            add_datagrams(wire, 2, first, dest=sockaddr_in(group), own=own, flags=flags)
            wire.wire(1, 1, 2)
            stream.send(frame(1))
            assert second.recv(MAX_FRAME) == frame(1)
            sender.sendto(frame(2), group)
            expected = [frame(2)] if leaves_own_out else [frame(1), frame(2)]
            assert stream.receive_all(len(expected)) == expected


def test_flood_of_datagrams_waits_for_the_guest(program: Path) -> None:
    with WireProgram(program) as wire, datagram_pair(wire, 1) as datagrams:
        guest = wire.started_guest(2)
        wire.wire(1, 1, 2)
        datagrams.setblocking(False)
        sent = 0
        try:
            while True:
                datagrams.send(frame(sent, 100))
                sent += 1
        except BlockingIOError:
            pass
        got: list[bytes] = []
        while len(got) < sent:
            guest.driver.fill_rx(10)
            got += guest.receive(min(10, sent - len(got)))
        assert got == [frame(number, 100) for number in range(sent)]
        passed(wire, 1, sent)


def test_frames_that_were_read_are_returned(program: Path) -> None:
    """Their destination had no room when the port was removed."""
    with WireProgram(program) as wire, datagram_pair(wire, 1) as far:
        guest = wire.started_guest(2)
        sent = [frame(number, 100 + number) for number in range(8)]
        for each in sent:
            far.send(each)
        wire.wire(1, 1, 2)  # it reads all of them at once
        until(lambda: unread(far) == 0)
        guest.driver.fill_rx(3)
        assert guest.receive(3) == sent[:3]
        returned = wire.remove(1).frames
        assert [each.frame for each in returned] == sent[3:]
        assert {(each.queue, each.header) for each in returned} == {(0, bytes(10))}


def test_what_is_not_a_datagram_socket_is_refused(program: Path) -> None:
    with WireProgram(program) as wire, udp() as sock, open("/dev/null") as null:
        for request, fd, field in (
            (PortAdd(1, Kind.DGRAM, max_frame=MAX_FRAME), null.fileno(), "fds"),
            (PortAdd(1, Kind.DGRAM, max_frame=MAX_FRAME, dest=bytes(129)), sock.fileno(), "dest_len"),
            (PortAdd(1, Kind.DGRAM, flags=PortFlag.VNET_HDR, max_frame=MAX_FRAME), sock.fileno(), "flags"),
            (
                PortAdd(1, Kind.DGRAM, flags=PortFlag.MULTICAST_OWN, max_frame=MAX_FRAME),
                sock.fileno(),
                "own_len",
            ),
        ):
            with pytest.raises(Refused) as refused:
                wire.request(request, [fd])
            assert field in refused.value.text
        assert wire.all_stats() == []
