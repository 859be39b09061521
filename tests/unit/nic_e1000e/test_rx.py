"""Receiving: extended, packet split and legacy descriptors, checksums, RSS and the second queue."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.e1000_driver import RCTL, RX_BUFFERS, RX_RING
from tests.fakes.e1000e_driver import ACK_DIS, EXTEN, RX_VECTOR
from tests.unit.nic.test_packet import ADDRESSES, ipv4, udp
from tests.unit.nic_e1000e.conftest import MAC, Rig

from vnic.net import offload
from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r

VFE, LPE = 1 << 18, 1 << 5
IPCS, TCPCS, UDPCS, VP, EOP, DD = 0x40, 0x20, 0x10, 0x08, 0x02, 0x01
ACK, IPIDV = 1 << 15, 1 << 9
TCPE, IPE = 1 << 29, 1 << 30
PCSD = 1 << 13
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")


def addressed(frame: bytes, size: int = 60) -> bytes:
    return (MAC + frame[6:]).ljust(size, b"\0")


def tcp(data: bytes = b"", flags: int = 0x10) -> bytes:
    segment = bytearray(struct.pack(">HHIIBBHHH", 1000, 80, 1, 2, 0x50, flags, 100, 0, 0) + data)
    struct.pack_into(">H", segment, 16, (offload.ones_sum(ADDRESSES) + 6 + len(segment)) % 0xFFFF)
    offload.fill_checksum(segment, 0, 16)
    return ipv4(6, bytes(segment))


def status(rig: Rig) -> int:
    """Of the only frame that came."""
    ((_, _, value, _, _, _),) = rig.driver.extended()
    return value


def test_frame_is_received_by_its_vector(running: Rig) -> None:
    frame = addressed(bytes(100))
    assert running.wire(frame)
    assert running.driver.vectors() == [RX_VECTOR]
    assert running.driver.received() == [frame]


@pytest.mark.parametrize(
    ("frame", "bits"),
    [
        (udp(), 2 << 16 | IPIDV | UDPCS | TCPCS | IPCS),
        (tcp(), 2 << 16 | IPIDV | ACK | TCPCS | IPCS),
        (tcp(b"data", flags=0), 2 << 16 | IPIDV | TCPCS | IPCS),
        (ipv4(1, bytes(8)), 1 << 16 | IPIDV | IPCS),
        (bytes(60), 0),
    ],
    ids=["UDP", "TCP ACK", "TCP", "ICMP", "no IP"],
)
def test_descriptor_tells_type_and_checksums(running: Rig, frame: bytes, bits: int) -> None:
    running.wire(addressed(frame))
    assert status(running) == bits | EOP | DD


def test_wrong_checksums_are_told(running: Rig) -> None:
    frame = bytearray(addressed(udp()))
    frame[44] ^= 1
    frame[22] ^= 1
    running.wire(bytes(frame))
    assert status(running) & (TCPE | IPE | TCPCS | IPCS) == TCPE | IPE | TCPCS | IPCS


def test_checksums_are_left_alone_where_rxcsum_says_so(running: Rig) -> None:
    running.driver.write(r.RXCSUM, 0)
    running.wire(addressed(udp()))
    assert status(running) == 2 << 16 | IPIDV | EOP | DD


def test_ip_identification_is_told(running: Rig) -> None:
    running.wire(addressed(udp()))
    ((mrq, second, *_),) = running.driver.extended()
    assert (mrq, second) == (0, 1)


def test_tag_is_taken_out(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.CTRL, driver.read(regs.CTRL) | regs.CTRL_VME)
    frame = addressed(udp())
    running.wire(frame[:12] + b"\x81\0\x20\x05" + frame[12:])
    ((_, _, value, length, tag, _),) = driver.extended()
    assert (value & VP, length, tag) == (VP, 60, 0x2005)
    assert value & TCPCS


def test_long_frame_uses_several_descriptors(rig: Rig) -> None:
    driver = rig.driver
    driver.buffer_bytes = 256
    driver.start(rctl=RCTL | 3 << 16)
    frame = addressed(bytes(range(256)) * 3, 700)
    rig.wire(frame)
    found = driver.extended()
    assert [each[3] for each in found] == [256, 256, 256]
    assert [each[2] & (EOP | DD) for each in found] == [DD, DD, EOP | DD]


def test_flexible_buffer_size(rig: Rig) -> None:
    driver = rig.driver
    driver.start(rctl=RCTL | LPE | 3 << 27)
    rig.wire(addressed(bytes(4000)))
    assert [each[3] for each in driver.extended()] == [3072, 928]


def test_legacy_descriptors(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    driver.write(r.RFCTL, 0)
    frame = addressed(udp())
    rig.wire(frame)
    _, length, checksum, bits, errors, special = struct.unpack("<QHHBBH", driver.memory.read(RX_RING, 16))
    assert (length, checksum, bits, errors, special) == (60, 0, IPCS | TCPCS | UDPCS | EOP | DD, 0, 0)
    assert driver.memory.read(RX_BUFFERS, 60) == frame


def test_packet_split_separates_the_headers(rig: Rig) -> None:
    driver = rig.driver
    driver.split = True
    driver.write(r.PSRCTL, 1 | 2 << 8)  # 128 bytes for the headers, 2 KiB for the payload
    driver.start()
    frame = addressed(udp(b"payload of a datagram"))
    rig.wire(frame)
    rig.wire(addressed(bytes(100)))
    first, second = driver.memory.read(RX_RING, 32), driver.memory.read(RX_RING + 32, 32)
    assert struct.unpack("<12xHHHHHHQ", first) == (42, 0, 42 | 0x8000, len(frame) - 42, 0, 0, 0)
    assert driver.memory.read(RX_BUFFERS, 42) == frame[:42]
    assert driver.memory.read(RX_BUFFERS + 2048, len(frame) - 42) == frame[42:]
    assert struct.unpack("<12xHHHHHHQ", second) == (100, 0, 0, 0, 0, 0, 0)
    assert driver.read(regs.RDH) == 4


def test_packet_split_waits_for_descriptors(rig: Rig) -> None:
    driver = rig.driver
    driver.split = True
    driver.start()
    taken = sum(rig.wire(addressed(bytes(100))) for _ in range(10))
    assert taken == 7  # of eight, one stays free
    assert driver.read(regs.RNBC) == 1


def rss(rig: Rig, mrqc: int = 1 << 16 | 1 << 17 | 1) -> None:
    """Hash, and send what RETA's odd entries say to the second queue, whose ring follows the first one."""
    driver = rig.driver
    driver.write(r.RXCSUM, PCSD)
    for at in range(10):
        driver.write(r.RSSRK + 4 * at, int.from_bytes(KEY[4 * at : 4 * at + 4], "little"))
    for at in range(32):
        driver.write(r.RETA + 4 * at, 0x80008000)
    driver.write(r.MRQC, mrqc)
    second = regs.QUEUE_BYTES
    ring = RX_RING + 0x1000
    for at, value in ((0, ring), (4, 0), (8, 256), (16, 0)):
        driver.write(regs.RDBAL + second + at, value)
    for at in range(16):
        driver.memory.write(ring + 16 * at, struct.pack("<QQ", RX_BUFFERS + 0x40000 + 2048 * at, 0))
    driver.write(regs.RDT + second, 15)
    driver.write(r.IVAR, driver.read(r.IVAR) | (8 | 3) << 4)
    driver.write(regs.IMS, irq.ICR_RXQ1)


def test_rss_chooses_the_queue(running: Rig) -> None:
    rss(running)
    driver = running.driver
    sent = []
    for port in range(8):
        frame = bytearray(addressed(tcp()))
        frame[35] = port
        running.wire(bytes(frame))
        driver.enable_again(irq.ICR_RXQ0 | irq.ICR_RXQ1)
        sent += driver.vectors()
    first = driver.extended()
    second = [struct.unpack("<IIIHH", driver.memory.read(RX_RING + 0x1000 + 16 * at, 16)) for at in range(8)]
    done = [each for each in second if each[2] & DD]
    assert len(first) + len(done) == 8
    assert first
    assert done
    assert {each[0] for each in first} == {0x001}
    assert {each[0] for each in done} == {0x101}
    assert all(not each[1] & 1 for each in first)
    assert all(each[1] & 1 for each in done)
    assert sorted(set(sent)) == [RX_VECTOR, 3]
    assert not any(each[2] & IPIDV for each in first)


def test_packet_that_rss_does_not_hash_goes_to_the_first_queue(running: Rig) -> None:
    rss(running, mrqc=1 << 16 | 1)
    running.wire(addressed(udp()))
    ((mrq, value, *_),) = running.driver.extended()
    assert (mrq, value) == (0, 0)


def test_tcp_ack_is_a_cause_unless_rfctl_forbids(running: Rig) -> None:
    driver = running.driver
    running.wire(addressed(tcp()))
    assert not driver.read(regs.ICS) & irq.ICR_ACK
    driver.write(r.RFCTL, EXTEN)
    running.wire(addressed(tcp()))
    assert driver.read(regs.ICS) & irq.ICR_ACK
    assert ACK_DIS


def test_vlan_filter(rig: Rig) -> None:
    driver = rig.driver
    driver.start(rctl=RCTL | VFE)
    frame = addressed(udp())
    tagged = frame[:12] + b"\x81\0\0\x05" + frame[12:]
    rig.wire(tagged)
    assert driver.received() == []
    driver.write(regs.VFTA, 1 << 5)
    rig.wire(tagged)
    assert driver.received() == [tagged]
