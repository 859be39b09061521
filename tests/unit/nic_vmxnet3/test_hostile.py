"""A hostile guest: no write makes the device raise, work per turn is bounded, and the log is not flooded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.vmxnet3_driver import MEMORY_BYTES, QUEUES, RINGS, SHARED, TX_BUFFERS
from tests.unit.net.test_offload import build
from tests.unit.nic_e1000.test_hostile import calls_of
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.net.offload import MAX_FRAME_BYTES
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.tx import MAX_DESCRIPTORS, WORK_PER_TURN

FRAME = MAC + bytes(100)
VD = (r.VRRS, r.UVRS, r.DSAL, r.DSAH, r.CMD, r.MACL, r.MACH, r.ICR, r.ECR)
REGISTERS = (
    *((r.PT_BAR, offset) for offset in (*range(0, 27 * 8, 8), 0x600, 0x638, 0x640, 0x800, 0xA00, 0xFFC)),
    *((r.VD_BAR, offset) for offset in (*VD, 0x48, 0xFFC)),
)
COMMANDS = (*range(0xCAFE0000, 0xCAFE0010), *range(0xF00D0000, 0xF00D0010))
VALUES = (0, 1, 0xFF, 0xFFFF, SHARED, QUEUES, RINGS, 0x80000000, 0xFFFFFFFF, *COMMANDS)


def test_random_register_values_do_not_raise(running: Rig) -> None:
    rng = random.Random(1)
    for _ in range(10):
        for bar, offset in REGISTERS:
            running.driver.write(bar, offset, rng.choice((*VALUES, rng.getrandbits(32))))
            running.driver.read(bar, offset)
        for command in COMMANDS:
            running.driver.command(command)
        running.wire(FRAME)
        running.set_link(bool(rng.getrandbits(1)))
        running.scheduler.advance(0.3)
    running.device.reset()
    assert running.driver.probe() == MAC
    running.set_link(True)
    running.driver.start()
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


address = st.sampled_from(
    [0, SHARED, QUEUES, RINGS, TX_BUFFERS, GUEST_ADDR + MEMORY_BYTES - 8, 1 << 63, (1 << 64) - 1]
)
word = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.builds(
        lambda length, rest: length | 1 << 14 | rest << 18, st.integers(0, 0x3FFF), st.integers(0, 0x3FFF)
    ),
)


@settings(max_examples=80)
@given(st.lists(st.tuples(address, word, st.integers(0, 0xFFFFFFFF)), min_size=32, max_size=32))
def test_random_transmit_descriptors_do_not_raise(descriptors: list[tuple[int, int, int]]) -> None:
    rig = Rig()
    rig.driver.probe()
    rig.driver.start()
    rig.driver.memory.write(
        rig.driver.tx[0].base, b"".join(struct.pack("<QII", *each) for each in descriptors)
    )
    rig.driver.kick()
    for _ in range(3):
        rig.scheduler.advance(0)
    rig.close()


@settings(max_examples=80)
@given(
    st.lists(st.tuples(address, st.integers(0, 0xFFFFFFFF), st.just(0)), min_size=64, max_size=64),
    st.booleans(),
)
def test_random_receive_rings_do_not_raise(descriptors: list[tuple[int, int, int]], windows: bool) -> None:
    rig = Rig()
    rig.driver.system = 2 << 2 if windows else 1 << 2
    rig.driver.probe()
    rig.driver.start(r.RXM_PROMISC)
    data = b"".join(struct.pack("<QII", *each) for each in descriptors)
    for number in range(2):
        rig.driver.memory.write(rig.driver.rx[number].base, data[512 * number : 512 * (number + 1)])
    for size in (14, 100, 9000) * 20:
        rig.wire(b"\xff" * size)
    rig.scheduler.advance(1)
    rig.close()


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 0x1400), st.sampled_from([b"\0", b"\x01", b"\xff" * 4, b"\xff" * 8, b"\0\0\0\x40"])
        ),
        max_size=12,
    )
)
def test_random_shared_areas_do_not_raise(changes: list[tuple[int, bytes]]) -> None:
    rig = Rig()
    rig.driver.probe()
    rig.driver.set_up()
    for at, data in changes:
        rig.driver.memory.write(SHARED + at, data)
    rig.driver.command(r.ACTIVATE_DEV)
    for command in COMMANDS:
        rig.driver.command(command)
    rig.driver.command(r.ACTIVATE_DEV)
    for index in range(25):
        rig.driver.mask(index, False)
    rig.driver.send(FRAME)
    rig.set_link(False)
    rig.set_link(True)
    rig.wire(FRAME)
    rig.scheduler.advance(1)
    rig.close()


def test_memory_that_goes_away(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    running.device.dma_unmapped(0, 1 << 64)
    driver.served.close()
    for _ in range(10):
        driver.write(r.PT_BAR, r.TXPROD, 1)
        assert running.wire(FRAME)
        running.set_link(False)
        running.set_link(True)
        for command in COMMANDS:
            driver.command(command)
    assert 3 <= len(caplog.records) <= 12


def test_unreadable_buffer_drops_only_its_frame(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for where in (TX_BUFFERS, 0x10, TX_BUFFERS):
        driver.descriptor(where, 64)
    driver.kick()
    assert len(running.netdev.frames) == 2
    assert driver.completed() == [0, 1, 2]
    assert len(caplog.records) == 1


def test_unwritable_buffer_loses_only_its_frame(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    where = running.driver.rx[0].base
    good = running.driver.memory.read(where, 8)
    running.driver.memory.write(where, bytes(8))
    for _ in range(3):
        assert running.wire(FRAME)
    assert running.driver.statistics(1)[9] == 3
    running.driver.memory.write(where, good)
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]
    assert len(caplog.records) == 1


def test_too_long_frame_is_dropped(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    for _ in range(MAX_FRAME_BYTES // (1 << 14) + 1):
        driver.descriptor(TX_BUFFERS, 0, eop=False)
    driver.descriptor(TX_BUFFERS, 64)
    driver.kick()
    assert running.netdev.frames == []
    assert len(driver.completed()) == 1
    driver.send(FRAME)
    assert running.netdev.frames == [FRAME]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("size", [32, 1024])
def test_packet_without_end_is_passed_by(size: int, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(size=size)
    driver = rig.driver
    driver.probe()
    driver.start()
    for _ in range(size):
        driver.descriptor(TX_BUFFERS, 64, eop=False)
    for _ in range(3):
        driver.kick()
        rig.scheduler.run_soon()
    assert driver.completed() == []
    assert driver.statistics()[8] == max(1, size // MAX_DESCRIPTORS)
    driver.send(FRAME)
    assert rig.netdev.frames == [FRAME]
    assert len(caplog.records) == 1
    rig.close()


def test_work_per_turn_is_bounded() -> None:
    rig = Rig(size=1024)
    rig.driver.probe()
    rig.driver.start()
    for _ in range(1000):
        rig.driver.descriptor(TX_BUFFERS, 64)
    rig.driver.kick()
    assert len(rig.netdev.frames) == WORK_PER_TURN
    rig.driver.kick()
    assert len(rig.netdev.frames) == WORK_PER_TURN
    rig.scheduler.advance(0)
    assert len(rig.netdev.frames) == 1000
    rig.close()


def test_dearest_packets_are_spread_over_turns() -> None:
    """Long frames in the smallest segments that are allowed."""
    rig = Rig(size=1024)
    driver = rig.driver
    driver.probe()
    driver.start()
    frame, _, _ = build(6, bytes(60_000))
    driver.memory.write(TX_BUFFERS, frame)
    for _ in range(200):
        for at in range(0, len(frame), 16_000):
            size = min(16_000, len(frame) - at)
            driver.descriptor(TX_BUFFERS + at, size, eop=at + size == len(frame), om=r.OM_TSO, msscof=48)
    driver.kick()
    assert len(rig.netdev.frames) == 1250
    rig.close()


def test_ring_of_bodies_costs_little_for_each_frame() -> None:
    rig = Rig(size=4096)
    driver = rig.driver
    driver.probe()
    driver.start()
    bodies = b"".join(struct.pack("<QII", TX_BUFFERS, 1 << 14 | 1 << 31, 0) for _ in range(4096))
    driver.memory.write(driver.rx[0].base, bodies)
    assert calls_of(lambda: rig.wire(FRAME)) < 300
    rig.close()


@pytest.mark.parametrize("value", [r.GET_STATS, r.UPDATE_MAC_FILTERS, r.ACTIVATE_DEV, 0])
def test_command_storm_is_cheap(running: Rig, value: int) -> None:
    running.driver.before_access = None
    assert calls_of(lambda: running.driver.write(r.VD_BAR, r.CMD, value)) < 200


def test_kick_storm_on_half_a_packet_is_cheap(running: Rig) -> None:
    running.driver.before_access = None
    for _ in range(MAX_DESCRIPTORS // 2 - 1):
        running.driver.descriptor(TX_BUFFERS, 64, eop=False)
    assert calls_of(running.driver.kick) < 200
