"""What one ring may cost in one turn of the loop, however its chains are made: other NICs and the monitor wait."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.dataplane.python_pair import BUFFER_COST_BYTES, BURST_BUFFERS, BURST_BYTES
from vnic.lab.played.driver import (
    INDIRECT,
    NEXT,
    WRITE,
    DriverRing,
)
from vnic.net.offload import GSO_TCPV4, NEEDS_CSUM
from vnic.nic.virtio_net import VirtioNet, control
from vnic.virtio.queue import MAX_CHAIN

DESC = struct.Struct("<QIHH")


def fill(lab: VirtioLab, ring: DriverRing, parts: list[tuple[int, int, int]]) -> None:
    """Make the whole ring available, all of it the same indirect table of (address, length, flags)."""
    table = lab.guest.alloc(16 * len(parts))
    for at, (addr, length, flags) in enumerate(parts):
        more = NEXT if at + 1 < len(parts) else 0
        lab.guest.write(table + 16 * at, DESC.pack(addr, length, flags | more, at + 1 if more else 0))
    for head in range(ring.size):
        ring.set_desc(head, table, 16 * len(parts), INDIRECT)
        ring.offer(head)
    ring.publish()


@pytest.mark.parametrize("length", [1, 60, 60_000])
def test_descriptors_sent_per_turn_are_bounded(length: int) -> None:
    """1024 descriptors take about a millisecond to follow, whatever they hold."""
    with VirtioLab() as lab:
        lab.plug()
        buffer = lab.guest.alloc(length)
        ring = lab.driver.rings[1]
        fill(lab, ring, [(buffer, length, 0)] * MAX_CHAIN)
        lab.driver.kick(1)
        assert 1 <= ring.used_idx <= BURST_BYTES // (BUFFER_COST_BYTES * MAX_CHAIN) + 1
        lab.settle()
        assert ring.used_idx == ring.size, "the rest in later turns"


def test_segments_sent_per_turn_are_bounded() -> None:
    """A short packet can ask for a thousand segments."""
    with VirtioLab(VirtioNet(), FarEnd(wants_offload=True)) as lab:
        lab.plug()
        header = struct.pack("<BBHHHHH", NEEDS_CSUM, GSO_TCPV4, 54, 1, 34, 16, 0)
        for _ in range(8):
            lab.driver.queue_tx(frame(1, 1200), header=header)
        lab.driver.rings[1].publish()
        lab.driver.kick(1)
        assert len(lab.sent) <= BURST_BYTES // (BUFFER_COST_BYTES * 1200) + 1
        lab.settle()
        assert len(lab.sent) == 8


def test_descriptors_searched_for_room_per_turn_are_bounded() -> None:
    with VirtioLab() as lab:
        lab.plug()
        buffer = lab.guest.alloc(64)
        ring = lab.driver.rings[0]
        fill(lab, ring, [(buffer, 64, WRITE)] * MAX_CHAIN)
        lab.driver.kick()
        for number in range(16):
            lab.netdev.send(0, frame(number))
        assert ring.used_idx == BURST_BUFFERS // MAX_CHAIN
        assert not lab.netdev.can_send(0), "the others wait"
        lab.settle()
        assert ring.used_idx == 16


def test_packet_that_needs_too_many_buffers_is_dropped() -> None:
    with VirtioLab() as lab:
        lab.plug()
        buffer = lab.guest.alloc(16)
        ring = lab.driver.rings[0]
        fill(lab, ring, [(buffer, 4, WRITE)] * 3)
        lab.driver.kick()
        assert lab.netdev.send(0, frame(1, 3 * MAX_CHAIN * 4 + 100)), "lost, not kept"
        assert ring.used_idx == 0
        assert lab.netdev.send(0, frame(2))
        assert ring.used_idx == 6


def test_descriptors_of_control_commands_per_turn_are_bounded() -> None:
    with VirtioLab() as lab:
        lab.plug()
        command, ack = lab.guest.alloc(16), lab.guest.alloc(1)
        ring = lab.driver.rings[2]
        fill(lab, ring, [*[(command, 1, 0)] * (MAX_CHAIN - 1), (ack, 1, WRITE)])
        lab.driver.kick(2)
        assert ring.used_idx == 1
        lab.settle()
        assert ring.used_idx == ring.size


def test_bytes_of_control_commands_per_turn_are_bounded() -> None:
    with VirtioLab() as lab:
        lab.plug()
        size = control.COMMAND_BYTES // 2
        command, ack = lab.guest.alloc(size), lab.guest.alloc(1)
        ring = lab.driver.rings[2]
        fill(lab, ring, [(command, size, 0), (ack, 1, WRITE)])
        lab.driver.kick(2)
        assert ring.used_idx == 2
        lab.settle()
        assert ring.used_idx == ring.size
