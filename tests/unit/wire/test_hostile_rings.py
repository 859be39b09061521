"""A hostile guest breaks only its own ring in vnic-wire: it is told, and all others go on."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.wire_program import PLAIN, WireGuest, WireProgram, frame, until

from vnic.dataplane.wire.messages import RingBroken
from vnic.lab.played.driver import INDIRECT, NEXT, WRITE, DriverRing
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import VERSION_1

Break = Callable[[WireGuest, DriverRing], None]


def bad_head(guest: WireGuest, ring: DriverRing) -> None:
    ring.offer(ring.size)


def index_jump(guest: WireGuest, ring: DriverRing) -> None:
    ring.avail_idx += ring.size + 1


def outside_of_memory(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(0x10, 100)])


def beyond_the_end(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(guest.memory.guest_addr + guest.memory.size - 50, 100)])


def address_wraps(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(0xFFFF_FFFF_FFFF_FFF0, 100)])


def length_wraps(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(guest.memory.alloc(64), 0xFFFF_FFFF)])


def empty_buffer(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(guest.memory.alloc(64), 64), (guest.memory.alloc(64), 0)])


def loop(guest: WireGuest, ring: DriverRing) -> None:
    ring.set_desc(3, guest.memory.alloc(64), 64, NEXT, 4)
    ring.set_desc(4, guest.memory.alloc(64), 64, NEXT, 3)
    ring.offer(3)


def next_outside(guest: WireGuest, ring: DriverRing) -> None:
    ring.set_desc(3, guest.memory.alloc(64), 64, NEXT, 60000)
    ring.offer(3)


def readable_behind_writable(guest: WireGuest, ring: DriverRing) -> None:
    ring.set_desc(3, guest.memory.alloc(64), 64, NEXT | WRITE, 4)
    ring.set_desc(4, guest.memory.alloc(64), 64)
    ring.offer(3)


def header_missing(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(guest.memory.alloc(64), 11)])


def only_writable(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([], [(guest.memory.alloc(64), 64)])


def table(
    guest: WireGuest, ring: DriverRing, entries: bytes, length: int | None = None, flags: int = 0
) -> None:
    address = guest.memory.alloc(len(entries) or 16)
    guest.memory.write(address, entries)
    ring.set_desc(3, address, len(entries) if length is None else length, INDIRECT | flags)
    ring.offer(3)


def entry(address: int, length: int, flags: int = 0, following: int = 0) -> bytes:
    return struct.pack("<QIHH", address, length, flags, following)


def table_of_odd_length(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, entry(guest.memory.alloc(64), 64), 17)


def table_of_no_length(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, b"", 0)


def table_too_long(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, b"", 16 * 1025)


def table_outside(guest: WireGuest, ring: DriverRing) -> None:
    ring.set_desc(3, guest.memory.guest_addr + guest.memory.size - 8, 16, INDIRECT)
    ring.offer(3)


def table_in_table(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, entry(guest.memory.alloc(64), 64, INDIRECT))


def table_with_next(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, entry(guest.memory.alloc(64), 64), flags=NEXT)


def table_index_outside(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, entry(guest.memory.alloc(64), 64, NEXT, 1))


def table_loops(guest: WireGuest, ring: DriverRing) -> None:
    table(guest, ring, entry(guest.memory.alloc(64), 64, NEXT, 0))


TRANSMIT = [
    *(
        bad_head,
        index_jump,
        outside_of_memory,
        beyond_the_end,
        address_wraps,
        length_wraps,
        empty_buffer,
        loop,
    ),
    *(next_outside, readable_behind_writable, header_missing, only_writable, table_of_odd_length),
    *(table_of_no_length, table_too_long, table_outside, table_in_table, table_with_next),
    *(table_index_outside, table_loops),
]


def broken(wire: WireProgram) -> RingBroken:
    event = wire.await_event(lambda event: isinstance(event, RingBroken))
    assert isinstance(event, RingBroken)
    return event


@pytest.mark.parametrize("violate", TRANSMIT)
def test_transmit_ring_breaks_alone(program: Path, violate: Break) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        one.driver.fill_rx(2)
        two.driver.fill_rx(4)
        error = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        ring = one.driver.rings[1]
        one.client.send_u64(vu.SET_VRING_ERR, 1, [error])
        one.sync()
        one.driver.queue_tx(frame(1))
        violate(one, ring)
        ring.publish()
        event = broken(wire)
        assert (event.port, event.ring) == (1, 1)
        assert event.text
        assert os.eventfd_read(error) == 1
        os.close(error)
        if violate is not index_jump:
            assert two.receive(1) == [frame(1)], "what came before is sent"
            assert ring.used_idx == 1
        two.send(frame(2))
        assert one.receive(1) == [frame(2)], "the other ring of the guest goes on"


def test_indirect_descriptor_that_was_not_negotiated_breaks_the_ring(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(VERSION_1 | vu.F_PROTOCOL_FEATURES)
        two.driver.fill_rx(1)
        one.driver.queue_tx(frame(1), indirect=True)
        one.driver.rings[1].publish()
        assert broken(wire).ring == 1


def no_room_for_header(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([], [(guest.memory.alloc(64), 11)])


def readable_buffer(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([(guest.memory.alloc(64), 64)])


def room_outside(guest: WireGuest, ring: DriverRing) -> None:
    ring.add([], [(0x10, 2000)])


@pytest.mark.parametrize(
    "violate", [bad_head, index_jump, no_room_for_header, readable_buffer, room_outside, loop, table_in_table]
)
def test_receive_ring_breaks_alone(program: Path, violate: Break) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        one.driver.fill_rx(2)
        violate(two, two.driver.rings[0])
        two.driver.rings[0].publish()
        one.send(frame(1))
        event = broken(wire)
        assert (event.port, event.ring) == (2, 0)
        until(lambda: one.driver.rings[1].used_idx == 1)
        one.send(frame(2))
        until(lambda: one.driver.rings[1].used_idx == 2)
        assert wire.stats(2).broken == 2
        two.send(frame(3))
        assert one.receive(1) == [frame(3)]


def test_broken_ring_is_started_again_by_its_front_end(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(4)
        ring = one.driver.rings[1]
        ring.offer(ring.size)
        ring.publish()
        broken(wire)
        assert one.client.stop_ring(ring) == 0
        ring.restart()
        one.client.set_up_ring(ring)
        one.client.enable(ring)
        one.client.send_u64(vu.SET_VRING_KICK, 1, [ring.kick_fd])
        one.send(frame(1))
        assert two.receive(1) == [frame(1)]


@pytest.mark.parametrize("victim", [0, 1])
def test_truncated_memory_breaks_the_rings_in_it(program: Path, victim: int) -> None:
    with WireProgram(program) as wire:
        guests = wire.joined()
        others = wire.started_guest(3), wire.started_guest(4)
        wire.wire(2, 3, 4)
        guests[1].driver.fill_rx(8)
        others[1].driver.fill_rx(8)
        for number in range(4):
            guests[0].driver.queue_tx(frame(number))
        os.truncate(guests[victim].memory.fd, 0)
        if victim == 0:  # the driver cannot reach its ring either
            os.eventfd_write(guests[0].driver.rings[1].kick_fd, 1)
        else:
            guests[0].driver.rings[1].publish()
        events = [broken(wire), broken(wire)]
        assert {event.port for event in events} == {victim + 1}
        assert {event.ring for event in events} == {0, 1}
        assert "SIGBUS" in events[0].text
        if victim == 1:
            until(lambda: guests[0].driver.rings[1].used_idx == 4)
            assert wire.stats(2).broken == 4
        others[0].send(frame(9))
        assert others[1].receive(1) == [frame(9)]


def test_memory_that_is_truncated_before_the_rings_start(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.guest(1)
        one.client.negotiate(features=PLAIN)
        one.client.set_memory()
        one.client.set_up_ring(one.driver.rings[1])
        one.sync()
        os.truncate(one.memory.fd, 0)
        one.client.send_u64(vu.SET_VRING_KICK, 1, [one.driver.rings[1].kick_fd])
        assert broken(wire).ring == 1


def test_call_descriptor_that_blocks_breaks_its_ring(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        others = wire.started_guest(3), wire.started_guest(4)
        wire.wire(2, 3, 4)
        others[1].driver.fill_rx(8)
        two.driver.fill_rx(8)
        rx = two.driver.rings[0]
        fcntl.fcntl(rx.call_fd, fcntl.F_SETFL, 0)
        os.eventfd_write(rx.call_fd, 0xFFFF_FFFF_FFFF_FFFE)
        one.send(frame(1))
        event = broken(wire)
        assert (event.port, event.ring) == (2, 0)
        assert two.receive(1) == [frame(1)]
        others[0].send(frame(2))
        assert others[1].receive(1) == [frame(2)]


def test_call_socket_that_nobody_reads_holds_nothing_up(program: Path) -> None:
    """User-Mode Linux passes socketpairs; a guest that is stopped does not read them."""
    with WireProgram(program) as wire:
        one, two = wire.joined(size=256)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            two.client.send_u64(vu.SET_VRING_CALL, 0, [theirs.fileno()])
            two.sync()
            for number in range(1200):
                two.driver.received()
                two.driver.fill_rx(1, size=128)
                one.send(frame(number))
                until(lambda number=number: two.driver.rings[0].used_idx == number + 1)  # type: ignore[misc]
            assert ours.recv(8) == (1).to_bytes(8, "little")
            assert not wire.events


def test_kick_socket_is_read(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(8)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            one.client.send_u64(vu.SET_VRING_KICK, 1, [theirs.fileno()])
            one.sync()
            for number in range(3):
                one.driver.queue_tx(frame(number))
                one.driver.rings[1].publish(kick=False)
                ours.send((1).to_bytes(8, "little"))
                assert two.receive(1) == [frame(number)]
            ours.setblocking(False)
            theirs.setblocking(False)

            def is_empty() -> bool:
                try:
                    theirs.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    return True
                return False

            until(is_empty)
