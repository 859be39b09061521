"""The played drivers and the bare device of `vnic bench wire-rings` move whole packets, in C."""

from __future__ import annotations

import os

import pytest
from tests.needs import need

from vnic.lab.bench import wire_rings
from vnic.lab.bench.native import CThread, library
from vnic.lab.bench.wire_rings import HEADER, SIZES, Loops, guests_with

CPU = min(os.sched_getaffinity(0))


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Loops:
    need("cc")
    monkeypatch.setattr(wire_rings, "two_cpus", lambda: (CPU, CPU))
    monkeypatch.setattr(wire_rings, "PACKETS", 2 * SIZES[1514])
    return Loops()


@pytest.mark.parametrize("size", [64, 1514])
def test_the_bare_device_copies_each_packet(loops: Loops, size: int) -> None:
    with guests_with(size) as guests:
        sender, receiver = guests.drivers
        with CThread(CPU, library("rings", sixty_four=("sleeping_device",)).sleeping_device, *guests.pair):
            assert loops.step(guests) == 2 * guests.ring_size
        # Both drivers allocate alike, and their first buffers lie behind the same rings.
        sent, received = (driver.memory for driver in (sender, receiver))
        last = sent._next - guests.packet
        assert (
            received.read(last + HEADER, size)
            == sent.read(last + HEADER, size)
            == b"\xff" * 6 + bytes(size - 6)
        )
        assert receiver.rings[0].used_idx == sender.rings[1].used_idx == 2 * guests.ring_size % 65536


def test_copies_have_a_rate(loops: Loops) -> None:
    assert loops.copies(1514) > 0
