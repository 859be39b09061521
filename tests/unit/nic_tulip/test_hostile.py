"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.tulip_driver import CHAINED, FS, MEMORY_BYTES, MII_MODE, OWN, RX_RING, TX_BUFFERS, TX_RING
from tests.unit.nic_tulip.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.tulip.tx import WORK_PER_TURN

FRAME = MAC + bytes(100)
INTERESTING = (
    0,
    1,
    2,
    0xF,
    0x2002,
    0xFFFF,
    0x10000,
    0x30000,
    0x4801,
    0x4803,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(60):
        for number in range(16):
            running.driver.write(number, rng.choice((*INTERESTING, rng.getrandbits(32))))
            running.driver.read(number)
        running.wire(FRAME)
        running.set_link(bool(rng.getrandbits(1)))
        running.scheduler.advance(0.01)
    running.device.reset()
    running.set_link(True)
    running.driver.start()
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


@settings(max_examples=100)
@given(
    offset=st.integers(0, 127), length=st.sampled_from([1, 2, 4, 8]), data=st.binary(min_size=8, max_size=8)
)
def test_any_access_is_answered(offset: int, length: int, data: bytes) -> None:
    rig = Rig()
    length = min(length, 128 - offset)
    for region in (0, 1):
        rig.device.window_write(region, offset, data[:length])
        assert len(rig.device.window_read(region, offset, length)) == length
    rig.close()


descriptor = st.tuples(
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    *(st.sampled_from([0, GUEST_ADDR, RX_RING, TX_BUFFERS, GUEST_ADDR + MEMORY_BYTES - 8, 0xFFFFFFFC]),) * 2,
)


@settings(max_examples=40)
@given(
    transmit=st.lists(descriptor, min_size=16, max_size=16),
    receive=st.lists(descriptor, min_size=16, max_size=16),
    csr0=st.sampled_from([0, 0x7C, 1 << 20]),
    mode=st.sampled_from([0, 0x40, 1 << 10]),
)
def test_random_descriptors_do_not_raise(
    transmit: list[tuple[int, ...]], receive: list[tuple[int, ...]], csr0: int, mode: int
) -> None:
    rig = Rig()
    driver = rig.driver
    driver.start(MII_MODE | mode, csr0=csr0)
    for ring, descriptors in ((TX_RING, transmit), (RX_RING, receive)):
        driver.memory.write(ring, b"".join(struct.pack("<IIII", *each) for each in descriptors))
    driver.write(4, TX_RING)
    driver.write(1, 0)
    for size in (14, 100, 2000):
        rig.wire(b"\xff" * size)
    rig.scheduler.advance(0.01)
    rig.close()


def test_lists_outside_of_memory(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    driver.write(3, 0xFFFFFFF8)
    driver.write(4, 0x10)
    for _ in range(10):
        driver.write(1, 0)
        assert running.wire(FRAME)
    assert driver.read(5) & 1 << 13
    assert len(caplog.records) == 2


@pytest.mark.parametrize("control", [CHAINED, CHAINED | FS])
def test_chain_to_itself_is_bounded(control: int) -> None:
    """A descriptor that is the chip's again as soon as it is done: its buffer's write is what gives it."""
    rig = Rig()
    driver = rig.driver
    driver.start()
    chain = struct.pack("<IIII", OWN, control | 4, TX_BUFFERS, TX_RING)
    driver.memory.write(TX_RING, chain)
    driver.write(4, TX_RING)
    driver.write(1, 0)
    rig.scheduler.advance(0.01)
    assert rig.netdev.frames == []
    ring = b"".join(
        struct.pack("<IIII", OWN, CHAINED | 4, TX_BUFFERS, TX_RING + 16 * (at + 1)) for at in range(1000)
    )
    driver.memory.write(TX_RING, ring)
    driver.write(4, TX_RING)
    driver.write(1, 0)
    assert driver.status(TX_RING, WORK_PER_TURN) == OWN
    rig.close()


def test_long_frame_is_not_sent(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        running.driver.send(bytes(4000), 2)
    running.driver.send(bytes(60))
    assert running.netdev.frames == [bytes(60)]
    assert len(caplog.records) == 1
