"""Transmission: descriptors become frames, with tags, checksums and segments; completions, back-pressure."""

from __future__ import annotations

import struct

import pytest
from tests.fakes.vmxnet3_driver import TX_BUFFERS
from tests.unit.net.test_offload import build
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.net.offload import GSO_NONE, GSO_TCPV4, GSO_TCPV6, complete, encode, ones_sum
from vnic.nic.vmxnet3 import regs as r

FRAME = MAC + bytes(range(94))


def test_frames_are_sent_completed_and_reported_once(running: Rig) -> None:
    driver = running.driver
    for _ in range(3):
        driver.memory.write(TX_BUFFERS, FRAME)
        driver.descriptor(TX_BUFFERS, 100)
    driver.kick()
    assert running.netdev.frames == [FRAME] * 3
    assert driver.completed() == [0, 1, 2]
    assert driver.sent() == [0]
    assert driver.read(r.PT_BAR, r.IMR) == 1
    driver.send(FRAME)
    assert driver.sent() == []
    driver.mask(0, False)
    assert driver.sent() == [0]


def test_rings_wrap(running: Rig) -> None:
    frames = []
    for number in range(100):
        frames.append(MAC + bytes([number]) * 200)
        running.driver.send(frames[-1], pieces=number % 5 + 1)
        assert len(running.driver.completed()) == 1
    assert running.netdev.frames == frames


def test_packet_waits_for_its_last_descriptor(running: Rig) -> None:
    driver = running.driver
    driver.memory.write(TX_BUFFERS, FRAME)
    driver.descriptor(TX_BUFFERS, 50, eop=False)
    driver.kick()
    assert running.netdev.frames == []
    assert driver.completed() == []
    driver.descriptor(TX_BUFFERS + 50, 50)
    driver.kick()
    assert running.netdev.frames == [FRAME]
    assert driver.completed() == [1]


def test_length_zero_is_16_kib(running: Rig) -> None:
    running.driver.descriptor(TX_BUFFERS, 0)
    running.driver.kick()
    assert [len(frame) for frame in running.netdev.frames] == [1 << 14]


def test_all_queues_send() -> None:
    rig = Rig(queues=8)
    rig.driver.probe()
    rig.driver.start()
    for queue in range(8):
        rig.driver.send(MAC + bytes([queue]) * 60, queue=queue)
        assert rig.driver.completed(queue) == [0]
        assert rig.driver.sent() == [queue]
    assert [frame[6] for frame in rig.netdev.frames] == list(range(8))
    rig.driver.write(r.PT_BAR, r.TXPROD + 8 * 8, 1)
    rig.close()


def test_tag_is_inserted(running: Rig) -> None:
    running.driver.send(FRAME, tag=0x2064)
    assert running.netdev.frames == [FRAME[:12] + b"\x81\x00\x20\x64" + FRAME[12:]]


@pytest.mark.parametrize("tag", [None, 5])
def test_checksum_is_left_to_the_receiver(running: Rig, tag: int | None) -> None:
    frame, _, l4 = build(17, bytes(100))
    running.driver.send(frame, om=r.OM_CSUM, hlen=l4, msscof=l4 + 6, tag=tag)
    shift = 0 if tag is None else 4
    assert running.netdev.offloads == [b""]
    (sent,) = running.netdev.frames
    assert len(sent) == len(frame) + shift
    (expected,) = complete(encode(GSO_NONE, 0, 0, l4, 6), frame)
    assert sent[-120:] == expected[-120:]
    assert sent != frame


@pytest.mark.parametrize("tag", [None, 5])
@pytest.mark.parametrize("version", [4, 6])
def test_segmentation(running: Rig, version: int, tag: int | None) -> None:
    """The driver leaves the length out of the pseudo-header's sum, as Linux does, or anything at all."""
    frame, l3, l4 = build(6, bytes(range(250)) * 20, v6=version == 6)
    whole = bytearray(frame)
    struct.pack_into(">H", whole, l4 + 16, 0x1234)
    running.netdev.wants_offload = True
    running.driver.send(bytes(whole), pieces=4, om=r.OM_TSO, hlen=l4 + 20, msscof=1448, tag=tag)
    shift = 0 if tag is None else 4
    (header,) = running.netdev.offloads
    kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    assert header == encode(kind, 1448, l4 + 20 + shift, l4 + shift, 16)
    parts = complete(header, running.netdev.frames[0])
    assert [len(part) - l4 - 20 - shift for part in parts] == [1448, 1448, 1448, 656]
    for part in parts:
        l3s, l4s = l3 + shift, l4 + shift
        addresses = part[l3s + 12 : l3s + 20] if version == 4 else part[l3s + 8 : l3s + 40]
        pseudo = ones_sum(addresses) + 6 + len(part) - l4s
        assert (ones_sum(part[l4s:]) + pseudo) % 0xFFFF == 0
        assert version == 6 or ones_sum(part[l3s:l4s]) == 0
    counts = running.driver.statistics()
    assert counts[:4] == (4, sum(map(len, parts)), 4, sum(map(len, parts)))


@pytest.mark.parametrize(
    ("om", "hlen", "msscof"),
    [(1, 0, 0), (2, 0, 50), (2, 34, 20), (2, 34, 99), (2, 34, 16383), (3, 54, 0), (3, 54, 1)],
)
def test_invalid_offloads_drop_only_their_packet(
    running: Rig, om: int, hlen: int, msscof: int, caplog: pytest.LogCaptureFixture
) -> None:
    frame, _, _ = build(6, bytes(5000))
    for _ in range(3):
        running.driver.send(frame if om == r.OM_TSO else FRAME, om=om, hlen=hlen, msscof=msscof)
    assert running.netdev.frames == []
    assert running.driver.completed() == [0, 1, 2]
    assert len(caplog.records) == 1
    assert running.driver.statistics()[8] == 3
    running.driver.send(FRAME)
    assert running.netdev.frames == [FRAME]


def test_short_frame_is_an_error(running: Rig) -> None:
    running.driver.send(MAC + b"1234567")
    assert running.netdev.frames == []
    assert running.driver.statistics()[8] == 1


def test_statistics_by_destination(running: Rig) -> None:
    for first in (b"\x02", b"\x01", b"\xff"):
        running.driver.send((first * 6).ljust(100, b"\0"))
    assert running.driver.statistics() == (0, 0, 1, 100, 1, 100, 1, 100, 0, 0)


def test_ring_waits_for_its_peer(running: Rig) -> None:
    driver = running.driver
    running.netdev.room = False
    for size in (60, 61, 62):
        driver.send(MAC.ljust(size))
    assert driver.completed() == [0]
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.run_soon()
    assert [len(frame) for frame in running.netdev.frames] == [60, 61, 62]
    assert driver.completed() == [1, 2]


def test_link_down_frees_the_ring(running: Rig) -> None:
    driver = running.driver
    running.netdev.room = False
    for _ in range(3):
        driver.send(FRAME)
    running.set_link(False)
    running.scheduler.run_soon()
    assert driver.completed() == [0, 1, 2]


def test_bus_master_off_stops_and_on_continues(running: Rig) -> None:
    driver = running.driver
    driver.bus_master(False)
    driver.send(FRAME)
    assert running.netdev.frames == []
    driver.bus_master()
    assert running.netdev.frames == [FRAME]


def test_quiesced_device_sends_nothing(running: Rig) -> None:
    running.driver.write(r.VD_BAR, r.CMD, r.QUIESCE_DEV)
    running.driver.send(FRAME)
    assert running.netdev.frames == []
    assert running.driver.completed() == []
