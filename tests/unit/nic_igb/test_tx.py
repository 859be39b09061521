"""Sending: advanced descriptors and contexts, offloads, VLAN tags, several queues, write-back of the head."""

from __future__ import annotations

import pytest
from tests.fakes.igb_driver import (
    EOP,
    IFCS,
    IXSM,
    RS,
    SCTP,
    TCP,
    TCTL,
    TSE,
    TX_BUFFERS,
    TXSM,
    UDP,
    VLE,
)
from tests.unit.net.test_offload import build, pseudo, verify
from tests.unit.nic_igb.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.net import offload
from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r

FRAME = bytes(6) + MAC + b"\x08\x06" + bytes(range(86))
HEAD_AT = GUEST_ADDR + 0xF0000


def complete(rig: Rig, at: int = -1) -> list[bytes]:
    """What a receiver without offloads gets of the frame `at`."""
    header = rig.netdev.offloads[at]
    frame = rig.netdev.frames[at]
    return [bytes(part) for part in offload.complete(header, frame)] if header else [frame]


@pytest.mark.parametrize("pieces", [1, 3])
def test_frame_is_sent_and_done(running: Rig, pieces: int) -> None:
    driver = running.driver
    driver.put_frame(FRAME, pieces=pieces)
    assert running.netdev.frames == [FRAME]
    assert driver.done(0, pieces - 1)
    assert driver.messages() == [0]
    assert driver.read(regs.GPTC) == 1


def test_queues_have_vectors_of_their_own(running: Rig) -> None:
    running.driver.put_frame(FRAME, 1)
    assert running.netdev.frames == [FRAME]
    assert running.driver.messages() == [1]


def test_sixteen_queues() -> None:
    rig = Rig(queues=16)
    rig.driver.other = 9
    rig.run()
    for queue in range(16):
        rig.driver.put_frame(FRAME, queue)
    assert rig.netdev.frames == [FRAME] * 16
    rig.close()


def test_disabled_queue_sends_when_it_is_enabled(running: Rig) -> None:
    driver = running.driver
    control = driver.place(r.TX, 1, r.TXDCTL)
    driver.write(control, 0)
    driver.put_frame(FRAME, 1)
    assert running.netdev.frames == []
    driver.write(control, r.QUEUE_ENABLE)
    assert running.netdev.frames == [FRAME]
    driver.write(regs.TCTL, TCTL & ~2)
    driver.put_frame(FRAME, 1)
    assert len(running.netdev.frames) == 1


def test_without_report_status_nothing_is_written_back(running: Rig) -> None:
    driver = running.driver
    driver.put_frame(FRAME, command=EOP | IFCS)
    assert running.netdev.frames == [FRAME]
    assert not driver.done(0, 0)
    assert driver.messages() == []
    assert driver.read(driver.place(r.TX, 0, 0x10)) == 1


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
def test_checksums_are_inserted(running: Rig, v6: bool, protocol: int) -> None:
    driver = running.driver
    payload = bytes(range(100))
    frame, l3, l4 = build(protocol, payload, v6)
    driver.put_context(ip=l4 - l3, kind=TCP if protocol == 6 else UDP, ipv4=not v6)
    driver.put_frame(frame, options=TXSM | (0 if v6 else IXSM))
    [part] = complete(running)
    assert verify(part, l3, l4, protocol, v6) == payload


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
def test_segmentation_with_the_second_context(running: Rig, v6: bool, protocol: int) -> None:
    """The driver leaves the lengths at 0, and that of the payload out of the pseudo-header's sum."""
    driver = running.driver
    payload = bytes(range(250)) * 10
    whole, l3, l4 = build(protocol, payload, v6)
    frame = bytearray(whole)
    at = l4 + (16 if protocol == 6 else 6)
    frame[at : at + 2] = pseudo(protocol, 0, v6).to_bytes(2, "big")
    if v6:
        frame[l3 + 4 : l3 + 6] = b"\0\0"
    else:
        frame[l3 + 2 : l3 + 4] = b"\0\0"
    size = 20 if protocol == 6 else 8
    kind = TCP if protocol == 6 else UDP
    driver.put_context(index=0, ip=0)
    driver.put_context(index=1, ip=l4 - l3, l4=size, mss=1000, ipv4=not v6, kind=kind)
    options = TXSM | (0 if v6 else IXSM)
    driver.put_frame(bytes(frame), index=1, options=options, command=EOP | IFCS | RS | TSE, pieces=3)
    parts = [verify(part, l3, l4, protocol, v6) for part in running.netdev.frames]
    assert [len(part) for part in parts] == [1000, 1000, 500]
    assert b"".join(parts) == payload
    assert driver.read(regs.TSCTC) == 1


def test_tag_of_the_context_is_inserted_without_vme(running: Rig) -> None:
    driver = running.driver
    driver.put_context(tag=0x6005, ip=0)
    driver.put_frame(FRAME, command=EOP | IFCS | RS | VLE)
    assert running.netdev.frames == [FRAME[:12] + b"\x81\x00\x60\x05" + FRAME[12:]]


def test_sctp_checksum_is_crc32c(running: Rig) -> None:
    """RFC 3720 §B.4: CRC32C of 32 bytes of zeros is 8A9136AAh; here they follow a header of 34 bytes."""
    driver = running.driver
    driver.put_context(kind=SCTP)
    driver.put_frame(FRAME[:34] + bytes(32), options=TXSM)
    [frame] = running.netdev.frames
    assert frame[34 + 8 : 34 + 12] == 0x8A9136AA.to_bytes(4, "little")
    assert frame[:42] == FRAME[:34] + bytes(8)


def test_head_is_written_back_in_place_of_status(running: Rig) -> None:
    driver = running.driver
    driver.write(driver.place(r.TX, 0, r.TDWBAL), HEAD_AT | 1)
    driver.put_frame(FRAME, pieces=2)
    assert int.from_bytes(driver.memory.read(HEAD_AT, 4), "little") == 2
    assert not driver.done(0, 1)
    assert driver.messages() == [0]


def test_legacy_descriptor_is_sent(running: Rig) -> None:
    driver = running.driver
    driver.memory.write(TX_BUFFERS, FRAME)
    driver.put(0, TX_BUFFERS, len(FRAME) | (EOP | IFCS | RS) << 24, 0)
    driver.kick_queue()
    assert running.netdev.frames == [FRAME]
    assert driver.done(0, 0)


def test_context_of_impossible_headers_is_said(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    running.driver.put_context(l3=127, ip=511)
    running.driver.put_frame(FRAME)
    assert running.netdev.frames == [FRAME]
    assert "not offloaded" in caplog.text


def test_loopback_of_the_mac_receives_what_is_sent(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.RCTL, driver.read(regs.RCTL) | 1 << 6)
    looped = MAC + FRAME[6:]
    driver.put_frame(looped)
    assert running.netdev.frames == []
    assert driver.frames() == [looped]


def test_frames_wait_for_the_peer(running: Rig) -> None:
    driver = running.driver
    running.netdev.room = False
    driver.put_frame(FRAME)
    driver.put_frame(FRAME)
    running.netdev.room = True
    running.nic.peer.flush(0) if running.nic.peer is not None else None
    running.scheduler.advance(0)
    running.scheduler.advance(0)
    assert running.netdev.frames == [FRAME, FRAME]


def test_link_down_sends_to_nobody_and_finishes(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    driver.put_frame(FRAME)
    assert running.netdev.frames == []
    assert driver.done(0, 0)
