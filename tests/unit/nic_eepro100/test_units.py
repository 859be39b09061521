"""Command blocks, frames both ways, the receive filter, counters and interrupts."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.eepro100_driver import (
    CONFIGURE,
    MAC,
    MULTICAST,
    NOP,
    RFD_COUNT,
    TRANSMIT,
    Eepro100Driver,
)
from tests.unit.nic_eepro100.conftest import Rig

from vnic.nic.eepro100 import registers as r

OTHER = bytes.fromhex("525400aabbcc")
GROUP = bytes.fromhex("01005e000001")


def config(**bytes_at: int) -> bytes:
    data = bytearray(22)
    data[0] = 22
    data[6] = 0x30
    for name, value in bytes_at.items():
        data[int(name[1:])] = value
    return bytes(data)


def frame(target: bytes = MAC, size: int = 100) -> bytes:
    return target + OTHER + bytes(range(256))[: min(size, 256) - 12] + bytes(max(size - 256, 0))


def test_frames_are_sent_in_order_and_padded(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    frames = [frame(size=size) for size in (20, 60, 300, 1514)]
    numbers = [driver.send(each) for each in frames]
    assert rig.sent == [each.ljust(60, b"\0") for each in frames]
    assert {driver.status(number) for number in numbers} == {r.COMPLETE | r.OK}
    assert driver.read(r.ACK) & r.COMMAND_DONE
    assert driver.read(r.STATUS) >> 6 == 1, "suspended behind the last"


def test_a_frame_in_the_block_itself(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    data = frame(size=80)
    driver.do(TRANSMIT, struct.pack("<IHBB", r.NO_BUFFER, len(data), 0xE0, 0) + data)
    assert rig.sent == [data]


def test_an_extended_block_has_its_first_buffers_in_itself(rig: Rig) -> None:
    driver = rig.driver
    driver.start(configuration=config(b6=0x20))
    parts = [b"a" * 70, b"b" * 30, b"c" * 20]
    addresses = [driver.memory.alloc(100) for _ in parts]
    for address, part in zip(addresses, parts, strict=True):
        driver.memory.write(address, part)
    array = driver.memory.alloc(8)
    driver.memory.write(array, struct.pack("<IHH", addresses[2], 20, 1))
    inside = b"".join(struct.pack("<IHH", addresses[at], len(parts[at]), 0) for at in range(2))
    driver.do(TRANSMIT | r.FLEXIBLE, struct.pack("<IHBB", array, 0, 0xE0, 3) + inside)
    assert rig.sent == [b"".join(parts)]


def test_a_frame_that_waits_at_the_peer_holds_the_list_up(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    rig.netdev.room = False
    driver.send(frame())
    later = driver.send(frame(size=200))
    assert not driver.status(later)
    rig.netdev.room = True
    rig.netdev.client.flush(0)
    rig.turn()
    assert [len(each) for each in rig.sent] == [100, 200]
    assert driver.status(later) == r.COMPLETE | r.OK


def test_many_blocks_take_several_turns(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    link = driver.block(0)
    driver.memory.write(link, struct.pack("<HHI", 0, NOP, link))  # a circle without an end
    driver.command(0x10, link)
    assert driver.read(r.STATUS) >> 6 == 2
    rig.turn_once()
    assert driver.read(r.STATUS) >> 6 == 2
    driver.memory.write(link + 2, (NOP | r.END).to_bytes(2, "little"))
    rig.turn()
    assert driver.read(r.STATUS) >> 6 == 0
    assert driver.read(r.ACK) & r.LEFT_ACTIVE


def test_frames_are_received_until_the_descriptors_are_used_up(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    frames = [frame(size=60 + number) for number in range(RFD_COUNT)]
    for each in frames:
        rig.wire(each)
    assert driver.received() == frames
    assert driver.read(r.ACK) & (r.FRAME_RECEIVED | r.NOT_READY) == r.FRAME_RECEIVED | r.NOT_READY
    rig.wire(frame(size=200))
    assert driver.read(r.STATUS) >> 2 & 15 == 2
    driver.receive()
    assert driver.received() == [frame(size=200)], "it waited"


def test_linuxs_descriptor_without_room_ends_the_list(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    driver.receive(2)
    driver.memory.write(0x10000 + driver.block(0) + 14, bytes(2))
    rig.wire(frame())
    driver.receive(1, size=0)
    rig.wire(frame(size=90))
    assert driver.read(r.STATUS) >> 2 & 15 == 2
    assert not driver.received()
    driver.receive()
    assert driver.received()[-1] == frame(size=90)


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        (config(), {"own", "broadcast"}),
        (config(b15=0x02), {"own"}),
        (config(b15=0x01), {"own", "broadcast", "group", "other"}),
        (config(b21=0x08), {"own", "broadcast", "group"}),
    ],
)
def test_receive_filter(rig: Rig, settings: bytes, taken: set[str]) -> None:
    rig.driver.start(configuration=settings)
    targets = {"own": MAC, "broadcast": b"\xff" * 6, "group": GROUP, "other": OTHER}
    for name, target in targets.items():
        rig.wire(frame(target))
        assert bool(rig.driver.received()) is (name in taken), name


def test_multicast_addresses_of_the_list_pass(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    driver.do(MULTICAST, struct.pack("<H", 6) + GROUP)
    rig.wire(frame(GROUP))
    rig.wire(frame(bytes.fromhex("01005e000002")))
    assert driver.received() == [frame(GROUP)]


def test_long_frames_need_leave(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    rig.wire(frame(size=1519))
    assert not driver.received()
    driver.do(CONFIGURE, config(b18=0x08))
    rig.wire(frame(size=1519))
    assert len(driver.received()[0]) == 1519


def test_loopback_stays_inside(rig: Rig) -> None:
    driver = rig.driver
    driver.start(configuration=config(b10=0x40, b15=0x01))
    driver.send(frame())
    assert driver.received() == [frame()]
    assert not rig.sent


@pytest.mark.parametrize(
    ("model", "settings", "size"),
    [("i82557b", config(), 64), ("i82558b", config(b6=0x10), 76), ("i82559c", config(b6=0x34), 80)],
)
def test_counters_are_dumped_in_the_form_that_is_asked_for(model: str, settings: bytes, size: int) -> None:
    rig = Rig(model)
    driver = rig.driver
    driver.start(configuration=settings)
    driver.send(frame())
    rig.wire(frame())
    dumped = driver.dump()
    assert int.from_bytes(dumped[:4], "little") == 1
    assert int.from_bytes(dumped[36:40], "little") == 1
    assert dumped[size : size + 4] == (0xA005).to_bytes(4, "little")
    assert driver.dump(reset=True)[size : size + 4] == (0xA007).to_bytes(4, "little")
    assert not any(driver.dump()[:64])
    rig.close()


def test_interrupts_are_masked_and_acknowledged(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    driver.write(r.ACK, 0xFF)
    assert not driver.asserted()
    driver.write(r.INTERRUPT_MASK, r.MASK_ALL)
    rig.wire(frame())
    assert not driver.asserted()
    driver.write(r.INTERRUPT_MASK, 0)
    assert driver.asserted()
    driver.write(r.ACK, driver.read(r.ACK))
    assert not driver.asserted()
    driver.write(r.INTERRUPT_MASK, r.INTERRUPT_NOW)
    assert driver.read(r.ACK) == r.SOFTWARE
    assert driver.asserted()


def test_self_test_passes(rig: Rig) -> None:
    driver = rig.driver
    driver.bus_master()
    at = driver.block(3)
    driver.memory.write(at, bytes(4) + b"\xff" * 4)
    driver.write(r.PORT, at | 1, 4)
    assert driver.memory.read(at, 8) == b"\xff" * 4 + bytes(4)


def test_without_bus_mastering_nothing_is_done(rig: Rig) -> None:
    driver: Eepro100Driver = rig.driver
    driver.start()
    driver.bus_master(False)
    number = driver.send(frame())
    assert not driver.status(number)
    rig.wire(frame())
    assert not driver.received()
    driver.bus_master()
    assert driver.status(number) == r.COMPLETE | r.OK
