"""Receiving: advanced descriptors, RSS over queues, filters, VLAN tags, checksums, and full queues."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.igb_driver import RCTL, RING_SIZE, RX_BUFFERS, RX_RINGS
from tests.unit.net.test_offload import build, header
from tests.unit.nic_igb.conftest import MAC, Rig

from vnic.net import offload
from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r

FRAME = MAC + bytes(6) + b"\x08\x06" + bytes(range(86))
IPCS, L4CS, UDPCS, VP, EOP, DD = 1 << 6, 1 << 5, 1 << 4, 1 << 3, 1 << 1, 1
IPE, L4E = 1 << 30, 1 << 29
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""Of Microsoft's verification suite."""


def ip_frame(source: str, target: str, ports: tuple[int, int], protocol: int = 6) -> bytes:
    addresses = b"".join(bytes(int(part) for part in each.split(".")) for each in (source, target))
    payload = struct.pack(">HH", *ports) + bytes(8) + b"\x50" + bytes(7)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0) + addresses
    return MAC + bytes(6) + b"\x08\x00" + header + payload


def enable_rss(rig: Rig, fields: int = 1 << 16 | 1 << 17, table: bytes = bytes((0, 1)) * 64) -> None:
    for at in range(10):
        rig.driver.write(r.RSSRK + 4 * at, int.from_bytes(KEY[4 * at : 4 * at + 4], "little"))
    for at in range(32):
        rig.driver.write(r.RETA + 4 * at, int.from_bytes(table[4 * at : 4 * at + 4], "little"))
    rig.driver.write(r.RXCSUM, 1 << 13 | 0x300)
    rig.driver.write(r.MRQC, 2 | fields)


def test_frame_is_stored_with_advanced_write_back(running: Rig) -> None:
    driver = running.driver
    running.wire(FRAME)
    [(info, hashed, status, length, tag, _)] = driver.written_back()
    assert (info, hashed, length, tag) == (0, 0, len(FRAME), 0)
    assert status == DD | EOP
    assert driver.memory.read(RX_BUFFERS, length) == FRAME
    assert driver.messages() == [0]
    assert driver.read(regs.GPRC) == 1


def test_vector_masks_itself_until_it_is_enabled(running: Rig) -> None:
    driver = running.driver
    running.wire(FRAME)
    running.wire(FRAME)
    assert driver.messages() == [0]
    assert driver.read(r.EIMS) == 0b110
    assert driver.frames() == [FRAME, FRAME]
    driver.handle(0)
    assert driver.messages() == [0]
    running.wire(FRAME)
    assert driver.messages() == []


# The vectors of Microsoft's "Verifying the RSS hash calculation": source, target, ports, with and without them.
SUITE = [
    ("66.9.149.187", "161.142.100.80", (2794, 1766), 0x51CCC178, 0x323E8FC2),
    ("199.92.111.2", "65.69.140.83", (14230, 4739), 0xC626B0EA, 0xD718262A),
    ("24.19.198.95", "12.22.207.184", (12898, 38024), 0x5C2B394A, 0xD2D0A5DE),
]


@pytest.mark.parametrize(("source", "target", "ports", "tcp", "ip"), SUITE)
def test_rss_chooses_queue_and_reports_hash(
    running: Rig, source: str, target: str, ports: tuple[int, int], tcp: int, ip: int
) -> None:
    driver = running.driver
    enable_rss(running)
    running.wire(ip_frame(source, target, ports))
    running.wire(ip_frame(source, target, ports, protocol=47))
    found = []
    for queue in range(2):
        found += [(hashed, info & 15, queue) for info, hashed, *_ in driver.written_back(queue)]
    assert sorted(found) == sorted([(tcp, 1, tcp & 1), (ip, 2, ip & 1)])
    assert set(driver.messages()) == {tcp & 1, ip & 1}


def test_without_rss_all_frames_go_to_queue_0(running: Rig) -> None:
    source, target, ports, *_ = SUITE[0]
    running.wire(ip_frame(source, target, ports))
    [(info, hashed, *_)] = running.driver.written_back(0)
    assert (info, hashed) == (1 << 4 | 1 << 8, 0)


def test_ethertype_filter_chooses_queue(running: Rig) -> None:
    driver = running.driver
    driver.write(r.ETQF + 8, 1 << 31 | 1 << 26 | 1 << 16 | 0x0806)
    running.wire(FRAME)
    [(info, *_)] = driver.written_back(1)
    assert info == 1 << 15 | 2 << 4


def test_disabled_queue_gets_nothing(running: Rig) -> None:
    driver = running.driver
    driver.write(driver.place(r.RX, 0, r.RXDCTL), 0)
    assert running.wire(FRAME)
    assert driver.frames() == []


def test_full_queue_drops_while_others_have_room(running: Rig) -> None:
    driver = running.driver
    for _ in range(RING_SIZE - 1):
        running.wire(FRAME)
    driver.messages()
    running.wire(FRAME)
    assert driver.read(driver.place(r.RX, 0, r.RQDPC)) == 1
    assert driver.read(driver.place(r.RX, 0, r.RQDPC)) == 0
    assert driver.read(regs.MPC) == 1
    assert len(driver.frames()) == RING_SIZE - 1
    running.wire(FRAME)
    assert driver.frames() == [FRAME]


def test_frame_waits_while_no_queue_has_room() -> None:
    rig = Rig(queues=1)
    rig.run()
    for _ in range(RING_SIZE):
        rig.wire(FRAME)
    assert rig.driver.read(regs.MPC) == 0
    assert len(rig.driver.frames()) == RING_SIZE - 1
    assert rig.driver.frames() == [FRAME]
    rig.close()


def test_long_frame_takes_several_buffers_up_to_rlpml(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.RCTL, RCTL | 1 << 5)
    driver.write(r.RLPML, 9000)
    long = FRAME + bytes(8000)
    running.wire(long)
    running.wire(FRAME + bytes(8900))
    assert driver.frames() == [long]
    assert driver.read(regs.ROC) == 1


def test_tag_is_stripped_into_the_descriptor(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.CTRL, driver.read(regs.CTRL) | regs.CTRL_VME)
    tagged = FRAME[:12] + b"\x81\x00\x60\x05" + FRAME[12:]
    running.wire(tagged)
    [(_, _, status, length, tag, _)] = driver.written_back()
    assert status & VP
    assert (length, tag) == (len(FRAME), 0x6005)


def test_tag_filter_and_promiscuity(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.RCTL, RCTL | 1 << 18)
    tagged = FRAME[:12] + b"\x81\x00\x00\x05" + FRAME[12:]
    running.wire(tagged)
    assert driver.frames() == []
    driver.write(regs.VFTA, 1 << 5)
    running.wire(tagged)
    assert driver.frames() == [tagged]
    other = b"\x02" + FRAME[1:]
    running.wire(other)
    assert driver.frames() == []
    driver.write(regs.RCTL, RCTL | 1 << 3)
    running.wire(other)
    assert driver.frames() == [other]


def test_second_half_of_addresses_is_accepted(running: Rig) -> None:
    driver = running.driver
    other = bytes.fromhex("020000000007")
    driver.write(r.RA2 + 8, int.from_bytes(other[:4], "little"))
    driver.write(r.RA2 + 12, 1 << 31 | int.from_bytes(other[4:], "little"))
    running.wire(other + FRAME[6:])
    assert driver.frames() == [other + FRAME[6:]]


def offload_ip(frame: bytes) -> bytes:
    """With the IPv4 header's checksum."""
    whole = bytearray(frame)
    offload.fill_checksum(whole, 14, 24, 34)
    return bytes(whole)


@pytest.mark.parametrize("udp", [False, True])
def test_checksums_are_verified(running: Rig, udp: bool) -> None:
    driver = running.driver
    protocol = 17 if udp else 6
    sent, _, l4 = build(protocol, bytes(range(100)))
    [whole] = offload.complete(header(0, 0, l4, not udp), offload_ip(sent))
    frame = bytearray(whole)
    frame[:6] = MAC
    running.wire(bytes(frame))
    frame[-1] ^= 1
    running.wire(bytes(frame))
    frame[-1] ^= 1
    frame[24] ^= 1
    running.wire(bytes(frame))
    right, bad, bad_ip = (status for _, _, status, *_ in driver.written_back())
    assert right == DD | EOP | IPCS | L4CS | UDPCS * udp
    assert bad == right | L4E
    assert bad_ip & IPE


def test_legacy_descriptors_are_written_back_as_such(running: Rig) -> None:
    """Firmware's drivers use them: SRRCTL.DESCTYPE is 0 after a reset (datasheet §7.1.4)."""
    driver = running.driver
    driver.write(driver.place(r.RX, 0, r.SRRCTL), 0)
    running.wire(FRAME)
    _, length, _, status, errors, _ = struct.unpack("<QHHBBH", driver.memory.read(RX_RINGS, 16))
    assert (length, status & 3, errors) == (len(FRAME), 3, 0)


def test_header_split_is_said_not_to_be_done(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = running.driver
    driver.write(driver.place(r.RX, 0, r.SRRCTL), 5 << 25 | 2)
    running.wire(FRAME)
    assert driver.written_back()[0][3] == len(FRAME)
    assert "header split is not done" in caplog.text


def test_pools_of_vfs_are_said_not_to_be_there(running: Rig, caplog: pytest.LogCaptureFixture) -> None:
    running.driver.write(r.MRQC, 3)
    running.wire(FRAME)
    assert running.driver.frames() == [FRAME]
    assert "no VFs" in caplog.text


def test_threshold_of_free_descriptors_is_a_cause() -> None:
    rig = Rig(queues=1, mode="intx")
    rig.run()
    driver = rig.driver
    driver.write(driver.place(r.RX, 0, r.SRRCTL), 1 << 25 | 2 | 1 << 20)
    driver.write(driver.place(r.RX, 0, 8), 32 * 16)
    driver.write(driver.place(r.RX, 0, regs.TAIL), 18)
    rig.wire(FRAME)
    assert not driver.read(regs.ICR) & regs.ICR_RXDMT0
    rig.wire(FRAME)
    assert driver.read(regs.ICR) & regs.ICR_RXDMT0
    rig.close()
