"""A hostile guest: no write makes the device raise, work is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.igb_driver import DATA, DEXT, EOP, RING_SIZE, RS, RX_RINGS, TX_BUFFERS, TX_RINGS
from tests.unit.nic_igb.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.tx import MAX_FRAME_BYTES, WORK_PER_TURN

FRAME = MAC + bytes(100)
REGISTERS = [0x5FC, 0x1FFFC, *sorted(r.BY_OFFSET)]
INTERESTING = (0, 1, 2, 0xF, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFF0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ADDRESSES = [0, GUEST_ADDR, TX_RINGS, TX_BUFFERS, (1 << 64) - 1]


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(4):
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
    running.scheduler.advance(1)
    running.wire(FRAME)
    assert running.driver.frames() == [FRAME]


@settings(max_examples=20)
@given(
    descriptors=st.lists(
        st.tuples(
            st.sampled_from(ADDRESSES) | st.integers(0, (1 << 64) - 1),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 0xFFFFFFFF),
        ),
        min_size=RING_SIZE,
        max_size=RING_SIZE,
    ),
    head=st.sampled_from([0, 3, 15, 16, 0xFFFF]),
    tail=st.sampled_from([0, 5, 15, 16, 0xFFFF]),
    length=st.sampled_from([0, 128, 256, 0xFFFF0]),
)
def test_random_transmit_descriptors_do_not_raise(
    descriptors: list[tuple[int, int, int]], head: int, tail: int, length: int
) -> None:
    rig = Rig(queues=1)
    rig.run()
    rig.driver.memory.write(TX_RINGS, b"".join(struct.pack("<QII", *each) for each in descriptors))
    rig.driver.write(r.TX + 8, length)
    rig.driver.write(r.TX + 0x10, head)
    rig.driver.write(r.TX + regs.TAIL, tail)
    for _ in range(3):
        rig.scheduler.advance(0)
    rig.close()


@settings(max_examples=20)
@given(
    ring=st.binary(min_size=RING_SIZE * 16, max_size=RING_SIZE * 16),
    head=st.sampled_from([0, 3, 15, 16, 0xFFFF]),
    tail=st.sampled_from([0, 5, 15, 16, 0xFFFF]),
    control=st.integers(0, 0xFFFFFFFF),
    mrqc=st.integers(0, 0xFFFFFFFF),
    frame=st.binary(min_size=0, max_size=200),
)
def test_random_receive_rings_and_frames_do_not_raise(
    ring: bytes, head: int, tail: int, control: int, mrqc: int, frame: bytes
) -> None:
    rig = Rig(queues=1)
    rig.run()
    driver = rig.driver
    driver.memory.write(RX_RINGS, ring)
    driver.write(r.RX + r.SRRCTL, control)
    driver.write(r.MRQC, mrqc)
    driver.write(r.RXCSUM, 1 << 13 | 0x300)
    driver.write(r.RX + 0x10, head)
    driver.write(r.RX + regs.TAIL, tail)
    for kind in (b"\x08\x00", b"\x86\xdd", b"\x81\x00\x00\x01\x08\x00"):
        rig.wire(MAC + bytes(6) + kind + frame)
    rig.close()


def test_work_of_a_turn_is_bounded_for_each_queue() -> None:
    rig = Rig(queues=1)
    rig.run()
    driver = rig.driver
    count = 2048
    lower = 60 | DATA << 20 | (EOP | DEXT) << 24
    driver.memory.write(TX_BUFFERS, bytes(count * 16))
    ring = GUEST_ADDR + 0x90000
    driver.memory.write(ring, struct.pack("<QII", TX_BUFFERS, lower, 0) * count)
    for at, value in ((0, ring), (8, count * 16), (0x10, 0)):
        driver.write(r.TX + at, value)
    driver.write(r.TX + regs.TAIL, count - 1)
    assert len(rig.netdev.frames) <= WORK_PER_TURN
    for _ in range(20):
        rig.scheduler.advance(0)
    assert len(rig.netdev.frames) == count - 1
    rig.close()


def test_frame_without_end_is_not_collected_for_ever(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(3):
        for _ in range(RING_SIZE - 1):
            driver.put(0, TX_BUFFERS, 0xFFFF | DATA << 20 | (DEXT | RS) << 24, 0)
        driver.kick_queue()
    assert running.device.save().tx.collected == b""
    assert caplog.text.count("is not sent") == 1
    assert MAX_FRAME_BYTES < 3 * 15 * 0xFFFF


def test_unmapped_buffers_are_said_once(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(5):
        driver.put(1, 1 << 60, 60 | DATA << 20 | (EOP | RS | DEXT) << 24, 0)
        driver.kick_queue(1)
    assert caplog.text.count("said once") == 1
    assert running.device.config.data[7] & 0x20


def test_narrow_and_wide_accesses_of_all_windows(running: Rig) -> None:
    for region in range(4):
        for length in (1, 2, 4, 8, 3, 65):
            running.device.window_write(region, 0x10, b"\xff" * length)
            assert len(running.device.window_read(region, 0x10, length)) == length
    assert running.device.window_read(2, 0, 4) == bytes(4)


def test_io_window_reaches_registers(running: Rig) -> None:
    running.device.window_write(2, 0, regs.VET.to_bytes(4, "little"))
    assert running.device.window_read(2, 4, 4) == bytes.fromhex("00810081")
    running.device.window_write(2, 0, b"\xff\xff\xff\xff")
    assert running.device.window_read(2, 4, 4) == bytes(4)
