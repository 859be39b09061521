"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.rtl8139_driver import (
    EOR,
    FIRST,
    LAST,
    MEMORY_BYTES,
    OWN,
    RX_RING,
    TX_BUFFERS,
    TX_RING,
    OldDriver,
    PlusDriver,
)
from tests.unit.nic_e1000.conftest import MAC
from tests.unit.nic_rtl8139.conftest import Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.rtl8139 import registers as r

FRAME = MAC + bytes(100)
EVERYWHERE = range(r.WINDOW_BYTES)
INTERESTING = (0, 1, 2, 0x8, 0xF, 0x40, 0x7F, 0xC0, 0xFF, 0xFFFF, 0x1FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ADDRESSES = (0, GUEST_ADDR, TX_RING, TX_BUFFERS, GUEST_ADDR + MEMORY_BYTES - 8, 0xFFFFFFF0, (1 << 64) - 1)


@pytest.mark.parametrize("seed", range(4))
def test_random_register_values_do_not_raise(plus: Rig[PlusDriver], seed: int) -> None:
    rng = random.Random(seed)
    driver = plus.driver
    for _ in range(10):
        for offset in EVERYWHERE:
            size = rng.choice((1, 2, 3, 4, 8))
            if offset + size <= r.WINDOW_BYTES:
                value = rng.choice((*INTERESTING, rng.getrandbits(32))) & (1 << 8 * size) - 1
                driver.write(offset, value, size)
                driver.read(offset, size)
        plus.wire(FRAME)
        plus.set_link(bool(rng.getrandbits(1)))
        plus.scheduler.advance(0.1)
    plus.device.reset()
    plus.set_link(True)
    assert driver.probe() == MAC
    driver.start()
    plus.wire(FRAME)
    assert driver.received() == [FRAME]


@settings(max_examples=60)
@given(
    descriptors=st.lists(
        st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.sampled_from(ADDRESSES)),
        min_size=64,
        max_size=64,
    ),
    ring=st.sampled_from([*ADDRESSES, RX_RING]),
)
def test_random_descriptors_do_not_raise(descriptors: list[tuple[int, int, int]], ring: int) -> None:
    rig = Rig(PlusDriver)
    rig.driver.start()
    rig.driver.memory.write(RX_RING, b"".join(struct.pack("<IIQ", *each) for each in descriptors))
    for first in (r.TNPDS, r.RDSAR):
        rig.driver.write(first, ring & 0xFFFFFFFF)
        rig.driver.write(first + 4, ring >> 32)
    rig.driver.poll()
    for _ in range(3):
        rig.turn()
        rig.wire(FRAME)
    rig.device.save()
    rig.close()


def test_ring_that_is_one_frame_without_end_is_given_back(plus: Rig[PlusDriver]) -> None:
    for index in range(64):
        plus.driver.memory.write(TX_RING + 16 * index, struct.pack("<IIQ", OWN | 1000, 0, TX_BUFFERS))
    plus.driver.poll()
    plus.turn()
    assert plus.netdev.frames == []
    assert not plus.driver.status(TX_RING, 0) & OWN
    assert not plus.driver.status(TX_RING, 63) & OWN


def test_frame_that_is_too_long_is_not_sent(plus: Rig[PlusDriver]) -> None:
    plus.driver.descriptor(GUEST_ADDR, 0xFFFF, FIRST)
    plus.driver.descriptor(GUEST_ADDR, 0xFFFF, LAST)
    plus.driver.poll()
    plus.turn()
    assert plus.netdev.frames == []
    assert plus.driver.done(1)


def test_ring_of_one_descriptor_that_is_always_owned_ends(plus: Rig[PlusDriver]) -> None:
    """The guest writes OWN again while the chip works: each turn has a limit."""
    driver = plus.driver
    descriptor = struct.pack("<IIQ", OWN | EOR | FIRST | LAST | 100, 0, TX_BUFFERS)
    driver.memory.write(TX_BUFFERS, b"\xff" * 100)
    driver.memory.write(TX_RING, descriptor)
    write = driver.served.write

    def stubborn(addr: int, data: bytes | memoryview) -> None:
        write(addr, data)
        driver.memory.write(TX_RING, descriptor)

    vars(driver.served)["write"] = stubborn
    driver.poll()
    due, plus.scheduler._calls = plus.scheduler._calls, []
    for _, _, timer in due:
        timer.callback(*timer.args)
    assert 1 <= len(plus.netdev.frames) <= 64
    plus.scheduler.cancel_all()


def test_large_send_of_tiny_segments_is_not_sent(plus: Rig[PlusDriver]) -> None:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 60000, 1, 0, 64, 6, 0, bytes(4), bytes(4))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 0x10, 500, 0, 0)
    plus.driver.memory.write(GUEST_ADDR + 0x20000, bytes(12) + b"\x08\x00" + ip + tcp)
    plus.driver.descriptor(GUEST_ADDR + 0x20000, 60014, FIRST | LAST | 1 << 27 | 1 << 16)
    plus.driver.poll()
    plus.turn()
    assert plus.netdev.frames == []
    assert plus.driver.done(0)


def test_errors_are_logged_once(plus: Rig[PlusDriver], caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(10):
        plus.driver.write(r.TNPDS + 4, 0xFFFF)
        plus.driver.poll()
        plus.driver.write(r.TPPOLL, 0x80)
        plus.turn()
    assert len(caplog.records) == 2


@pytest.mark.parametrize("start", [0x10, GUEST_ADDR + MEMORY_BYTES - 100])
def test_ring_buffer_that_is_not_mapped(old: Rig[OldDriver], start: int) -> None:
    old.driver.write(r.RBSTART, start)
    for _ in range(20):
        old.wire(FRAME)
    assert old.driver.read(r.MPC)


def test_pointer_outside_of_the_buffer_is_taken_modulo(old: Rig[OldDriver]) -> None:
    for value in (0xFFFF, 0x8001, 0x1FF0):
        old.driver.write(r.CAPR, value)
        old.wire(FRAME)
    assert old.driver.read(r.CAPR) == 0xFFF0
    old.device.save()
