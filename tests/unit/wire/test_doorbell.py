"""Kicks that vnic-wire takes from a vfio-user connection: whole kicks of running rings, and nothing else."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.wire_program import PLAIN, Refused, WireGuest, WireProgram, frame, until

from vnic.dataplane.wire.messages import AddDoorbell, PortRemove
from vnic.pci.irq import WANTED
from vnic.protocol.vfio_user import messages as m
from vnic.virtio.features import EVENT_IDX

REGION, FIRST, SIZE, STRIDE = 4, 0x3000, 0x1000, 4
TX = 1


def write(
    offset: int, data: bytes, *, region: int = REGION, flags: int = m.FLAG_NO_REPLY, count: int | None = None
) -> bytes:
    """A REGION_WRITE."""
    count = len(data) if count is None else count
    return m.encode(7, m.REGION_WRITE, m.REGION_ACCESS.pack(offset, region, count) + data, flags=flags)


def kick(ring: int) -> bytes:
    return write(FIRST + STRIDE * ring, struct.pack("<H", ring))


class Vm:
    """A guest whose kicks are messages, and its connection, which control reads by turns with the program."""

    def __init__(self, wire: WireProgram, guest: WireGuest) -> None:
        self.wire, self.guest = wire, guest
        self.sock, self.ours = socket.socketpair()
        self.given, self.theirs = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.request = AddDoorbell(guest.port, REGION, FIRST, SIZE, STRIDE)
        wire.request(self.request, self.fds)

    @property
    def fds(self) -> tuple[int, int, int]:
        return self.ours.fileno(), self.given, self.theirs

    def give_turn(self) -> None:
        os.eventfd_write(self.theirs, 1)

    def await_turn(self) -> None:
        """Until the program has given it back."""
        ready, _, _ = select.select([self.given], [], [], 60)
        assert ready, "the program keeps the turn"
        os.eventfd_read(self.given)

    def read(self) -> bytes:
        """What the program left of the connection."""
        try:
            return self.ours.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def unread(self) -> bytes:
        """What the program has not taken yet, which stays."""
        try:
            return self.ours.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def queue(self, *frames: bytes) -> None:
        """Make frames available without a kick."""
        for each in frames:
            self.guest.driver.queue_tx(each)
        self.guest.driver.rings[TX].publish(kick=False)

    def close(self) -> None:
        self.sock.close()
        self.ours.close()
        os.close(self.given)
        os.close(self.theirs)


@contextmanager
def vm(program: Path, features: int = PLAIN) -> Iterator[tuple[Vm, WireGuest]]:
    """A VM on a cable with another guest, which has room; both sleep."""
    with WireProgram(program) as wire:
        one, two = wire.joined(features)
        two.driver.fill_rx(128)
        vm = Vm(wire, one)
        try:
            yield vm, two
        finally:
            vm.close()


def test_nothing_is_read_before_the_turn_is_given(program: Path) -> None:
    with vm(program) as (one, two):
        one.queue(frame(1))
        one.sock.send(kick(TX))
        one.guest.sync()
        assert one.read() == kick(TX)
        one.sock.send(kick(TX))
        one.give_turn()
        assert two.receive(1) == [frame(1)]
        until(lambda: not one.read())


@pytest.mark.parametrize("features", [PLAIN, PLAIN | EVENT_IDX])
def test_each_kick_moves_what_is_there(program: Path, features: int) -> None:
    with vm(program, features) as (one, two):
        one.give_turn()
        for number in range(64):
            one.queue(frame(number))
            one.sock.send(kick(TX))
            assert two.receive(1) == [frame(number)]
        one.sock.send(b"x")
        one.await_turn()
        assert one.read() == b"x", "a kick is left"


def test_kicks_of_a_receive_ring_tell_of_room(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        far = Vm(wire, two)
        far.give_turn()
        one.send(frame(1))
        ring = two.driver.rings[0]
        until(lambda: one.driver.rings[TX].used_idx == 0 and not ring.used_flags)
        address = two.memory.alloc(1600)
        ring.add([], [(address, 1600)])
        ring.publish(kick=False)
        far.sock.send(kick(0))
        until(lambda: ring.used_idx == 1)
        assert two.memory.read(address + 12, len(frame(1))) == frame(1)
        far.close()


def test_many_kicks_at_once(program: Path) -> None:
    with vm(program) as (one, two):
        one.queue(*map(frame, range(100)))
        one.sock.send(kick(TX) * 1000)
        one.give_turn()
        two.receive(100)
        one.sock.send(b"x")
        one.await_turn()
        assert one.read() == b"x"


OTHERS = {
    "a read": m.encode(1, m.REGION_READ, m.REGION_ACCESS.pack(0, REGION, 4)),
    "a write that wants a reply": write(FIRST + 4, b"\1\0", flags=0),
    "another region": write(FIRST + 4, b"\1\0", region=3),
    "below": write(FIRST - 4, b"\1\0"),
    "above": write(FIRST + SIZE, b"\1\0"),
    "across the end": write(FIRST + SIZE - 1, b"\1\0"),
    "a ring that is not there": kick(2),
    "a far ring": kick(1023),
    "too long": write(FIRST + 4, bytes(9)),
    "a count that lies": write(FIRST + 4, b"\1\0", count=8),
    "an endless count": write(FIRST + 4, b"\1\0", count=0xFFFF_FFFF),
    "a reply": m.encode(1, m.REGION_WRITE, kick(TX)[16:], flags=m.TYPE_REPLY | m.FLAG_NO_REPLY),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_all_else_is_controls(program: Path, other: bytes) -> None:
    with vm(program) as (one, two):
        one.give_turn()
        one.queue(frame(1))
        one.sock.send(kick(TX) + other + kick(TX))
        one.await_turn()
        assert one.read() == other + kick(TX)
        assert two.receive(1) == [frame(1)]
        one.sock.send(kick(TX))
        one.guest.sync()
        assert len(one.ours.recv(64, socket.MSG_PEEK)) == len(kick(TX)), "it is not the program's turn"
        one.queue(frame(2))
        one.give_turn()
        assert two.receive(1) == [frame(2)]
        until(lambda: not one.read())


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33])
def test_a_part_of_a_kick_is_controls(program: Path, size: int) -> None:
    with vm(program) as (one, _):
        one.give_turn()
        one.sock.send(kick(TX) + kick(TX)[:size])
        one.await_turn()
        assert one.read() == kick(TX)[:size]


def test_control_may_have_the_turn_back(program: Path) -> None:
    with vm(program) as (one, two):
        one.give_turn()
        one.queue(frame(1))
        one.sock.send(kick(TX))
        assert two.receive(1) == [frame(1)]
        until(lambda: not one.unread())  # a ring that spins has its frames moved before the kick is looked at
        os.eventfd_write(one.theirs, WANTED)
        one.await_turn()
        os.eventfd_write(one.theirs, WANTED)  # it has been given: without effect
        os.eventfd_write(one.theirs, 1 + WANTED)
        one.await_turn()
        one.sock.send(kick(TX))
        one.guest.sync()
        assert one.read() == kick(TX)


def test_descriptors_of_a_message_stay_with_it(program: Path) -> None:
    with vm(program) as (one, _):
        one.give_turn()
        message = m.encode(1, m.DMA_MAP, bytes(m.DMA_MAP_LAYOUT.size))
        socket.send_fds(one.sock, [message], [one.given])
        one.await_turn()
        data, fds, _, _ = socket.recv_fds(one.ours, 1 << 16, 4)
        assert (data, len(fds)) == (message, 1)
        os.close(fds[0])


def test_end_of_the_connection_is_controls(program: Path) -> None:
    with vm(program) as (one, _):
        one.give_turn()
        one.sock.close()
        one.await_turn()
        assert one.ours.recv(1) == b""


def test_kicks_of_a_stopped_ring_are_controls(program: Path) -> None:
    """Control has the ring by then, and has to look at it."""
    with vm(program) as (one, _):
        one.give_turn()
        one.guest.take_back()
        one.sock.send(kick(TX))
        one.await_turn()
        assert one.read() == kick(TX)


def test_removed_port_reads_no_more(program: Path) -> None:
    with vm(program) as (one, _):
        one.give_turn()
        one.wire.request(PortRemove(one.guest.port))
        one.sock.send(kick(TX))
        one.wire.all_stats()
        assert one.read() == kick(TX)


def test_refused_doorbells(program: Path) -> None:
    with vm(program) as (one, _):
        for request, fds, error in (
            (one.request, one.fds, errno.EEXIST),
            (AddDoorbell(2, REGION, FIRST, SIZE, 0), one.fds, errno.EINVAL),
            (AddDoorbell(2, REGION, 1 << 63, 1 << 63, 4), one.fds, errno.EINVAL),
            (AddDoorbell(2, REGION, FIRST, SIZE, STRIDE), one.fds[:2], errno.EINVAL),
            (AddDoorbell(3, REGION, FIRST, SIZE, STRIDE), one.fds, errno.ENOENT),
        ):
            with pytest.raises(Refused) as refused:
                one.wire.request(request, fds)
            assert refused.value.error == error
