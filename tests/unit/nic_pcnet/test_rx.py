"""Receiving: the address filter, buffers in all software styles, and frames that wait for descriptors."""

from __future__ import annotations

import zlib

import pytest
from tests.fakes.pcnet_driver import ENP, INIT, MISS, OWN, RINT, RX_BUFFERS, RX_RING, STOP, STP, STRT
from tests.unit.nic_pcnet.conftest import MAC, Rig

from vnic.net.queue import QUEUE_LIMIT
from vnic.nic.pcnet.device import POLL_SECONDS

FRAME = MAC + bytes.fromhex("525400000002") + b"\x12\x34" + bytes(range(100))
MULTICAST = bytes.fromhex("333300000001")


@pytest.mark.parametrize("style", [0, 1, 2, 3])
def test_styles(style: int) -> None:
    rig = Rig(style=style, buffer_bytes=256)
    rig.driver.start()
    for number in range(40):
        rig.wire(FRAME + bytes([number]) * 700)
        assert rig.driver.received() == [FRAME + bytes([number]) * 700]
    rig.close()


def test_received_frame_interrupts(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    running.wire(FRAME)
    assert driver.interrupted()
    assert driver.take_interrupt() & RINT
    assert driver.look(RX_RING, 0) == (STP | ENP | 0x40, len(FRAME) + 4)
    assert driver.received() == [FRAME]


def test_frame_has_its_fcs(running: Rig) -> None:
    running.wire(FRAME[:30])
    driver = running.driver
    data = driver.memory.read(driver.base + RX_BUFFERS, 64)
    assert data == FRAME[:30] + bytes(30) + zlib.crc32(FRAME[:30] + bytes(30)).to_bytes(4, "little")


def filter_of(address: bytes) -> bytes:
    """The filter with the bit of one address, as Linux's pcnet32_load_multicast."""
    hashed = (~zlib.crc32(address) & 0xFFFFFFFF) >> 26
    return (1 << hashed).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("mode", "filters", "taken"),
    [
        (0, bytes(8), "own broadcast"),
        (0, b"\xff" * 8, "own broadcast multicast"),
        (0, filter_of(MULTICAST), "own broadcast multicast"),
        (0x8000, bytes(8), "own broadcast multicast other"),
        (0x2000, bytes(8), "broadcast"),
        (0x4000, bytes(8), "own"),
        (0x0001, bytes(8), ""),
        (0x0004, bytes(8), ""),
    ],
)
def test_filter(rig: Rig, mode: int, filters: bytes, taken: str) -> None:
    rig.driver.start(mode, filters=filters)
    frames = {
        "own": FRAME,
        "broadcast": b"\xff" * 6 + FRAME[6:],
        "multicast": MULTICAST + FRAME[6:],
        "other": b"\x52" * 6 + FRAME[6:],
    }
    for frame in frames.values():
        assert rig.wire(frame)
    assert rig.driver.received() == [frames[each] for each in taken.split()]


def test_frames_wait_for_descriptors(running: Rig) -> None:
    for number in range(20):
        running.wire(FRAME + bytes([number]))
    got = running.driver.received()
    running.scheduler.advance(POLL_SECONDS)
    got += running.driver.received()
    assert got == [FRAME + bytes([number]) for number in range(20)]
    assert not running.driver.csr(0) & MISS
    assert running.driver.csr(112) == 0


def test_register_access_offers_waiting_frames(running: Rig) -> None:
    for number in range(20):
        running.wire(FRAME + bytes([number]))
    running.driver.received()
    running.driver.take_interrupt()
    assert len(running.driver.received()) == 4


def test_frames_without_room_to_wait_are_missed(running: Rig) -> None:
    for _ in range(QUEUE_LIMIT + 18):
        running.wire(FRAME)
    assert running.driver.csr(112) == 2
    assert running.driver.take_interrupt() & MISS


def test_frame_that_fits_nowhere_is_missed() -> None:
    rig = Rig(buffer_bytes=64)
    rig.driver.start()
    assert rig.wire(FRAME + bytes(1200))
    assert rig.driver.csr(112) == 1
    rig.wire(FRAME)
    assert rig.driver.received() == [FRAME]
    rig.close()


def test_longer_frames_than_a_descriptor_can_tell_are_dropped(running: Rig) -> None:
    assert running.wire(FRAME + bytes(4000))
    assert running.wire(FRAME + bytes(4091 - len(FRAME)))
    assert [len(frame) for frame in running.driver.received()] == [4091]


def test_suspended_receiver_lets_frames_wait(running: Rig) -> None:
    running.driver.write_csr(5, 1)
    running.wire(FRAME)
    assert running.driver.received() == []
    running.driver.write_csr(5, 0)
    assert running.driver.received() == [FRAME]


def test_stopped_receiver_drops(running: Rig) -> None:
    for _ in range(20):
        running.wire(FRAME)
    running.driver.write_csr(0, 4)
    assert running.wire(FRAME)
    running.driver.start()
    running.scheduler.advance(1)
    assert running.driver.received() == []


def test_unwritable_buffer_is_missed(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    running.driver.put(RX_RING, 0, 0x10, 1544, OWN)
    for _ in range(3):
        running.wire(FRAME)
    assert running.driver.csr(112) == 3
    assert len(caplog.records) == 1
    running.driver.give(0)
    running.wire(FRAME)
    assert running.driver.received() == [FRAME]


def test_loopback(rig: Rig) -> None:
    rig.driver.start(0x0044)
    for _ in range(4):
        rig.driver.send(FRAME)
    assert rig.driver.received() == [FRAME] * 4
    assert rig.netdev.frames == []


def test_loopback_test_of_linux(rig: Rig) -> None:
    """It initializes the chip anew without writing the block's address, starts it once more, and leaves it to poll."""
    driver = rig.driver
    driver.start()
    driver.write_csr(0, STOP)
    driver.reset()
    driver.write_bcr(20, 2)
    driver.write_csr(0, INIT)
    driver.write_csr(0, STOP)
    driver.tx_next = 0
    for _ in range(4):
        driver.piece(FRAME, OWN | STP | ENP)
    driver.write_csr(15, driver.csr(15) & 0xFFFC | 0x0044)
    driver.write_csr(0, STRT)
    rig.scheduler.advance(POLL_SECONDS)
    assert driver.received() == [FRAME] * 4
