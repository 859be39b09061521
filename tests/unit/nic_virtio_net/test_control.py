"""The control queue: each command, what QEMU answers to it, and commands that are malformed (§5.1.6.5)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.virtio_lab import VirtioLab

from vnic.lab.played.driver import Buffer
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net.control import (
    CLASS_MAC,
    CLASS_MQ,
    CLASS_RX,
    CLASS_VLAN,
    COMMAND_BYTES,
    COMMANDS_A_TURN,
    ERR,
    MAC_ADDR_SET,
    MAC_TABLE_SET,
    OK,
    RX_MODES,
    VLAN_ADD,
    VLAN_DEL,
)


@pytest.fixture
def lab() -> Iterator[VirtioLab]:
    with VirtioLab() as lab:
        lab.plug()
        yield lab


def tables(unicast: int, multicast: int) -> bytes:
    """A MAC_TABLE_SET of so many addresses."""
    data = struct.pack("<I", unicast) + b"".join(b"\x02\0\0\0\0" + bytes((n,)) for n in range(unicast))
    return (
        data
        + struct.pack("<I", multicast)
        + b"".join(b"\x03\0\0\0\0" + bytes((n,)) for n in range(multicast))
    )


@pytest.mark.parametrize("number", range(6))
def test_rx_modes(lab: VirtioLab, number: int) -> None:
    name = RX_MODES[number]
    for value in (1, 0, 255):
        assert lab.driver.command(CLASS_RX, number, bytes((value,))) == OK
        assert getattr(lab.device.filter, name) is bool(value)


@pytest.mark.parametrize(("command", "data"), [(6, b"\1"), (255, b"\1"), (0, b"")])
def test_invalid_rx_mode_is_refused(lab: VirtioLab, command: int, data: bytes) -> None:
    assert lab.driver.command(CLASS_RX, command, data) == ERR


def test_mac_address(lab: VirtioLab) -> None:
    assert lab.driver.command(CLASS_MAC, MAC_ADDR_SET, bytes.fromhex("020000000009")) == OK
    assert lab.device.read_config(0, 6) == bytes.fromhex("020000000009")
    for data in (b"", bytes(5), bytes(7)):
        assert lab.driver.command(CLASS_MAC, MAC_ADDR_SET, data) == ERR
    lab.device.set_status(0)
    assert lab.device.read_config(0, 6) == bytes.fromhex("525400123456")


@pytest.mark.parametrize(
    ("unicast", "multicast", "kept", "overflow"),
    [
        (0, 0, (0, 0), (False, False)),
        (2, 3, (2, 3), (False, False)),
        (64, 0, (64, 0), (False, False)),
        (60, 5, (60, 0), (False, True)),
        (65, 64, (0, 64), (True, False)),
        (65, 65, (0, 0), (True, True)),
    ],
)
def test_mac_tables(
    lab: VirtioLab, unicast: int, multicast: int, kept: tuple[int, int], overflow: tuple[bool, bool]
) -> None:
    assert lab.driver.command(CLASS_MAC, MAC_TABLE_SET, tables(unicast, multicast)) == OK
    state = lab.device.filter
    assert (len(state.unicast), len(state.multicast)) == kept
    assert (state.unicast_overflow, state.multicast_overflow) == overflow


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(3),
        bytes(4),
        bytes(7),
        bytes(9),
        b"\1\0\0\0" + bytes(5),
        b"\xff\xff\xff\xff" + bytes(4),
        bytes(4) + b"\1\0\0\0" + bytes(5),
        bytes(4) + b"\1\0\0\0" + bytes(7),
        bytes(4) + b"\xff\xff\xff\xff",
    ],
)
def test_malformed_mac_table_changes_nothing(lab: VirtioLab, data: bytes) -> None:
    assert lab.driver.command(CLASS_MAC, MAC_TABLE_SET, tables(1, 1)) == OK
    assert lab.driver.command(CLASS_MAC, MAC_TABLE_SET, data) == ERR
    assert (len(lab.device.filter.unicast), len(lab.device.filter.multicast)) == (1, 1)


def test_vlans(lab: VirtioLab) -> None:
    vlan = struct.Struct("<H").pack
    for number in (1, 4095, 1):
        assert lab.driver.command(CLASS_VLAN, VLAN_ADD, vlan(number)) == OK
    assert lab.driver.command(CLASS_VLAN, VLAN_DEL, vlan(1)) == OK
    assert lab.driver.command(CLASS_VLAN, VLAN_DEL, vlan(2)) == OK
    assert lab.device.filter.vlans == {4095}
    for command, data in ((VLAN_ADD, vlan(4096)), (VLAN_ADD, b"\1"), (2, vlan(1))):
        assert lab.driver.command(CLASS_VLAN, command, data) == ERR


@pytest.mark.parametrize(("klass", "command"), [(5, 0), (99, 0), (255, 255), (CLASS_MAC, 2), (CLASS_MQ, 1)])
def test_unknown_command_is_refused(lab: VirtioLab, klass: int, command: int) -> None:
    assert lab.driver.command(klass, command, bytes(8)) == ERR


def test_pairs_command_without_mq_is_refused(lab: VirtioLab) -> None:
    assert lab.driver.command(CLASS_MQ, 0, b"\1\0") == ERR


def test_pairs_command_sets_pairs_in_use() -> None:
    with VirtioLab(VirtioNet(pairs=4)) as lab:
        lab.plug()
        answers = [
            lab.driver.command(CLASS_MQ, 0, data) for data in (b"\0\0", b"\4\0", b"\5\0", b"\xff\xff", b"\1")
        ]
        assert answers == [ERR, OK, ERR, ERR, ERR]
        assert lab.device.active_pairs == 4
        lab.device.set_status(0)
        assert lab.device.active_pairs == 1


def test_command_may_have_many_descriptors(lab: VirtioLab) -> None:
    ring, guest = lab.driver.rings[2], lab.guest
    parts = [bytes((byte,)) for byte in bytes((CLASS_MAC, MAC_ADDR_SET)) + bytes.fromhex("020000000001")]
    buffers: list[Buffer] = []
    for part in parts:
        addr = guest.alloc(1, 1)
        guest.write(addr, part)
        buffers.append((addr, 1))
    ack = guest.alloc(2, 1)
    head = ring.add(buffers, [(ack, 1), (ack + 1, 1)])
    ring.publish()
    lab.driver.kick()
    assert ring.take_used() == [(head, 1)]
    assert guest.read(ack, 2) == b"\0\0"
    assert lab.device.config.mac == bytes.fromhex("020000000001")
    assert ring.calls() == 1


def test_no_command_is_served_before_driver_ok(lab: VirtioLab) -> None:
    lab.device.set_status(0)
    lab.device.set_status(11)
    ring = lab.driver.rings[2]
    ring.restart()
    lab.driver.start_ring(ring)
    assert lab.driver.command(CLASS_RX, 0, b"\0") == 255
    lab.device.set_status(15)
    lab.settle()
    assert len(ring.take_used()) == 1


def test_commands_per_turn_are_bounded(lab: VirtioLab) -> None:
    ring, guest = lab.driver.rings[2], lab.guest
    out, ack = guest.alloc(3), guest.alloc(1)
    guest.write(out, bytes((CLASS_RX, 0, 1)))
    for _ in range(2 * COMMANDS_A_TURN + 1):
        ring.add([(out, 3)], [(ack, 1)])
    ring.publish()
    seen = []
    lab.driver.kick()
    for _ in range(3):
        seen.append(ring.used_idx)
        lab.scheduler.turn()
    assert seen == [COMMANDS_A_TURN, 2 * COMMANDS_A_TURN, 2 * COMMANDS_A_TURN + 1]


# -- malformed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "into"), [(1, 1), (0, 1), (8, 0)])
def test_command_without_header_or_room_breaks_ring(
    lab: VirtioLab, caplog: pytest.LogCaptureFixture, out: int, into: int
) -> None:
    ring, guest = lab.driver.rings[2], lab.guest
    ring.add([(guest.alloc(8), out)] if out else [], [(guest.alloc(8), into)] if into else [])
    ring.publish()
    lab.driver.kick()
    assert len(caplog.records) == 1
    assert "nic0: queue 2 is broken" in caplog.text
    assert lab.device.status & 64
    assert lab.driver.reset_notices == 1
    lab.driver.start()
    assert lab.driver.command(CLASS_RX, 0, b"\0") == OK


def test_too_long_command_is_refused(lab: VirtioLab) -> None:
    data = bytes(COMMAND_BYTES)
    assert lab.driver.command(CLASS_MAC, MAC_TABLE_SET, data) == ERR


@settings(max_examples=200)
@given(st.integers(0, 6), st.integers(0, 7), st.binary(max_size=40))
def test_any_command_gets_an_answer(klass: int, command: int, data: bytes) -> None:
    with VirtioLab(VirtioNet(pairs=2), memory_bytes=1 << 20, ring_size=16) as lab:
        lab.plug()
        assert lab.driver.command(klass, command, data) in (OK, ERR)
        assert lab.device.filter.info(bytes(6), True)
