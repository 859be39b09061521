"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.eepro100_driver import BLOCKS, FRAMES, MAC, MEMORY_BYTES
from tests.unit.nic_eepro100.conftest import Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.eepro100 import registers as r

FRAME = MAC + bytes(100)
INTERESTING = (0, 1, 2, 3, 0x8, 0x10, 0x20, 0x40, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ADDRESSES = (0, GUEST_ADDR, BLOCKS, FRAMES, GUEST_ADDR + MEMORY_BYTES - 8, 0xFFFFFFF0, 0xFFFFFFFF)


@pytest.mark.parametrize("seed", range(4))
def test_random_register_values_do_not_raise(rig: Rig, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    driver = rig.driver
    driver.bus_master()
    for _ in range(10):
        for offset in range(64):
            size = rng.choice((1, 2, 3, 4, 8))
            value = rng.choice((*INTERESTING, *ADDRESSES, rng.getrandbits(32))) & (1 << 8 * size) - 1
            driver.write(offset, value, size)
            driver.read(offset, size)
        rig.wire(FRAME)
        rig.turn_once()
    assert len(caplog.records) < 20
    rig.device.reset()
    driver.start()
    rig.wire(FRAME)
    assert driver.received() == [FRAME]


@settings(max_examples=80)
@given(
    blocks=st.lists(
        st.tuples(
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
            st.sampled_from(ADDRESSES),
            st.sampled_from([*ADDRESSES, 0xFFFFFFFF]),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
        ),
        min_size=64,
        max_size=64,
    ),
    command=st.sampled_from((0x10, 0x20, 0x01, 0x11)),
    pointer=st.sampled_from(ADDRESSES),
)
def test_random_blocks_and_descriptors_do_not_raise(
    blocks: list[tuple[int, ...]], command: int, pointer: int
) -> None:
    rig = Rig()
    driver = rig.driver
    driver.start()
    data = b"".join(struct.pack("<HHIIHH", *each) for each in blocks)
    for at in (BLOCKS, FRAMES):
        driver.memory.write(at, data)
    driver.command(command, pointer)
    for _ in range(3):
        rig.turn_once()
        rig.wire(FRAME)
    rig.device.save()
    rig.close()


def test_memory_that_is_not_there_ends_a_list_with_one_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    driver = rig.driver
    driver.start()
    for _ in range(20):
        driver.command(0x10, 0xF0000000)
        assert driver.read(r.STATUS) >> 6 == 0
    assert len(caplog.records) == 1
