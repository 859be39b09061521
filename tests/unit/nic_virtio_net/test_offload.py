"""Checksums and segmentation left to the other side: passed through where both agree, finished here where not."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.net.offload import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    ones_sum,
)
from vnic.nic.virtio_net import features


def header(gso_type: int = GSO_NONE, gso_size: int = 0, csum_start: int = 34, csum_offset: int = 16) -> bytes:
    """A virtio_net_hdr with NEEDS_CSUM."""
    return struct.pack("<BBHHHH", 1, gso_type, 54, gso_size, csum_start, csum_offset)


def ipv4(protocol: int, ports: bytes, payload: bytes) -> bytes:
    """An IPv4 frame whose transport checksum is only begun: the sum of the pseudo-header."""
    transport_bytes = (20 if protocol == 6 else 8) + len(payload)
    addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + transport_bytes, 1, 0, 64, protocol, 0) + addresses
    pseudo = ones_sum(addresses + struct.pack(">HH", protocol, transport_bytes))
    if protocol == 6:
        transport = ports + struct.pack(">IIBBHHH", 1000, 0, 0x50, 0x18, 1024, pseudo, 0)
    else:
        transport = ports + struct.pack(">HH", transport_bytes, pseudo)
    return frame()[:12] + b"\x08\x00" + ip + transport + payload


def whole(packet: bytes) -> bool:
    """Whether the transport's checksum is right."""
    protocol, transport = packet[23], packet[34:]
    return ones_sum(packet[26:34] + struct.pack(">HH", protocol, len(transport)) + transport) == 0


TCP = ipv4(6, b"\x04\xd2\x00\x50", b"x" * 3000)
UDP = ipv4(17, b"\x04\xd2\x00\x50", b"x" * 30)
DHCP = ipv4(17, b"\x00\x43\x00\x44", b"x" * 30)


def lab_with(wants_offload: bool = True) -> VirtioLab:
    return VirtioLab(far=FarEnd(wants_offload), memory_bytes=1 << 20)


def far(lab: VirtioLab) -> FarEnd:
    assert isinstance(lab.far, FarEnd)
    return lab.far


def test_tx_passes_offload_header() -> None:
    with lab_with() as lab:
        lab.plug()
        ring = lab.driver.rings[1]
        lab.driver.queue_tx(TCP, header=header(GSO_TCPV4, 1460))
        lab.driver.queue_tx(UDP, header=header(csum_offset=6))
        lab.driver.queue_tx(frame(3))
        addr = lab.guest.alloc(12 + len(UDP))
        lab.guest.write(addr, header(csum_offset=6) + bytes(2) + UDP)
        ring.add([(addr, 12), (addr + 12, len(UDP))])
        ring.publish()
        lab.driver.kick()
        assert lab.sent == [TCP, UDP, frame(3), UDP]
        assert far(lab).offloads == [
            header(GSO_TCPV4, 1460),
            header(csum_offset=6),
            b"",
            header(csum_offset=6),
        ]


def test_back_end_without_offload_gets_whole_frames() -> None:
    with lab_with() as lab:
        lab.plug()
        lab.network.delete_netdev("net0", "test")
        plain = FarEnd()
        lab.network.add_netdev("net0", "stream", plain)
        lab.settle()
        lab.driver.queue_tx(TCP, header=header(GSO_TCPV4, 1460))
        lab.driver.rings[1].publish()
        lab.driver.kick()
        assert [len(each) for each in plain.frames] == [54 + 1460, 54 + 1460, 54 + 80]
        assert all(whole(each) for each in plain.frames)


def test_header_is_ignored_without_offload_features() -> None:
    with lab_with(False) as lab:
        lab.plug()
        lab.driver.queue_tx(TCP, header=header(GSO_TCPV4, 1460))
        lab.driver.rings[1].publish()
        lab.driver.kick()
        assert (lab.sent, far(lab).offloads) == ([TCP], [b""])


def test_rx_passes_offload_header() -> None:
    with lab_with() as lab:
        lab.plug()
        lab.driver.fill_rx(2, size=4000)
        lab.netdev.send(0, TCP, header(GSO_TCPV4, 1460))
        lab.netdev.send(0, UDP, header(csum_offset=6))
        assert lab.driver.received_raw() == [
            header(GSO_TCPV4, 1460) + b"\1\0" + TCP,
            header(csum_offset=6) + b"\1\0" + UDP,
        ]
        lab.driver.fill_rx(4, size=1500)
        lab.netdev.send(0, TCP, header(GSO_TCPV4, 1460))
        assert lab.driver.received_raw() == [header(GSO_TCPV4, 1460) + b"\3\0" + TCP]


@pytest.mark.parametrize(
    ("acked", "gso_type", "count"),
    [
        (features.GUEST_CSUM, GSO_TCPV4, 3),
        (features.GUEST_CSUM | features.GUEST_TSO6, GSO_TCPV4, 3),
        (features.GUEST_CSUM | features.GUEST_TSO4, GSO_TCPV4, 1),
        (features.GUEST_CSUM | features.GUEST_TSO4, GSO_TCPV4 | 0x80, 3),
        (features.GUEST_CSUM | features.GUEST_TSO4 | features.GUEST_ECN, GSO_TCPV4 | 0x80, 1),
        (0, GSO_TCPV4, 3),
    ],
)
def test_rx_is_segmented_for_driver_without_offload(acked: int, gso_type: int, count: int) -> None:
    with lab_with() as lab:
        lab.plug(lab.device.host_features & ~features.OFFLOADS | acked)
        lab.driver.fill_rx(6, size=4000)
        lab.netdev.send(0, TCP, header(gso_type, 1460))
        packets = lab.driver.received()
        assert len(packets) == count
        if count > 1:
            assert all(whole(packet) for packet in packets)


def test_checksum_of_dhcp_reply_is_completed() -> None:
    with lab_with() as lab:
        lab.plug()
        lab.driver.fill_rx(4)
        lab.netdev.send(0, DHCP, header(csum_offset=6))
        [packet] = lab.driver.received_raw()
        assert packet[:12] == bytes(10) + b"\1\0"
        assert whole(packet[12:])


def test_segments_without_room_are_dropped() -> None:
    with lab_with() as lab:
        lab.plug(lab.device.host_features & ~features.OFFLOADS | features.GUEST_CSUM)
        assert not lab.netdev.send(0, TCP, header(GSO_TCPV4, 1460)), "no room at all: it waits"
        lab.driver.fill_rx(2)
        assert len(lab.driver.received()) == 2, "the third segment is lost"


def test_frame_with_invalid_header_is_dropped() -> None:
    with lab_with() as lab:
        lab.plug(lab.device.host_features & ~features.OFFLOADS | features.GUEST_CSUM)
        lab.driver.fill_rx(2)
        assert lab.netdev.send(0, UDP, header(GSO_TCPV6, 0))
        assert lab.driver.received() == []
