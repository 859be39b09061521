"""Frames to and from the guest: rings and chains, setup frames and their filters, and frames that wait."""

from __future__ import annotations

import struct
import zlib

import pytest
from tests.fakes.tulip_driver import (
    BUFFER_BYTES,
    FS,
    IC,
    LS,
    MII_MODE,
    OWN,
    RI,
    RING,
    RU,
    RX_BUFFERS,
    RX_RING,
    TI,
    TX_RING,
)
from tests.unit.nic_tulip.conftest import MAC, Rig

from vnic.net.queue import QUEUE_LIMIT
from vnic.nic.tulip.device import POLL_SECONDS

FRAME = MAC + bytes.fromhex("525400000002") + b"\x12\x34" + bytes(range(100))
MULTICAST = bytes.fromhex("333300000001")


@pytest.mark.parametrize("chained", [False, True])
def test_frames_go_both_ways(chained: bool) -> None:
    rig = Rig(chained=chained)
    rig.driver.start()
    for number in range(40):
        data = FRAME + bytes([number]) * 700
        rig.driver.send(data, 1 + number % 5)
        rig.wire(data)
        assert rig.netdev.frames.pop() == data
        assert rig.driver.received() == [data]
    rig.close()


def test_sent_frame_is_shown_and_interrupts(running: Rig) -> None:
    driver = running.driver
    driver.write(5, 0xFFFFFFFF)
    driver.piece(FRAME, FS | LS)
    driver.write(1, 0)
    assert not driver.read(5) & TI
    driver.send(FRAME[:20])
    assert driver.interrupted()
    assert driver.read(5) & TI
    assert driver.status(TX_RING, 1) == driver.status(TX_RING, 2) == 0
    assert running.netdev.frames == [FRAME, FRAME[:20] + bytes(40)]


def test_setup_frame_and_empty_descriptor_are_shown_as_done(running: Rig) -> None:
    assert running.driver.status(TX_RING, 0) == 0x7FFFFFFF
    running.driver.piece(b"", 0)
    running.driver.write(1, 0)
    assert running.driver.status(TX_RING, 1) == 0x7FFFFFFF
    assert running.netdev.frames == []


def test_frame_is_sent_when_it_is_whole(running: Rig) -> None:
    driver = running.driver
    driver.piece(FRAME[:50], FS)
    driver.write(1, 0)
    assert driver.status(TX_RING, 1) == OWN
    driver.piece(FRAME[50:], LS | IC)
    driver.write(1, 0)
    assert running.netdev.frames == [FRAME]


def test_received_frame_has_its_fcs_and_status(running: Rig) -> None:
    driver = running.driver
    running.wire(FRAME)
    assert driver.read(5) & RI
    assert driver.status(RX_RING, 0) == 0x300 | len(FRAME) + 4 << 16
    data = driver.memory.read(RX_BUFFERS, len(FRAME) + 4)
    assert data == FRAME + zlib.crc32(FRAME).to_bytes(4, "little")
    running.wire(MULTICAST[:1] + b"\xff" * 5 + FRAME[6:])
    running.wire(b"\xff" * 6 + FRAME[6:])
    assert driver.status(RX_RING, 1) & 0x400


def test_both_buffers_of_a_descriptor(running: Rig) -> None:
    driver = running.driver
    at = RX_BUFFERS
    driver.memory.write(RX_RING, struct.pack("<IIII", OWN, 100 | 64 << 11, at, at + 200))
    running.wire(FRAME)
    assert driver.memory.read(at, 100) + driver.memory.read(at + 200, 14) == FRAME
    driver.memory.write(TX_RING + 16, struct.pack("<IIII", OWN, FS | LS | 100 | 14 << 11, at, at + 200))
    driver.write(1, 0)
    assert running.netdev.frames == [FRAME]


def test_big_endian_descriptors() -> None:
    rig = Rig()
    driver = rig.driver
    driver.start(csr0=1 << 20)
    driver.memory.write(RX_RING, struct.pack(">IIII", OWN, BUFFER_BYTES, RX_BUFFERS, 0))
    driver.write(6, MII_MODE | 2 | 0x40)
    rig.wire(FRAME)
    assert driver.memory.read(RX_RING, 4) == struct.pack(">I", 0x40000300 | len(FRAME) + 4 << 16)
    rig.close()


def hashed(address: bytes) -> int:
    return (~zlib.crc32(address) & 0xFFFFFFFF) & 0x1FF


@pytest.mark.parametrize(
    ("mode", "kind", "addresses", "taken"),
    [
        (0, 0, (), "own broadcast"),
        (0, 0, (MULTICAST,), "own broadcast multicast"),
        (0x80, 0, (), "own broadcast multicast"),
        (0x40, 0, (), "own broadcast multicast other"),
        (0, 1 << 28, (), "broadcast multicast other"),
    ],
)
def test_perfect_filter(rig: Rig, mode: int, kind: int, addresses: tuple[bytes, ...], taken: str) -> None:
    rig.driver.start(MII_MODE | mode, addresses=addresses, kind=kind)
    frames = {
        "own": FRAME,
        "broadcast": b"\xff" * 6 + FRAME[6:],
        "multicast": MULTICAST + FRAME[6:],
        "other": b"\x52" * 6 + FRAME[6:],
    }
    for frame in frames.values():
        assert rig.wire(frame)
    assert rig.driver.received() == [frames[each] for each in taken.split()]


def test_hash_filter() -> None:
    rig = Rig()
    driver = rig.driver
    driver.start()
    table = bytearray(64)
    table[hashed(MULTICAST) >> 3] |= 1 << (hashed(MULTICAST) & 7)
    halves = bytes(table).ljust(78, b"\0") + MAC + bytes(12)
    driver.memory.write(0x4000_8000, b"".join(halves[at : at + 2] * 2 for at in range(0, 96, 2)))
    driver.put(TX_RING, driver.tx_next, 0x4000_8000, 192, 1 << 27 | 1 << 22, OWN)
    driver.write(1, 0)
    rig.wire(MULTICAST + FRAME[6:])
    rig.wire(MULTICAST[:5] + b"\x02" + FRAME[6:])
    rig.wire(FRAME)
    rig.wire(b"\x52" * 6 + FRAME[6:])
    assert driver.received() == [MULTICAST + FRAME[6:], FRAME]
    rig.close()


def test_frames_wait_for_descriptors(running: Rig) -> None:
    driver = running.driver
    for number in range(20):
        running.wire(FRAME + bytes([number]))
    assert driver.read(5) & RU
    assert driver.read(5) >> 17 & 7 == 4
    got = driver.received()
    running.scheduler.advance(POLL_SECONDS)
    got += driver.received()
    assert got == [FRAME + bytes([number]) for number in range(20)]
    assert driver.read(8) & 0xFFFF == 0


def test_frames_without_room_to_wait_are_counted(running: Rig) -> None:
    for _ in range(QUEUE_LIMIT + RING + 2):
        running.wire(FRAME)
    assert running.driver.read(8) & 0x1FFFF == 2
    assert running.driver.read(8) & 0x1FFFF == 0


def test_stopped_receiver_drops(running: Rig) -> None:
    running.driver.write(6, MII_MODE)
    assert running.wire(FRAME)
    assert running.driver.received() == []


def test_loopback(rig: Rig) -> None:
    rig.driver.start(MII_MODE | 1 << 10)
    for _ in range(4):
        rig.driver.send(FRAME)
    assert rig.driver.received() == [FRAME] * 4
    assert rig.netdev.frames == []
    rig.wire(FRAME)
    assert rig.driver.received() == []


def test_peer_without_room_pauses_list(running: Rig) -> None:
    driver = running.driver
    running.netdev.room = False
    for _ in range(5):
        driver.piece(FRAME, FS | LS)
    driver.write(1, 0)
    driver.write(1, 0)
    running.scheduler.run_soon()
    assert [driver.status(TX_RING, at) for at in (1, 2)] == [0, OWN]
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.run_soon()
    assert running.netdev.frames == [FRAME] * 5


def test_link_down_resumes_paused_list(running: Rig) -> None:
    running.netdev.room = False
    for _ in range(3):
        running.driver.send(FRAME)
    running.set_link(False)
    running.scheduler.run_soon()
    assert not running.driver.status(TX_RING, 3) & OWN
