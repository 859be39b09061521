"""Which frames pass the receive filter, and what query-rx-filter and NIC_RX_FILTER_CHANGED tell of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tests.fakes.virtio_lab import MAC, VirtioLab, frame

from vnic.nic.virtio_net import features
from vnic.nic.virtio_net.control import (
    CLASS_MAC,
    CLASS_RX,
    CLASS_VLAN,
    MAC_TABLE_SET,
    RX_MODES,
    VLAN_ADD,
)
from vnic.nic.virtio_net.rx_filter import RxFilter

OTHER = bytes.fromhex("525400999999")
LISTED = bytes.fromhex("020000000001")
GROUP = bytes.fromhex("01005e000001")
OTHER_GROUP = bytes.fromhex("333300000001")
BROADCAST = b"\xff" * 6
EVERYBODY = (MAC, OTHER, LISTED, GROUP, OTHER_GROUP, BROADCAST)


def passing(modes: str = "", **tables: bool) -> set[bytes]:
    """The destinations that pass when these modes are on, promisc being off."""
    rx_filter = RxFilter()
    rx_filter.promisc = False
    rx_filter.set_macs([LISTED], [GROUP])
    for mode in modes.split():
        setattr(rx_filter, mode, True)
    for name, value in tables.items():
        setattr(rx_filter, name, value)
    return {each for each in EVERYBODY if rx_filter.accepts(frame(destination=each), MAC)}


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ("", {MAC, LISTED, GROUP, BROADCAST}),
        ("promisc nouni nomulti nobcast", set(EVERYBODY)),
        ("allmulti", {MAC, LISTED, GROUP, OTHER_GROUP, BROADCAST}),
        ("alluni", {MAC, OTHER, LISTED, GROUP, BROADCAST}),
        ("nomulti", {MAC, LISTED, BROADCAST}),
        ("nomulti allmulti", {MAC, LISTED, BROADCAST}),
        ("nouni", {GROUP, BROADCAST}),
        ("nouni alluni", {GROUP, BROADCAST}),
        ("nobcast", {MAC, LISTED, GROUP}),
        ("multicast_overflow", {MAC, LISTED, GROUP, OTHER_GROUP, BROADCAST}),
        ("unicast_overflow", {MAC, OTHER, LISTED, GROUP, BROADCAST}),
    ],
)
def test_destination_filter_follows_modes(modes: str, expected: set[bytes]) -> None:
    assert passing(modes) == expected


def test_vlans() -> None:
    rx_filter = RxFilter()
    rx_filter.promisc = False
    tagged = MAC + OTHER + b"\x81\x00" + b"\xe0\x05" + bytes(46)  # priority 7, VLAN 5
    assert not rx_filter.accepts(tagged, MAC)
    rx_filter.vlans |= {5}
    assert rx_filter.accepts(tagged, MAC)
    assert not rx_filter.accepts(tagged[:14], MAC)
    assert rx_filter.accepts(memoryview(tagged), MAC)


@pytest.fixture
def lab() -> Iterator[VirtioLab]:
    with VirtioLab() as lab:
        yield lab


def test_only_accepted_frames_reach_ring(lab: VirtioLab) -> None:
    lab.plug()
    lab.driver.fill_rx(8)
    for destination in (OTHER, MAC):
        lab.netdev.send(0, frame(1, destination=destination))
    lab.driver.command(CLASS_RX, 0, b"\0")
    for destination in (OTHER, MAC):
        lab.netdev.send(0, frame(2, destination=destination))
    lab.device.set_status(0)
    assert lab.driver.received() == [
        frame(1, destination=OTHER),
        frame(1, destination=MAC),
        frame(2, destination=MAC),
    ]
    assert lab.device.filter.promisc


def query(lab: VirtioLab) -> dict[str, object]:
    [info] = lab.network.query_rx_filter("nic0")
    return info


def test_query_rx_filter_of_new_nic(lab: VirtioLab) -> None:
    """QEMU's broadcast-allowed is the wrong way round, and its clients know it so."""
    assert query(lab) == {
        "name": "nic0",
        "promiscuous": True,
        "multicast": "normal",
        "unicast": "normal",
        "vlan": "all",
        "broadcast-allowed": False,
        "multicast-overflow": False,
        "unicast-overflow": False,
        "main-mac": "52:54:00:12:34:56",
        "vlan-table": list(range(4095, -1, -1)),
        "unicast-table": [],
        "multicast-table": [],
    }


def test_query_rx_filter_of_configured_nic(lab: VirtioLab) -> None:
    lab.plug()
    for mode in ("allmulti", "nouni", "nobcast"):
        lab.driver.command(CLASS_RX, RX_MODES.index(mode), b"\1")
    lab.driver.command(CLASS_RX, 0, b"\0")
    table = struct.pack("<I", 2) + LISTED + OTHER + struct.pack("<I", 2) + GROUP + OTHER_GROUP
    lab.driver.command(CLASS_MAC, MAC_TABLE_SET, table)
    for vlan in (3, 700):
        lab.driver.command(CLASS_VLAN, VLAN_ADD, struct.pack("<H", vlan))
    info = query(lab)
    assert (info["promiscuous"], info["multicast"], info["unicast"], info["vlan"]) == (
        False,
        "all",
        "none",
        "normal",
    )
    assert info["broadcast-allowed"] is True
    assert info["vlan-table"] == [700, 3]
    assert info["unicast-table"] == ["52:54:00:99:99:99", "02:00:00:00:00:01"]
    assert info["multicast-table"] == ["33:33:00:00:00:01", "01:00:5e:00:00:01"]


@pytest.mark.parametrize(("ctrl_vlan", "state", "entries"), [(True, "none", 0), (False, "all", 4096)])
def test_query_rx_filter_without_vlans(lab: VirtioLab, ctrl_vlan: bool, state: str, entries: int) -> None:
    lab.plug(lab.device.host_features & ~(0 if ctrl_vlan else features.CTRL_VLAN))
    info = query(lab)
    assert info["vlan"] == state
    table = info["vlan-table"]
    assert isinstance(table, list)
    assert len(table) == entries


def test_filter_change_emits_one_event_until_query(lab: VirtioLab) -> None:
    lab.plug()
    query(lab)
    for _ in range(3):
        lab.driver.command(CLASS_RX, 0, b"\0")
    assert lab.events[-1] == (
        "NIC_RX_FILTER_CHANGED",
        {"name": "nic0", "path": "/machine/peripheral/nic0/virtio-backend"},
    )
    assert lab.names().count("NIC_RX_FILTER_CHANGED") == 1
    query(lab)
    lab.driver.command(CLASS_RX, 99, b"\0")
    assert lab.names().count("NIC_RX_FILTER_CHANGED") == 1, "refused: nothing changed"
    lab.driver.command(CLASS_MAC, MAC_TABLE_SET, bytes(8))
    assert lab.names().count("NIC_RX_FILTER_CHANGED") == 2
