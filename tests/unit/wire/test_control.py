"""vnic-wire's control channel: the hello, ports, wires, statistics, and what it refuses."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from pathlib import Path

import pytest
from tests.fakes.loops import open_fds
from tests.fakes.wire_program import MAX_FRAME, PLAIN, Refused, WireProgram, frame, until

from vnic.dataplane.wire.messages import HEAD, VERSION, Hello, Inject, Kind, PortAdd, PortRemove
from vnic.protocol.vhost_user import messages as vu


def raw(number: int, body: bytes, serial: int = 7) -> bytes:
    return HEAD.pack(number, serial) + body


def test_hello_tells_version_and_pid(program: Path) -> None:
    with WireProgram(program, workers=3) as wire:
        assert wire.hello is not None
        assert (wire.hello.version, wire.hello.pid) == (VERSION, wire.child.pid)
        with pytest.raises(Refused) as refused:
            wire.request(Hello())
        assert refused.value.error == errno.EALREADY


@pytest.mark.parametrize(
    ("hello", "error", "text"),
    [
        (Hello(version=1), errno.EPROTONOSUPPORT, "version: 1, this is 2"),
        (Hello(workers=0), errno.EINVAL, "workers: 0"),
        (Hello(workers=65), errno.EINVAL, "workers: 65"),
        (Hello(spin_us=1_000_001), errno.EINVAL, "spin_us: 1000001"),
    ],
)
def test_bad_hello_is_refused(program: Path, hello: Hello, error: int, text: str) -> None:
    with WireProgram(program, greet=False) as wire:
        with pytest.raises(Refused) as refused:
            wire.request(hello)
        assert (refused.value.error, refused.value.text) == (error, text)
        wire.request(Hello())


def test_nothing_comes_before_the_hello(program: Path) -> None:
    with WireProgram(program, greet=False) as wire:
        with pytest.raises(Refused) as refused:
            wire.request(PortRemove(1))
        assert refused.value.text == "type: 3 before the hello"


def test_unknown_and_misshapen_requests_are_refused(program: Path) -> None:
    with WireProgram(program) as wire:
        for number in (0, 19, 99, 0xFFFF_FFFF):
            reply = wire.send_raw(raw(number, b""))
            assert (reply.serial, reply.error) == (7, errno.EOPNOTSUPP)
        for number in range(1, 17):
            assert wire.send_raw(raw(number, b"")).error == errno.EINVAL
        assert wire.send_raw(raw(3, bytes(5))).error == errno.EINVAL
        assert wire.send_raw(raw(2, bytes(200_000))).error == errno.EMSGSIZE
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reply = wire.send_raw(raw(3, bytes(4)), [ours.fileno(), theirs.fileno()])
            assert (reply.error, reply.data) == (errno.EINVAL, b"fds: 2 with a request of type 3")


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (PortAdd(1 << 20, Kind.VHOST, max_frame=1514), "port: 1048576"),
        (PortAdd(1, Kind.VHOST, queues=0, max_frame=1514), "queues: 0"),
        (PortAdd(1, Kind.VHOST, queues=129, max_frame=1514), "queues: 129"),
        (PortAdd(1, Kind.VHOST, max_frame=13), "max_frame: 13"),
        (PortAdd(1, Kind.VHOST, max_frame=MAX_FRAME + 1), "max_frame: 69633"),
        (PortAdd(1, Kind.VHOST, max_frame=1514), "fds: 0, not 1"),
    ],
)
def test_bad_port_is_refused(program: Path, request_: PortAdd, text: str) -> None:
    with WireProgram(program) as wire:
        with pytest.raises(Refused) as refused:
            wire.request(request_)
        assert (refused.value.error, refused.value.text) == (errno.EINVAL, text)
        assert wire.all_stats() == []


def test_refused_requests_leave_no_descriptor_behind(program: Path) -> None:
    with WireProgram(program) as wire:
        wire.guest(1)
        before = open_fds(wire.child.pid)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for request in (
                PortAdd(1, Kind.VHOST, max_frame=1514),
                PortAdd(2, Kind.VHOST, queues=0, max_frame=1514),
                PortAdd(2, Kind.TAP, queues=2, max_frame=1514),
            ):
                with pytest.raises(Refused):
                    wire.request(request, [theirs.fileno()])
        assert open_fds(wire.child.pid) == before


def test_removed_port_leaves_nothing_behind(program: Path) -> None:
    with WireProgram(program) as wire:
        before = open_fds(wire.child.pid)
        for _ in range(3):
            one, two = wire.joined()
            two.driver.fill_rx(1)
            one.send(frame(1))
            two.receive(1)
            wire.remove(1)
            wire.remove(2)
        assert open_fds(wire.child.pid) == before
        with pytest.raises(Refused) as refused:
            wire.remove(1)
        assert (refused.value.error, refused.value.text) == (errno.ENOENT, "port: there is no port 1")


def test_statistics_come_in_pages(program: Path) -> None:
    with WireProgram(program) as wire:
        pairs = [socket.socketpair() for _ in range(3)]
        for number, (_, theirs) in zip((9, 3, 700), pairs, strict=True):
            wire.request(PortAdd(number, Kind.VHOST, max_frame=1514), [theirs.fileno()])
        assert wire.all_stats() == [3, 9, 700]
        assert wire.all_stats(10) == [700]
        assert wire.all_stats(701) == []
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


def test_bad_wire_is_refused_and_changes_nothing(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        for body, text in (
            (struct.pack("<II", 1 << 20, 0), "wire: 1048576"),
            (struct.pack("<III", 1, 2, 1), "n: 2 ports in 20 bytes"),
            (struct.pack("<IIII", 1, 2, 1, 1), "ports: 1 is named twice"),
            (struct.pack("<IIII", 1, 2, 1, 5), "port: there is no port 5"),
        ):
            reply = wire.send_raw(raw(4, body))
            assert reply.error
            assert reply.data.decode() == text
        two.driver.fill_rx(1)
        one.send(frame(1))
        assert two.receive(1) == [frame(1)]


def test_port_without_wire_drops_once_it_had_one(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.started_guest(1)
        one.send(frame(1))
        assert wire.stats(1).frames_in == 0
        wire.wire(1, 1)
        assert one.driver.rings[1].used_idx == 0, "a wire of one port holds its frames"
        two = wire.started_guest(2)
        two.driver.fill_rx(8)
        wire.wire(1, 1, 2)
        assert two.receive(1) == [frame(1)]
        wire.wire(1)
        one.send(frame(2), frame(3))
        until(lambda: one.driver.rings[1].used_idx == 3)
        assert wire.stats(1).no_peer == 2


def test_frames_to_a_guest_without_rings_are_dropped(program: Path) -> None:
    with WireProgram(program) as wire:
        one, _ = wire.started_guest(1), wire.guest(2)
        wire.wire(1, 1, 2)
        one.send(frame(1))
        until(lambda: one.driver.rings[1].used_idx == 1)
        assert wire.stats(2).no_peer == 1


def test_hub_copies_to_all_others(program: Path) -> None:
    with WireProgram(program) as wire:
        guests = [wire.started_guest(number) for number in range(1, 5)]
        wire.wire(1, 1, 2, 3, 4)
        for guest in guests:
            guest.driver.fill_rx(4)
        guests[1].send(frame(1), frame(2))
        for at in (0, 2, 3):
            assert guests[at].receive(2) == [frame(1), frame(2)]
        assert wire.stats(2).frames_in == 2
        assert wire.stats(2).frames_out == 0


def test_hub_waits_only_while_no_port_has_room(program: Path) -> None:
    with WireProgram(program) as wire:
        guests = [wire.started_guest(number) for number in (1, 2, 3)]
        wire.wire(1, 1, 2, 3)
        guests[1].driver.fill_rx(3)
        guests[2].driver.fill_rx(1)
        guests[0].send(*(frame(number) for number in range(4)))
        assert guests[1].receive(3) == [frame(0), frame(1), frame(2)]
        assert guests[2].receive(1) == [frame(0)]
        until(lambda: not guests[2].driver.rings[0].used_flags)
        assert guests[0].driver.rings[1].used_idx == 3, "the fourth waits"
        assert (wire.stats(2).no_room, wire.stats(3).no_room) == (0, 2)
        guests[2].driver.fill_rx(1)
        assert guests[2].receive(1) == [frame(3)]
        until(lambda: guests[0].driver.rings[1].used_idx == 4)
        assert wire.stats(2).no_room == 1


def test_injected_frames_go_out_or_into_the_wire(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        one.driver.fill_rx(2)
        two.driver.fill_rx(2)
        wire.request(Inject(1, 0, frame(1)))
        assert one.receive(1) == [frame(1)]
        wire.request(Inject(1, 0, frame(2), inward=True))
        assert two.receive(1) == [frame(2)]
        wire.request(Inject(1, 0, frame(3)))
        with pytest.raises(Refused) as refused:
            wire.request(Inject(1, 0, frame(4)))
        assert refused.value.error == errno.EAGAIN
        for request, text in (
            (Inject(1, 0, bytes(13)), "frame: 13 bytes"),
            (Inject(1, 1, frame(1)), "queue: 1, of 1"),
            (Inject(5, 0, frame(1)), "port: there is no port 5"),
        ):
            with pytest.raises(Refused) as refused:
                wire.request(request)
            assert refused.value.text == text


def test_events_wait_for_control_that_does_not_read(program: Path) -> None:
    """More than its socket holds; replies stay in order behind them."""
    with WireProgram(program) as wire:
        one = wire.started_guest(1, PLAIN)
        wire.wire(1, 1)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        ring = one.driver.rings[1]
        for _ in range(300):
            ring.restart()
            ring.offer(ring.size)
            one.client.set_up_ring(ring)
            one.client.enable(ring)
            one.client.send_u64(vu.SET_VRING_KICK, 1, [ring.kick_fd])
            one.client.stop_ring(ring)
        assert wire.stats(1).port == 1


def test_end_of_the_channel_ends_the_program(program: Path) -> None:
    with WireProgram(program) as wire:
        wire.joined()
        wire.sock.close()
        assert wire.child.wait(60) == 0


def test_killed_program_leaves_the_guests_rings_and_no_process(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(2)
        one.send(frame(1))
        two.receive(1)
        wire.child.send_signal(signal.SIGKILL)
        assert wire.child.wait(60) == -signal.SIGKILL
        assert not os.path.exists(f"/proc/{wire.child.pid}/fd/3")
        assert one.client.wire.closed()  # type: ignore[attr-defined]
