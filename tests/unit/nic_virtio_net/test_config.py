"""Config space to the byte, and the features that shape it (virtio 1.2 §5.1.3, §5.1.4)."""

from __future__ import annotations

import pytest
from tests.fakes.virtio_lab import FarEnd, VirtioLab

from vnic.net.errors import NetError
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net import features as f
from vnic.virtio.features import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT_DESC,
    RING_PACKED,
    VERSION_1,
)


def test_config_space_equals_qemus() -> None:
    """QEMU 11.1.3 with mtu=1400,speed=1000,duplex=full, link down and an announcement asked for."""
    with VirtioLab(VirtioNet(mtu=1400, speed=1000, duplex="full")) as lab:
        lab.plug()
        lab.device.announce()
        lab.set_link(False)
        golden = "52 54 00 12 34 56 | 02 00 | 01 00 | 78 05 | e8 03 00 00 | 01".replace("|", "")
        assert lab.device.config_size == 17
        assert lab.device.read_config(0, 17) == bytes.fromhex(golden)


@pytest.mark.parametrize(
    ("device", "size", "config"),
    [
        (VirtioNet(), 8, "525400123456 0100"),
        (VirtioNet(pairs=4), 10, "525400123456 0100 0400"),
        (VirtioNet(mtu=9000), 12, "525400123456 0100 0100 2823"),
        (VirtioNet(speed=0), 17, "525400123456 0100 0100 0000 00000000 ff"),
        (VirtioNet(duplex="half"), 17, "525400123456 0100 0100 0000 ffffffff 00"),
        (
            VirtioNet(pairs=2, mtu=68, speed=2147483647, duplex="full"),
            17,
            "525400123456 0100 0200 4400 ffffff7f 01",
        ),
    ],
)
def test_config_size_follows_features(device: VirtioNet, size: int, config: str) -> None:
    with VirtioLab(device) as lab:
        assert lab.device.config_size == size
        assert lab.device.read_config(0, size) == bytes.fromhex(config)


def test_config_reads_of_any_range() -> None:
    with VirtioLab() as lab:
        read = lab.device.read_config
        assert read(4, 4) == bytes.fromhex("34560100")
        assert read(6, 6) == bytes.fromhex("0100ffffffff")
        assert read(100, 2) == b"\xff\xff"
        assert read(0, 0) == b""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"mtu": -1}, "mtu"),
        ({"speed": -2}, "'speed' must be between 0 and INT_MAX"),
        ({"duplex": "both"}, "'duplex' must be 'half' or 'full'"),
        ({"pairs": 0}, "queue pairs"),
        ({"pairs": 512}, "queue pairs"),
        ({"queue_size": 100}, "queue_size"),
    ],
)
def test_invalid_option_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(NetError, match=text):
        VirtioNet(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_offered_features() -> None:
    always = VERSION_1 | INDIRECT_DESC | f.ALWAYS
    with VirtioLab() as lab:
        assert lab.device.host_features == always
        assert not always & (EVENT_IDX | RING_PACKED | f.OFFLOADS | f.MQ)
    with VirtioLab(VirtioNet(pairs=2, mtu=1500, speed=10)) as lab:
        assert lab.device.host_features == always | f.MQ | f.MTU | f.SPEED_DUPLEX
    with VirtioLab(far=FarEnd(wants_offload=True)) as lab:
        assert lab.device.host_features == always | f.OFFLOADS


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ("csum", f.CSUM | f.HOST_TSO4 | f.HOST_TSO6 | f.HOST_ECN),
        ("guest_csum", f.GUEST_CSUM | f.GUEST_TSO4 | f.GUEST_TSO6 | f.GUEST_ECN),
        ("guest_tso4", f.GUEST_TSO4),
        ("guest_tso4 guest_tso6", f.GUEST_TSO4 | f.GUEST_TSO6 | f.GUEST_ECN),
        ("guest_ecn", f.GUEST_ECN),
        ("host_tso4", f.HOST_TSO4),
        ("host_tso4 host_tso6", f.HOST_TSO4 | f.HOST_TSO6 | f.HOST_ECN),
        ("host_ecn", f.HOST_ECN),
        ("mrg_rxbuf", f.MRG_RXBUF),
        ("status", f.STATUS),
        (
            "ctrl_vq",
            f.CTRL_VQ | f.CTRL_RX | f.CTRL_VLAN | f.CTRL_RX_EXTRA | f.CTRL_MAC_ADDR | f.GUEST_ANNOUNCE | f.MQ,
        ),
        ("ctrl_rx", f.CTRL_RX),
        ("ctrl_vlan", f.CTRL_VLAN),
        ("ctrl_rx_extra", f.CTRL_RX_EXTRA),
        ("ctrl_mac_addr", f.CTRL_MAC_ADDR),
        ("guest_announce", f.GUEST_ANNOUNCE),
        ("indirect_desc", INDIRECT_DESC),
        ("in_order", 0),
    ],
)
def test_withheld_feature_withholds_dependent_ones(off: str, gone: int) -> None:
    """§5.1.3.1."""
    withheld = sum(f.SWITCHES[name] for name in off.split())
    with VirtioLab(VirtioNet(pairs=2), FarEnd(wants_offload=True)) as full:
        whole = full.device.host_features
    with VirtioLab(VirtioNet(pairs=2, withheld=withheld), FarEnd(wants_offload=True)) as lab:
        assert lab.device.host_features == whole & ~gone
        lab.plug()
        assert not lab.device.driver_features & gone


def test_in_order_is_offered_on_request() -> None:
    with VirtioLab(VirtioNet(in_order=True)) as lab:
        assert lab.device.host_features & IN_ORDER


def test_config_without_status_feature_has_no_status() -> None:
    with VirtioLab(VirtioNet(withheld=f.STATUS)) as lab:
        lab.plug()
        assert lab.device.config_size == 6
        assert lab.device.read_config(0, 8) == bytes.fromhex("525400123456ffff")
        lab.set_link(False)
        lab.device.read_config(6, 2)
        assert not [name for name, _ in lab.events if name == "LINK_SEEN"]


def test_offer_follows_back_end_until_driver_ok() -> None:
    with VirtioLab() as lab:
        lab.network.delete_netdev("net0", "test")
        lab.network.add_netdev("net0", "tap", FarEnd(wants_offload=True))
        assert lab.device.host_features & f.CSUM
        lab.plug()
        lab.network.delete_netdev("net0", "test")
        assert lab.device.host_features & f.CSUM


def test_features_that_were_not_offered_are_refused() -> None:
    with VirtioLab() as lab:
        lab.driver.plug(lab.device, start=False)
        device = lab.device
        device.set_status(3)
        assert not device.set_features(device.host_features | RING_PACKED)
        device.set_status(11)
        assert device.status == 3
        assert device.set_features(VERSION_1)
        device.set_status(11)
        assert device.status == 11


def test_legacy_driver_sets_mac_in_config() -> None:
    with VirtioLab() as lab:
        lab.plug(f.MAC)
        lab.device.write_config(0, bytes.fromhex("020304"))
        lab.device.write_config(3, bytes.fromhex("0506070809"))
        assert lab.device.read_config(0, 8) == bytes.fromhex("0203040506070100")
        assert lab.device.info_text(0) == "model=virtio-net-pci,macaddr=02:03:04:05:06:07"


def test_config_is_read_only_for_modern_driver() -> None:
    with VirtioLab() as lab:
        lab.plug()
        lab.device.write_config(0, bytes(8))
        assert lab.device.read_config(0, 8) == bytes.fromhex("5254001234560100")


def test_info_text() -> None:
    with VirtioLab(VirtioNet(pairs=2)) as lab:
        assert lab.network.info_network().replace("\n", "|") == (
            "nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56| \\ net0: index=0,type=stream,|"
            "nic0: index=1,type=nic,| \\ net0: index=1,type=stream,|"
        )
