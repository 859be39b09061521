"""Transmitting: legacy and extended descriptors, offloads, pacing, and the counts."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.e1000_driver import DEXT, EOP, IC, IXSM, RS, TCTL, TSE, TX_BUFFERS, TXSM, VLE
from tests.unit.net.test_offload import DST4, DST6, SRC4, SRC6, build, slow_sum, verify
from tests.unit.nic_e1000.conftest import MAC, Rig

from vnic.net.offload import complete
from vnic.nic.intel import regs
from vnic.nic.intel.tx import WORK_PER_TURN

FRAME = bytes.fromhex("525400000002") + MAC + b"\x12\x34" + bytes(100)


def test_legacy_descriptor_sends_frame(running: Rig) -> None:
    running.driver.send(FRAME)
    assert running.netdev.frames == [FRAME]
    assert running.driver.tx_done(0)
    assert running.driver.read(regs.ICR) == regs.ICR_TXDW | regs.ICR_TXQE
    assert running.driver.read(regs.TDH) == 1


def test_no_status_without_rs(running: Rig) -> None:
    running.driver.send(FRAME, EOP)
    assert not running.driver.tx_done(0)
    assert running.driver.read(regs.ICR) == regs.ICR_TXQE


def test_txd_low_is_set_at_threshold(running: Rig) -> None:
    running.driver.write(regs.TXDCTL, 1 << 25)
    running.driver.send_extended(FRAME, 0, pieces=6)
    assert not running.driver.read(regs.ICR) & regs.ICR_TXD_LOW  # it never had eight
    running.driver.send_extended(FRAME, 0, pieces=8)
    assert running.driver.read(regs.ICR) & regs.ICR_TXD_LOW


def test_loopback_frame_without_buffer_is_missed(running: Rig) -> None:
    running.driver.phy_write(0, 0x4000)
    for _ in range(16):
        running.driver.send(MAC + FRAME[6:])
    assert running.driver.read(regs.ICR) & regs.ICR_RXO
    assert running.driver.read(regs.MPC) == 1


def test_frame_may_wrap_around_ring(running: Rig) -> None:
    for _ in range(5):
        running.driver.send_extended(FRAME, 0, pieces=7)
    assert running.netdev.frames == [FRAME] * 5
    assert running.driver.read(regs.TDH) == 35 % 16


def test_no_frame_is_sent_before_tctl_en(rig: Rig) -> None:
    rig.driver.start(tctl=0)
    rig.driver.send(FRAME)
    assert rig.netdev.frames == []
    rig.driver.write(regs.TCTL, TCTL)
    assert rig.netdev.frames == [FRAME]


def test_short_frames_are_padded_with_psp(running: Rig) -> None:
    running.driver.send(FRAME[:20])
    running.driver.write(regs.TCTL, TCTL | 8)
    running.driver.send(FRAME[:20])
    running.driver.send(FRAME[:13], EOP)
    assert [len(frame) for frame in running.netdev.frames] == [20, 60]


def test_vlan_insertion(running: Rig) -> None:
    tagged = FRAME[:12] + b"\x81\x00\x20\x64" + FRAME[12:]
    running.driver.send(FRAME, EOP | VLE, upper=0x2064 << 16)
    running.driver.write(regs.CTRL, regs.CTRL_VME)
    running.driver.send(FRAME, EOP | VLE, upper=0x2064 << 16)
    running.driver.send(FRAME, EOP, upper=0x2064 << 16)
    running.driver.send_extended(FRAME, 0, EOP | VLE, pieces=2, tag=0x2064)
    assert running.netdev.frames == [FRAME, tagged, FRAME, tagged]


def without_sums(payload: bytes, v6: bool = False, tcp: bool = True) -> tuple[bytes, int, int]:
    """A frame as a driver leaves it for segmentation: no lengths, no IP checksum, pseudo-header sum without length."""
    frame, l3, l4 = build(6 if tcp else 17, payload, v6)
    whole = bytearray(frame)
    addresses = SRC6 + DST6 if v6 else SRC4 + DST4
    at = l4 + (16 if tcp else 6)
    struct.pack_into(">H", whole, at, slow_sum(addresses + bytes((0, 6 if tcp else 17))))
    struct.pack_into(">H", whole, l3 + (4 if v6 else 2), 0)
    return bytes(whole), l3, l4


@pytest.mark.parametrize("wants_offload", [False, True])
@pytest.mark.parametrize("tag", [0, 100])
@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("tcp", [True, False])
def test_segmentation(rig: Rig, v6: bool, tag: int, wants_offload: bool, tcp: bool) -> None:
    rig.netdev.wants_offload = wants_offload
    rig.driver.start()
    rig.driver.write(regs.CTRL, regs.CTRL_VME)
    payload = bytes(range(256)) * 40
    frame, l3, l4 = without_sums(payload, v6, tcp)
    at = l4 + (16 if tcp else 6)
    header = l4 + (20 if tcp else 8)
    rig.driver.context(l3=l3, l4=l4, at=at, header=header, mss=1448, tse=True, ipv4=not v6, tcp=tcp)
    command = EOP | RS | TSE | (VLE if tag else 0)
    rig.driver.send_extended(frame, TXSM | (0 if v6 else IXSM), command, pieces=4, tag=tag)
    frames = rig.netdev.frames
    if wants_offload:
        assert len(frames) == 1
        frames = complete(rig.netdev.offloads[0], frames[0])
    shift = 4 if tag else 0
    if tag:
        assert all(each[12:16] == b"\x81\x00\x00\x64" for each in frames)
    parts = [verify(each, l3 + shift, l4 + shift, 6 if tcp else 17, v6) for each in frames]
    assert [len(part) for part in parts] == [1448] * 7 + [104]
    assert b"".join(parts) == payload
    assert rig.driver.read(regs.GPTC) == 8
    assert rig.driver.read(regs.TSCTC) == 1
    assert rig.driver.read(regs.GOTCL) == sum(len(each) + 4 for each in frames)


def test_padding_is_not_segment_payload(rig: Rig) -> None:
    rig.driver.start(tctl=TCTL | 8)
    frame, l3, l4 = without_sums(b"x")
    rig.driver.context(l3=l3, l4=l4, at=l4 + 16, header=l4 + 20, mss=1448, tse=True)
    rig.driver.send_extended(frame, TXSM | IXSM, EOP | TSE)
    assert verify(rig.netdev.frames[0], l3, l4, 6, False) == b"x"


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("tag", [0, 100])
def test_checksums(running: Rig, protocol: int, v6: bool, tag: int) -> None:
    frame, l3, l4 = build(protocol, b"odd payload", v6)
    at = l4 + (16 if protocol == 6 else 6)
    running.driver.write(regs.CTRL, regs.CTRL_VME)
    running.driver.context(l3=l3, l4=l4, at=at, ends=(l4 - 1, 0))
    command = EOP | (VLE if tag else 0)
    running.driver.send_extended(frame, TXSM | (0 if v6 else IXSM), command, tag=tag)
    shift = 4 if tag else 0
    assert verify(running.netdev.frames[0], l3 + shift, l4 + shift, protocol, v6) == b"odd payload"


def test_checksum_with_an_end_and_the_legacy_kind(running: Rig) -> None:
    frame, l3, l4 = build(6, b"even payload")
    trailer = b"not counted"
    running.driver.context(l3=l3, l4=l4, at=l4 + 16, ends=(l4 - 1, len(frame) - 1))
    running.driver.send_extended(frame + trailer, TXSM | IXSM)
    sent = running.netdev.frames[0]
    assert sent.endswith(trailer)
    verify(sent[: len(frame)], l3, l4, 6, False)

    running.driver.memory.write(TX_BUFFERS, frame)
    running.driver.descriptor(TX_BUFFERS, len(frame) | (l4 + 16) << 16, EOP | IC, upper=l4 << 8)
    running.driver.kick()
    whole = running.netdev.frames[1]
    assert (
        slow_sum(
            struct.pack(">H", slow_sum(SRC4 + DST4 + struct.pack(">II", len(whole) - l4, 6))) + whole[l4:]
        )
        == 0xFFFF
    )


def test_checksum_offsets_outside_of_the_frame_insert_nothing(running: Rig) -> None:
    running.driver.context(l3=14, l4=200, at=210)
    running.driver.send_extended(FRAME, TXSM)
    running.driver.context(l3=250, l4=34, at=20)
    running.driver.send_extended(FRAME, TXSM | IXSM)
    assert running.netdev.frames[0] == FRAME


def test_both_offload_contexts_are_independent(running: Rig) -> None:
    frame, l3, l4 = without_sums(bytes(3000))
    plain, _, _ = build(6, b"plain")
    running.driver.context(l3=l3, l4=l4, at=l4 + 16, header=l4 + 20, mss=1000, tse=True)
    running.driver.context(l3=l3, l4=l4, at=l4 + 16, ends=(l4 - 1, 0))
    for _ in range(2):
        running.driver.send_extended(frame, TXSM | IXSM, EOP | TSE)
        running.driver.send_extended(plain, TXSM | IXSM)
    for each in running.netdev.frames:
        verify(each, l3, l4, 6, False)
    assert len(running.netdev.frames) == 8


def test_peer_without_room_pauses_ring(running: Rig) -> None:
    running.netdev.room = False
    driver = running.driver
    for _ in range(5):
        driver.descriptor(TX_BUFFERS, 64, EOP | RS)
    driver.kick()
    assert driver.read(regs.TDH) == 1
    driver.kick()
    running.scheduler.run_soon()
    assert driver.read(regs.TDH) == 1
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.run_soon()
    assert driver.read(regs.TDH) == 5
    assert len(running.netdev.frames) == 5


def test_netdev_del_resumes_paused_ring(running: Rig) -> None:
    running.netdev.room = False
    running.driver.send(FRAME)
    running.network.delete_netdev("net0", "test")
    running.driver.send(FRAME)
    running.scheduler.run_soon()
    assert running.driver.read(regs.TDH) == 2


def test_link_down_resumes_paused_ring(running: Rig) -> None:
    """Linux's driver resets the card that has not done its frames when the link is gone."""
    running.netdev.room = False
    for _ in range(3):
        running.driver.send(FRAME)
    assert not running.driver.tx_done(2)
    running.set_link(False)
    running.scheduler.run_soon()
    assert running.driver.tx_done(2)
    assert running.netdev.frames == []


def test_link_down_completes_frames_unsent(running: Rig) -> None:
    running.set_link(False)
    running.driver.send(FRAME)
    assert running.driver.tx_done(0)
    running.set_link(True)
    running.driver.send(FRAME)
    assert running.netdev.frames == []


def test_work_is_spread_over_turns() -> None:
    rig = Rig()
    rig.driver.ring_size = 1024
    rig.driver.start()
    for _ in range(1000):
        rig.driver.descriptor(TX_BUFFERS, 64, EOP)
    rig.driver.kick()
    assert len(rig.netdev.frames) == WORK_PER_TURN
    rig.driver.kick()
    assert len(rig.netdev.frames) == WORK_PER_TURN, "a kick while a turn is due is no turn of its own"
    rig.scheduler.run_soon()
    assert len(rig.netdev.frames) == 1000
    rig.close()


def test_reset_cancels_scheduled_turn(rig: Rig) -> None:
    rig.driver.ring_size = 1024
    rig.driver.start()
    for _ in range(1000):
        rig.driver.descriptor(TX_BUFFERS, 64, EOP)
    rig.driver.kick()
    rig.device.reset()
    rig.scheduler.run_soon()
    assert len(rig.netdev.frames) == WORK_PER_TURN


@pytest.mark.parametrize("link", [True, False])
def test_loopback(running: Rig, link: bool) -> None:
    running.set_link(link)
    running.driver.phy_write(0, 0x4140)
    running.driver.send(MAC + MAC + FRAME[12:])
    assert running.driver.received() == [MAC + MAC + FRAME[12:]]
    assert running.netdev.frames == []


def test_loopback_completes_offloads(running: Rig) -> None:
    frame, l3, l4 = build(6, b"payload")
    running.driver.phy_write(0, 0x4140)
    running.driver.context(l3=l3, l4=l4, at=l4 + 16, ends=(l4 - 1, 0))
    running.driver.send_extended(MAC + frame[6:], TXSM | IXSM)
    assert verify(running.driver.received()[0], l3, l4, 6, False) == b"payload"
    long, l3, l4 = without_sums(bytes(3000))
    running.driver.context(l3=l3, l4=l4, at=l4 + 16, header=l4 + 20, mss=1000, tse=True)
    broken = bytearray(MAC + long[6:])
    broken[l4 + 12] = 0x10  # a TCP header of 4 bytes
    running.driver.send_extended(bytes(broken), TXSM | IXSM, EOP | TSE)
    assert running.driver.received() == []


def test_counters(running: Rig) -> None:
    running.driver.send(FRAME)
    running.driver.send(b"\xff" * 6 + FRAME[6:])
    running.driver.send(b"\x01" + FRAME[1:])
    driver = running.driver
    assert (driver.read(regs.GPTC), driver.read(regs.TPT)) == (3, 3)
    assert (driver.read(regs.BPTC), driver.read(regs.MPTC)) == (1, 1)
    assert driver.read(regs.PTC64 + 4) == 3
    assert driver.read(regs.TOTL) == 3 * (len(FRAME) + 4)
    assert (driver.read(regs.TOTH), driver.read(regs.TOTL)) == (0, 0)


def test_context_descriptor_sends_no_frame(running: Rig) -> None:
    for _ in range(3):
        running.driver.descriptor(0, 0, DEXT | RS)
    running.driver.descriptor(0, 0, DEXT | RS, kind=7)
    running.driver.kick()
    assert running.netdev.frames == []
    assert running.driver.read(regs.TDH) == 4
