"""vnic-wire's receive filter against the device model's (nic/virtio_net/rx_filter.py): the same frames pass."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from tests.fakes.wire_program import Refused, WireProgram, until

from vnic.dataplane.wire.messages import FilterBit, Overflow, SetFilter
from vnic.nic.virtio_net.rx_filter import RxFilter

MAC = bytes.fromhex("525400000002")
MACS = [bytes.fromhex("5254000000a0")[:5] + bytes([number]) for number in range(8)]
GROUPS = [bytes.fromhex("01005e0000")[:5] + bytes([number]) for number in range(8)]
BROADCAST = b"\xff" * 6


def as_message(port: int, rx: RxFilter) -> SetFilter:
    bits = FilterBit.ENABLED
    for name in ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast"):
        if getattr(rx, name):
            bits |= FilterBit[name.upper()]
    overflow = Overflow.UNICAST * rx.unicast_overflow | Overflow.MULTICAST * rx.multicast_overflow
    vlans = bytearray(512)
    for vlan in rx.vlans:
        vlans[vlan >> 3] |= 1 << (vlan & 7)
    return SetFilter(
        port, bits, MAC, tuple(rx.unicast), tuple(rx.multicast), Overflow(overflow), bytes(vlans)
    )


def some_filter(random_: random.Random) -> RxFilter:
    rx = RxFilter()
    rx.promisc = random_.random() < 0.1
    for name in ("allmulti", "alluni", "nomulti", "nouni", "nobcast"):
        setattr(rx, name, random_.random() < 0.25)
    many = [bytes([2, 0, 0, 0, 0, number]) for number in range(65)]
    unicast = many if random_.random() < 0.1 else random_.sample(MACS, random_.randrange(5))
    rx.set_macs(unicast, random_.sample(GROUPS, random_.randrange(5)))
    rx.vlans = frozenset(random_.sample(range(4096), 5)) | {7}
    return rx


def some_frame(random_: random.Random, number: int) -> bytes:
    destination = random_.choice([*MACS, *GROUPS, BROADCAST, MAC])
    ethertype = random_.choice(
        ["88b5", "8100 0007 88b5", "8100 e007 88b5", "8100 0008 88b5", "88a8 0008 88b5"]
    )
    content = destination + bytes(6) + bytes.fromhex(ethertype) + struct.pack(">I", number)
    return content.ljust(60, b"\0")


@pytest.mark.parametrize("seed", range(4))
def test_same_frames_pass(program: Path, seed: int) -> None:
    random_ = random.Random(seed)
    with WireProgram(program) as wire:
        one, two = wire.joined()
        refused = 0
        for _ in range(12):
            rx = some_filter(random_)
            wire.request(as_message(2, rx))
            frames = [some_frame(random_, number) for number in range(40)]
            wanted = [each for each in frames if rx.accepts(each, MAC)]
            refused += len(frames) - len(wanted)
            two.driver.fill_rx(len(wanted), size=128)
            one.send(*frames)
            until(lambda: one.driver.rings[1].used_idx == one.driver.rings[1].avail_idx)
            assert two.driver.received() == wanted
        assert wire.stats(2).filtered == refused


def test_disabled_filter_passes_all(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        rx = RxFilter()
        rx.promisc = False
        two.driver.fill_rx(4)
        wire.request(as_message(2, rx))
        stranger = MACS[0] + bytes(54)
        one.send(stranger)
        until(lambda: one.driver.rings[1].used_idx == 1)
        wire.request(SetFilter(2, FilterBit(0)))
        one.send(stranger)
        assert two.receive(1) == [stranger]
        assert wire.stats(2).filtered == 1


def test_bad_filter_is_refused(program: Path) -> None:
    with WireProgram(program) as wire:
        wire.guest(2)
        many = tuple(bytes([2, 0, 0, 0, 0, number]) for number in range(65))
        with pytest.raises(Refused) as refused:
            wire.request(SetFilter(2, FilterBit.ENABLED, MAC, many))
        assert refused.value.text == "unicast: 65 addresses, the most is 64"
        with pytest.raises(Refused) as refused:
            wire.request(SetFilter(2, FilterBit.ENABLED, MAC, vlans=bytes(511)))
        assert refused.value.text == "length: 539 bytes for 0 addresses"
