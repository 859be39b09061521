"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.pcnet_driver import BLOCK, INIT, MEMORY_BYTES, OWN, RX_RING, STP, STRT, TX_BUFFERS, TX_RING
from tests.unit.nic_e1000.test_hostile import calls_of
from tests.unit.nic_pcnet.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.pcnet.tx import WORK_PER_TURN

FRAME = MAC + bytes(100)
INTERESTING = (0, 1, 2, 3, 7, 8, 0xF, 0x43, 0x7F, 0x80, 0xFF, 0x7F00, 0x8000, 0xFFFF)
ADDRESSES = [0, GUEST_ADDR, GUEST_ADDR + TX_RING, GUEST_ADDR + MEMORY_BYTES - 8, 0xFFFF_FFFF]


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(20):
        for number in range(140):
            value = rng.choice((*INTERESTING, rng.getrandbits(16)))
            if rng.getrandbits(1):
                running.driver.write_csr(number & 0xFF, value)
            else:
                running.driver.write_bcr(number & 0xFF, value)
            running.driver.csr(number)
            running.driver.bcr(number)
            if rng.getrandbits(1):
                running.driver.wide = not running.driver.wide
        running.wire(FRAME)
        running.set_link(bool(rng.getrandbits(1)))
        running.scheduler.advance(0.01)
    running.device.reset()
    running.driver.wide = False
    assert running.driver.probe() == MAC
    running.set_link(True)
    running.driver.start()
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


@settings(max_examples=100)
@given(
    offset=st.integers(0, 31), length=st.sampled_from([1, 2, 4, 8]), data=st.binary(min_size=8, max_size=8)
)
def test_any_access_is_answered(offset: int, length: int, data: bytes) -> None:
    rig = Rig()
    length = min(length, 32 - offset)
    for region in (0, 1):
        rig.device.window_write(region, offset, data[:length])
        assert len(rig.device.window_read(region, offset, length)) == length
    rig.close()


descriptor = st.tuples(
    st.sampled_from(ADDRESSES), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
)


@settings(max_examples=25)
@given(
    transmit=st.lists(descriptor, min_size=16, max_size=16),
    receive=st.lists(descriptor, min_size=16, max_size=16),
    style=st.sampled_from([1, 2, 3]),
    mode=st.sampled_from([0, 4, 0x44, 0x8000, 0xFFFC]),
    setup=st.lists(
        st.tuples(st.sampled_from([24, 25, 30, 31, 72, 74, 76, 78]), st.sampled_from([0, 1, 3, 17, 0xFFFF])),
        max_size=4,
    ),
)
def test_random_descriptors_do_not_raise(
    transmit: list[tuple[int, int, int, int]],
    receive: list[tuple[int, int, int, int]],
    style: int,
    mode: int,
    setup: list[tuple[int, int]],
) -> None:
    rig = Rig(style=style)
    driver = rig.driver
    driver.start(mode)
    for ring, descriptors in ((TX_RING, transmit), (RX_RING, receive)):
        for index, (address, count, status, more) in enumerate(descriptors):
            data = struct.pack("<IHHII", address, count | 0xF000, status, more, 0)
            driver.memory.write(driver.base + ring + 16 * index, data)
    driver.write_csr(5, 1)
    for number, value in setup:
        driver.write_csr(number, value)
    driver.write_csr(5, 0)
    driver.demand()
    for size in (14, 100, 4000):
        rig.wire(b"\xff" * size)
    rig.scheduler.advance(0.01)
    rig.close()


@settings(max_examples=50)
@given(block=st.binary(min_size=28, max_size=28), style=st.sampled_from([0, 2, 4]))
def test_random_blocks_do_not_raise(block: bytes, style: int) -> None:
    rig = Rig()
    driver = rig.driver
    driver.start()
    driver.write_csr(0, 4)
    driver.write_bcr(20, style)
    driver.memory.write(driver.base + BLOCK, block)
    driver.write_csr(0, INIT | STRT)
    driver.demand()
    rig.wire(b"\xff" * 100)
    rig.scheduler.advance(0.01)
    rig.close()


def test_block_outside_of_memory(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(10):
        driver.write_csr(0, 4)
        driver.write_csr(2, 0xFFFF)
        driver.write_csr(0, INIT | STRT)
        assert not driver.csr(0) & 0x100
        assert driver.csr(5) & 0x0800
        running.wire(FRAME)
        driver.demand()
    assert len(caplog.records) == 1


def test_rings_outside_of_memory(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    driver.write_csr(5, 1)
    for base in (24, 30):
        driver.write_csr(base, 0xFFF8)
        driver.write_csr(base + 1, 0xFFFF)
    driver.write_csr(5, 0)
    for _ in range(10):
        driver.demand()
        assert running.wire(FRAME)
    assert len(caplog.records) == 2


def test_length_that_does_not_begin_with_ones(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(10):
        driver.put(TX_RING, 0, driver.base, 5000, OWN | STP)
        driver.put(RX_RING, 0, driver.base, 5000, OWN | STP)
        driver.demand()
        running.wire(FRAME)
        running.scheduler.advance(0.01)
    assert len(caplog.records) == 2
    assert driver.received() == []


def test_frame_of_endless_pieces_is_dropped() -> None:
    rig = Rig(log_size=9)
    rig.driver.start()
    for index in range(512):
        rig.driver.put(TX_RING, index, rig.driver.base + TX_BUFFERS, 1, OWN | STP * (index == 0))
    rig.driver.demand()
    rig.scheduler.run_soon()
    assert rig.netdev.frames == []
    assert not rig.driver.csr(0) & 0x10
    rig.close()


def test_work_per_turn_is_bounded() -> None:
    """Descriptors that belong to no frame."""
    rig = Rig(log_size=9)
    rig.driver.start()
    for index in range(512):
        rig.driver.put(TX_RING, index, rig.driver.base + TX_BUFFERS, 4096, OWN)
    rig.driver.demand()
    assert rig.driver.csr(74) == 512 - WORK_PER_TURN
    rig.close()


@pytest.mark.parametrize(("number", "value"), [(0, 0x48), (3, 0x5F00), (4, 0x0915), (5, 0)])
def test_register_storm_is_cheap_while_frames_wait(number: int, value: int) -> None:
    rig = Rig()
    rig.driver.start()
    for _ in range(40):
        rig.wire(FRAME)
    assert calls_of(lambda: rig.driver.write_csr(number, value)) < 250
    assert calls_of(lambda: rig.driver.csr(0)) < 60
    rig.close()
