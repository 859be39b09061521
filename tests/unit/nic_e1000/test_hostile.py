"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.e1000_driver import (
    DEXT,
    EOP,
    MEMORY_BYTES,
    RCTL,
    RS,
    RX_RING,
    TCTL,
    TSE,
    TX_BUFFERS,
    TX_RING,
)
from tests.unit.net.test_offload import build
from tests.unit.nic_e1000.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.net.offload import GSO_TCPV4, encode
from vnic.nic.intel import regs
from vnic.nic.intel.e1000.registers import BY_OFFSET
from vnic.nic.intel.tx import MAX_FRAME_BYTES, WORK_PER_TURN

FRAME = MAC + bytes(100)
REGISTERS = [0, 4, 0x5FC, 0x1FFFC, *sorted(BY_OFFSET)]
INTERESTING = (0, 1, 2, 0xF, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFF0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(20):
        for offset in REGISTERS:
            running.driver.write(offset, rng.choice((*INTERESTING, rng.getrandbits(32))))
            running.driver.read(offset)
        running.wire(FRAME)
        running.set_link(bool(rng.getrandbits(1)))
        running.scheduler.advance(0.3)
    running.device.reset()
    assert running.driver.probe() == MAC
    running.set_link(True)
    running.scheduler.advance(1)
    running.driver.start()
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


@settings(max_examples=50)
@given(
    descriptors=st.lists(
        st.tuples(
            st.sampled_from(
                [0, GUEST_ADDR, TX_RING, TX_BUFFERS, GUEST_ADDR + MEMORY_BYTES - 8, (1 << 64) - 1]
            ),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 0xFFFFFFFF),
        ),
        min_size=16,
        max_size=16,
    ),
    head=st.sampled_from([0, 3, 15, 16, 0xFFFF]),
    tail=st.sampled_from([0, 5, 15, 16, 0xFFFF]),
    length=st.sampled_from([0, 128, 256, 0xFFF80]),
)
def test_random_transmit_descriptors_do_not_raise(
    descriptors: list[tuple[int, int, int]], head: int, tail: int, length: int
) -> None:
    rig = Rig()
    rig.driver.start()
    rig.driver.memory.write(TX_RING, b"".join(struct.pack("<QII", *each) for each in descriptors))
    rig.driver.write(regs.TDLEN, length)
    rig.driver.write(regs.TDH, head)
    rig.driver.write(regs.TDT, tail)
    for _ in range(3):
        rig.scheduler.advance(0)
    rig.close()


@settings(max_examples=40)
@given(
    ring=st.binary(min_size=256, max_size=256),
    head=st.sampled_from([0, 3, 15, 16, 0xFFFF]),
    tail=st.sampled_from([0, 5, 15, 16, 0xFFFF]),
    length=st.sampled_from([0, 128, 256, 0xFFF80]),
    rctl=st.integers(0, 0xFFFFFFFF),
)
def test_random_receive_rings_do_not_raise(ring: bytes, head: int, tail: int, length: int, rctl: int) -> None:
    rig = Rig()
    rig.driver.start(rctl=rctl | 2)
    rig.driver.memory.write(RX_RING, ring)
    rig.driver.write(regs.RDLEN, length)
    rig.driver.write(regs.RDH, head)
    rig.driver.write(regs.RDT, tail)
    for size in (14, 100, 9000):
        rig.wire(b"\xff" * size)
    rig.close()


def test_rings_outside_of_memory(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for high, low in ((0, 0), (0xFFFFFFFF, 0xFFFFFFF0), (0, GUEST_ADDR + MEMORY_BYTES - 16)):
        for first in (regs.TDBAL, regs.RDBAL):
            driver.write(first, low)
            driver.write(first + 4, high)
        for _ in range(10):
            driver.write(regs.TDT, 3)
            assert running.wire(FRAME)
    assert len(caplog.records) == 2


def test_buffer_may_overlap_ring(running: Rig) -> None:
    driver = running.driver
    driver.memory.write(RX_RING, struct.pack("<QQ", RX_RING, 0) * 16)
    for _ in range(40):
        running.wire(b"\xff" * 1500)
    driver.memory.write(TX_RING, struct.pack("<QII", TX_RING, 256 | (EOP | RS) << 24, 0) * 16)
    driver.write(regs.TDT, 15)
    assert all(len(frame) == 256 for frame in running.netdev.frames)
    assert len(running.netdev.frames) == 15


def test_tail_beyond_ring_is_logged_once(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        running.driver.write(regs.TDT, 999)
        running.driver.write(regs.RDT, 999)
        running.wire(FRAME)
    assert sorted(record.getMessage().split(":")[1].strip() for record in caplog.records) == [
        "RX ring",
        "TX ring",
    ]


def test_endless_frame_is_not_collected(running: Rig) -> None:
    for _ in range(100):
        for _ in range(15):
            running.driver.descriptor(TX_BUFFERS, 60_000, 0)
        running.driver.kick()
        running.scheduler.run_soon()
    assert sum(len(part) for part in running.device.txs[0]._parts) <= MAX_FRAME_BYTES
    running.driver.descriptor(TX_BUFFERS, 64, EOP)
    running.driver.kick()
    running.driver.descriptor(TX_BUFFERS, 64, EOP)
    running.driver.kick()
    assert [len(frame) for frame in running.netdev.frames] == [64]


def test_unreadable_buffer_drops_only_its_frame(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for address in (TX_BUFFERS, 0x10, TX_BUFFERS):
        driver.descriptor(address, 64, EOP | RS)
    driver.kick()
    assert len(running.netdev.frames) == 2
    assert all(driver.tx_done(index) for index in range(3))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"mss": 0}, {"mss": 1}, {"header": 0}, {"header": 255}, {"l4": 20}, {"l3": 200}, {"at": 0}, {"l3": 0}],
)
def test_invalid_segmentation_context_drops_frame(running: Rig, wrong: dict[str, int]) -> None:
    frame, l3, l4 = build(6, bytes(4000))
    values = {"l3": l3, "l4": l4, "at": l4 + 16, "header": l4 + 20, "mss": 1448} | wrong
    running.driver.context(**values, tse=True)  # type: ignore[arg-type]  # values of a test's table
    running.driver.send_extended(frame[:200] if "header" in wrong else frame, 3, EOP | RS | TSE)
    assert running.netdev.frames == []
    assert running.driver.read(regs.TDH) == running.driver.read(regs.TDT)


def test_work_per_turn_is_bounded() -> None:
    """The dearest descriptors there are, all at once: long frames in the smallest segments that are allowed."""
    rig = Rig()
    driver = rig.driver
    driver.ring_size = 1024
    driver.start()
    frame, l3, l4 = build(6, bytes(60_000))
    driver.memory.write(TX_BUFFERS, frame)
    driver.context(l3=l3, l4=l4, at=l4 + 16, header=l4 + 20, mss=48, tse=True)
    for _ in range(1000):
        driver.descriptor(TX_BUFFERS, len(frame), EOP | RS | DEXT | TSE, 1, 3 << 8)
    driver.kick()
    assert len(rig.netdev.frames) == 1250
    for _ in range(3):
        rig.netdev.frames.clear()
        rig.one_turn()
        assert len(rig.netdev.frames) == 1250
    rig.close()


def test_ring_of_tiny_buffers_is_spread_over_turns() -> None:
    rig = Rig()
    driver = rig.driver
    driver.ring_size = 1024
    driver.start()
    for _ in range(1000):
        driver.descriptor(TX_BUFFERS, 60_000, EOP | RS)
    driver.kick()
    assert len(rig.netdev.frames) == WORK_PER_TURN // (1 + 60_000 // 2048) + 1
    rig.close()


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called: the same on every machine, unlike the time."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(
    ("offset", "value"), [(regs.TDT, 0), (regs.RDT, 15), (regs.RCTL, RCTL), (regs.TCTL, TCTL)]
)
def test_mmio_storm_is_cheap(running: Rig, offset: int, value: int) -> None:
    assert calls_of(lambda: running.driver.write(offset, value)) < 50
    assert calls_of(lambda: running.driver.read(regs.STATUS)) < 50


def test_mmio_storm_is_cheap_while_segmented_frame_waits(running: Rig) -> None:
    """The worst one, from another guest; each write of RDT makes the queue try again."""
    for _ in range(15):
        running.wire(FRAME)
    frame, _, l4 = build(6, bytes(65_000))
    assert not running.netdev.client.send(0, MAC + frame[6:], encode(GSO_TCPV4, 48, l4 + 20, l4, 16))
    running.driver.write(regs.RDT, 15)
    assert calls_of(lambda: running.driver.write(regs.RDT, 15)) < 100
