"""Receiving in both modes: filters, the ring buffer and its end, descriptors, VLAN tags, frames that wait for room."""

from __future__ import annotations

import pytest
from tests.fakes.rtl8139_driver import OWN, PLUS, RX_RING_BUFFER, WHOLE, OldDriver, PlusDriver
from tests.unit.nic_e1000.conftest import MAC
from tests.unit.nic_rtl8139.conftest import Rig

from vnic.nic.multicast import multicast_index
from vnic.nic.rtl8139 import registers as r

EVERYONE = b"\xff" * 6
GROUP = bytes.fromhex("01005e0000fb")
STRANGER = bytes.fromhex("525400aaaaaa")


def frame(destination: bytes = MAC, size: int = 100, fill: int = 7) -> bytes:
    return destination + MAC + b"\x88\xb5" + bytes((fill,)) * (size - 14)


def test_frames_arrive_in_order_with_their_kind(plus: Rig[PlusDriver]) -> None:
    frames = [frame(), frame(EVERYONE, 1514, 1), frame(size=60, fill=2)]
    for each in frames:
        plus.wire(each)
    assert plus.driver.handle_interrupt() == r.RX_OK
    found = plus.driver.descriptors()
    assert [data for _, _, data in found] == frames
    kinds = [status & (7 << 24) for status, _, _ in found]
    assert kinds == [1 << 25, 1 << 24, 1 << 25]
    assert all(status & WHOLE == WHOLE for status, _, _ in found)


def test_the_ring_goes_around(plus: Rig[PlusDriver]) -> None:
    sent = [frame(fill=number) for number in range(50)]
    found = []
    for each in sent:
        plus.wire(each)
        found += plus.driver.received()
    assert found == sent


def test_short_frames_are_padded(plus: Rig[PlusDriver]) -> None:
    plus.wire(frame(size=20))
    assert plus.driver.received() == [frame(size=20) + bytes(40)]


def test_vlan_tag_is_taken_out(plus: Rig[PlusDriver]) -> None:
    tagged = MAC + MAC + bytes.fromhex("81002064") + b"\x88\xb5" + bytes(60)
    plus.wire(tagged)
    plus.driver.write(r.CPCR, PLUS | r.CPCR_RX_VLAN)
    plus.wire(tagged)
    plus.wire(tagged[:40])
    (_, none, whole), (_, tag, without), (_, _, short) = plus.driver.descriptors()
    assert (none, whole) == (0, tagged)
    assert (tag, without) == (0x16420, tagged[:12] + tagged[16:])
    assert short == tagged[:12] + tagged[16:40] + bytes(24)


@pytest.mark.parametrize(
    ("destination", "rcr", "arrives"),
    [
        (MAC, 0x02, True),
        (MAC, 0x0C, False),
        (EVERYONE, 0x08, True),
        (EVERYONE, 0x06, False),
        (STRANGER, 0x0E, False),
        (STRANGER, 0x01, True),
        (GROUP, 0x04, True),
        (GROUP, 0x0A, False),
        (bytes.fromhex("01005e0000fc"), 0x04, False),
    ],
)
def test_filter(plus: Rig[PlusDriver], destination: bytes, rcr: int, arrives: bool) -> None:
    at = multicast_index(GROUP)
    plus.driver.write(r.MAR + at // 8, 1 << at % 8)
    plus.driver.write(r.RCR, rcr)
    plus.wire(frame(destination))
    assert bool(plus.driver.received()) is arrives


def test_multicast_index_is_that_of_the_ethernet_crc() -> None:
    def bit_by_bit(address: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in address:
            for bit in range(8):
                carry = crc >> 31 ^ byte >> bit & 1
                crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if carry else 0)
        return crc >> 26

    for address in (EVERYONE, GROUP, STRANGER, bytes(6)):
        assert multicast_index(address) == bit_by_bit(address)


def test_frame_waits_for_a_descriptor(plus: Rig[PlusDriver]) -> None:
    sent = [frame(fill=number) for number in range(20)]
    for each in sent:
        plus.wire(each)
    assert plus.driver.read(r.ISR) == r.RX_OK | r.RX_OVERFLOW
    found = plus.driver.received()
    plus.driver.handle_interrupt()
    assert found + plus.driver.received() == sent


def test_frame_that_no_buffer_takes_is_missed(plus: Rig[PlusDriver]) -> None:
    plus.wire(frame(size=1533))
    assert plus.driver.read(r.MPC) == 1
    assert plus.driver.read(r.ISR) == r.RX_OVERFLOW
    plus.wire(frame(size=1532))
    assert plus.driver.received() == [frame(size=1532)]
    plus.driver.write(r.MPC, 0)
    assert plus.driver.read(r.MPC) == 0


def test_receiver_before_its_ring_drops(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.RDSAR, 0)
    plus.wire(frame())
    assert plus.driver.read(r.ISR) == 0
    assert plus.driver.status(0x4000_0000, 0) & OWN


def test_frames_arrive_in_the_ring_buffer(old: Rig[OldDriver]) -> None:
    frames = [frame(), frame(EVERYONE, 61, 1), frame(size=1514, fill=2)]
    for each in frames:
        old.wire(each)
    assert old.driver.handle_interrupt() == r.RX_OK
    packets = old.driver.packets()
    assert [data for _, data in packets] == frames
    assert [status for status, _ in packets] == [0x4001, 0x2001, 0x4001]
    assert old.driver.read(r.CR) & r.CR_BUFE


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("length", [0, 3])
def test_ring_buffer_goes_around(length: int, wrap: bool) -> None:
    rig = Rig(lambda device: OldDriver(device, length, wrap=wrap and length < 3))
    rig.driver.start()
    for number in range(300):
        sent = frame(size=60 + number * 37 % 1455, fill=number & 0xFF)
        rig.wire(sent)
        assert rig.driver.received() == [sent]
    behind = rig.driver.memory.read(RX_RING_BUFFER + rig.driver.size, 2048)
    assert bool(any(behind)) is rig.driver.wrap
    rig.close()


def test_frame_waits_for_room(old: Rig[OldDriver]) -> None:
    sent = [frame(size=1000, fill=number) for number in range(20)]
    for each in sent:
        old.wire(each)
    assert old.driver.handle_interrupt() == r.RX_OK | r.RX_OVERFLOW
    found: list[bytes] = []
    while len(found) < 20:
        found += old.driver.received()
    assert found == sent


def test_filter_can_change_while_frames_arrive(old: Rig[OldDriver]) -> None:
    old.wire(frame(fill=1))
    old.driver.write(r.RCR, old.driver.read(r.RCR) | 1)
    old.wire(frame(STRANGER, fill=2))
    assert old.driver.received() == [frame(fill=1), frame(STRANGER, fill=2)]


def test_receiver_that_is_off_drops(old: Rig[OldDriver]) -> None:
    old.driver.write(r.CR, r.CR_TE)
    old.wire(frame())
    assert old.driver.read(r.CR) & r.CR_BUFE
    old.driver.bus_master(False)
    old.driver.write(r.CR, r.CR_RE)
    old.wire(frame())
    assert old.driver.read(r.CR) & r.CR_BUFE
