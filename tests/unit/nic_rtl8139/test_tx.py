"""Transmitting in both modes: the four descriptors, the ring, frames in pieces, offloads, a peer without room."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.rtl8139_driver import EOR, FIRST, LAST, OWN, TX_BUFFERS, TX_RING, OldDriver, PlusDriver
from tests.unit.net.test_offload import build, pseudo, slow_sum
from tests.unit.nic_e1000.conftest import MAC
from tests.unit.nic_rtl8139.conftest import Rig

from vnic.nic.rtl8139 import registers as r

LARGE_SEND, IPCS, UDPCS, TCPCS = 1 << 27, 1 << 18, 1 << 17, 1 << 16
TAG = 1 << 17


def frame(size: int = 100, fill: int = 7) -> bytes:
    return b"\xff" * 6 + MAC + b"\x88\xb5" + bytes((fill,)) * (size - 14)


def test_frames_are_sent_in_order(plus: Rig[PlusDriver]) -> None:
    sent = [frame(fill=number) for number in range(40)]
    for each in sent:
        index = plus.driver.send(each)
        plus.turn()
        assert plus.driver.done(index)
        assert plus.driver.handle_interrupt() == r.TX_OK
    assert plus.netdev.frames == sent


def test_frame_of_many_descriptors(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    driver.memory.write(TX_BUFFERS, frame(1000))
    first = driver.descriptor(TX_BUFFERS, 14, FIRST)
    driver.descriptor(TX_BUFFERS + 14, 500, 0)
    driver.poll()
    plus.turn()
    assert not driver.done(first)  # the frame has no end yet
    last = driver.descriptor(TX_BUFFERS + 514, 486, LAST)
    driver.poll()
    plus.turn()
    assert plus.netdev.frames == [frame(1000)]
    assert driver.done(first)
    assert driver.done(last)


def test_end_of_ring_is_kept(plus: Rig[PlusDriver]) -> None:
    for number in range(16):
        plus.driver.send(frame(fill=number))
    plus.turn()
    assert len(plus.netdev.frames) == 16
    assert plus.driver.status(TX_RING, 15) & (OWN | EOR) == EOR


def test_short_frames_are_padded_and_runts_are_not_sent(plus: Rig[PlusDriver]) -> None:
    plus.driver.send(frame(20))
    plus.turn()
    assert plus.driver.done(plus.driver.send(b"short")) is False
    plus.turn()
    assert plus.netdev.frames == [frame(20) + bytes(40)]


def verified(frame: bytes, l4: int, tcp: bool = True) -> None:
    """Both checksums of a whole frame are right."""
    l3 = l4 - 20
    length = struct.unpack_from(">H", frame, l3 + 2)[0]
    assert slow_sum(frame[l3:l4]) == 0xFFFF
    assert slow_sum(frame[l4 : l3 + length]) + pseudo(6 if tcp else 17, length - 20, False) in (
        0xFFFF,
        0x1FFFE,
    )


def with_garbage(whole: bytes, l4: int, tcp: bool = True) -> bytes:
    """What a driver leaves where the chip puts checksums does not count."""
    frame, at = bytearray(whole), l4 + (16 if tcp else 6)
    frame[24:26] = b"\xaa\xaa"
    frame[at : at + 2] = b"\xbb\xbb"
    return bytes(frame)


@pytest.mark.parametrize("tcp", [True, False])
def test_checksums_are_filled_in(plus: Rig[PlusDriver], tcp: bool) -> None:
    whole, _, l4 = build(6 if tcp else 17, bytes(range(101)))
    plus.driver.send(with_garbage(whole, l4, tcp), IPCS | (TCPCS if tcp else UDPCS))
    plus.turn()
    verified(plus.netdev.frames[0], l4, tcp)


def test_padding_is_not_in_the_checksum(plus: Rig[PlusDriver]) -> None:
    whole, _, l4 = build(6, b"")
    plus.driver.send(with_garbage(whole, l4) + b"\xee" * 7, IPCS | TCPCS)
    plus.turn()
    assert plus.netdev.offloads == [b""]
    verified(plus.netdev.frames[0], l4)


@pytest.mark.parametrize("vlan", [False, True])
def test_large_send(plus: Rig[PlusDriver], vlan: bool) -> None:
    payload = bytes(range(256)) * 15
    whole, _, l4 = build(6, payload)
    plus.driver.memory.write(TX_BUFFERS, with_garbage(whole, l4))
    tag = TAG | 0x6420 if vlan else 0
    plus.driver.descriptor(TX_BUFFERS, len(whole), FIRST | LAST | LARGE_SEND | 1400 << 16, tag)
    plus.driver.poll()
    plus.turn()
    parts = plus.netdev.frames
    if vlan:
        assert all(part[12:16] == bytes.fromhex("81002064") for part in parts)
        parts = [part[:12] + part[16:] for part in parts]
    assert [len(part) - l4 - 20 for part in parts] == [1400, 1400, 1040]
    assert b"".join(part[l4 + 20 :] for part in parts) == payload
    for part in parts:
        verified(part, l4)


def test_large_send_of_no_tcp_is_sent_as_it_is(plus: Rig[PlusDriver]) -> None:
    plus.driver.send(frame(200), LARGE_SEND | 100 << 16)
    plus.turn()
    assert plus.netdev.frames == [frame(200)]


def test_vlan_tag_is_inserted(plus: Rig[PlusDriver]) -> None:
    plus.driver.send(frame(), vlan=TAG | 0x6420)
    plus.turn()
    assert plus.netdev.frames == [frame()[:12] + bytes.fromhex("81002064") + frame()[12:]]


def test_loopback(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.TCR, 0x60000)
    plus.driver.send(frame())
    plus.turn()
    assert plus.netdev.frames == []
    assert plus.driver.received() == [frame()]


def test_ring_waits_for_a_peer_without_room(plus: Rig[PlusDriver]) -> None:
    plus.netdev.room = False
    first = plus.driver.send(frame(fill=1))
    second = plus.driver.send(frame(fill=2))
    plus.turn()
    assert plus.driver.done(first)  # it is in the peer's queue
    assert not plus.driver.done(second)
    plus.netdev.room = True
    plus.netdev.client.flush(0)
    plus.turn()
    assert plus.netdev.frames == [frame(fill=1), frame(fill=2)]


def test_ring_goes_on_while_the_link_is_down(plus: Rig[PlusDriver]) -> None:
    plus.netdev.room = False
    plus.driver.send(frame(fill=1))
    second = plus.driver.send(frame(fill=2))
    plus.turn()
    plus.set_link(False)
    plus.turn()
    assert plus.driver.done(second)


def test_four_descriptors(old: Rig[OldDriver]) -> None:
    sent = [frame(fill=number) for number in range(10)]
    for each in sent:
        number = old.driver.send(each)
        old.turn()
        assert old.driver.read(r.TSD + 4 * number) == 0x8A000 | len(each)
        assert old.driver.handle_interrupt() == r.TX_OK
    assert old.netdev.frames == sent
    assert old.driver.read(r.TSAD) == 0xF00F


def test_four_frames_at_once(old: Rig[OldDriver]) -> None:
    sent = [frame(fill=number) for number in range(4)]
    for each in sent:
        old.driver.send(each)
    old.turn()
    assert old.netdev.frames == sent


def test_unreadable_frame_is_aborted(old: Rig[OldDriver]) -> None:
    old.driver.write(r.TSADR, 0x10)
    old.driver.send(frame())
    old.turn()
    assert old.driver.read(r.TSD) & 0x40002000 == 0x40002000
    assert old.driver.handle_interrupt() == r.TX_ERROR
    assert old.driver.read(r.TSAD) == 0x001F
    old.driver.send(frame(fill=2))
    old.turn()
    assert old.netdev.frames == [frame(fill=2)]


def test_ring_that_is_not_mapped_stops(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.TNPDS, 0x10)
    plus.driver.poll()
    plus.turn()
    plus.driver.write(r.TNPDS, TX_RING)
    plus.driver.send(frame())
    plus.turn()
    assert plus.netdev.frames == [frame()]
