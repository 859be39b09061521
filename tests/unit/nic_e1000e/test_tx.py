"""Sending by both queues: write-back, TARC, and the offloads, which the 82574 has as the 8254x."""

from __future__ import annotations

import struct

from tests.fakes.e1000_driver import DEXT, EOP, IFCS, RS, TX_BUFFERS, TX_RING
from tests.fakes.e1000e_driver import TX_VECTOR
from tests.unit.nic.test_packet import ADDRESSES, udp
from tests.unit.nic_e1000e.conftest import Rig

from vnic.net.offload import ones_sum
from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r

FRAME = bytes(range(100))
LOOPBACK = 1 << 6


def test_frame_is_sent_and_told_by_its_vector(running: Rig) -> None:
    driver = running.driver
    driver.send(FRAME)
    assert running.netdev.frames == [FRAME]
    assert driver.tx_done(0)
    assert driver.vectors() == [TX_VECTOR]
    assert driver.read(regs.GPTC) == 1


def test_every_descriptor_is_written_back_where_ivar_says_so(running: Rig) -> None:
    driver = running.driver
    driver.send(FRAME, EOP | IFCS)
    assert driver.tx_done(0)
    driver.write(r.IVAR, driver.read(r.IVAR) & 0x7FFFFFFF)
    driver.send(FRAME, EOP | IFCS)
    assert not driver.tx_done(1)


def test_checksum_is_offloaded(running: Rig) -> None:
    driver = running.driver
    frame = bytearray(udp())
    pseudo = ones_sum(ADDRESSES) + 17 + len(frame) - 34
    struct.pack_into(">H", frame, 40, pseudo)
    driver.context(l3=14, l4=34, at=40, tcp=False)
    driver.send_extended(bytes(frame), options=2)
    assert running.netdev.frames == [udp()]
    assert driver.tx_done(1)


def test_second_queue_sends_too(running: Rig) -> None:
    driver, second, ring = running.driver, regs.QUEUE_BYTES, TX_RING + 0x1000
    for at, value in ((0, ring), (4, 0), (8, 128), (16, 0), (24, 0)):
        driver.write(regs.TDBAL + second + at, value)
    driver.write(r.IVAR, driver.read(r.IVAR) | (8 | 4) << 12)
    driver.write(regs.IMS, irq.ICR_TXQ1)
    driver.memory.write(TX_BUFFERS, FRAME)
    driver.memory.write(ring, struct.pack("<QII", TX_BUFFERS, len(FRAME) | (EOP | IFCS | RS) << 24, 0))
    driver.write(r.TARC + second, 3)
    driver.write(regs.TDT + second, 1)
    assert running.netdev.frames == []
    driver.write(r.TARC + second, 3 | r.TARC_ENABLE)
    driver.write(regs.TDT + second, 1)
    assert running.netdev.frames == [FRAME]
    assert driver.vectors() == [4]
    assert driver.read(regs.TDH + second) == 1
    assert driver.read(regs.TDH) == 0


def test_contexts_are_each_queues_own(running: Rig) -> None:
    driver, second, ring = running.driver, regs.QUEUE_BYTES, TX_RING + 0x1000
    for at, value in ((0, ring), (4, 0), (8, 128), (16, 0), (24, 0)):
        driver.write(regs.TDBAL + second + at, value)
    driver.context(l3=14, l4=34, at=40, tcp=False)
    driver.kick()
    frame = udp()[:40] + b"\0\0" + udp()[42:]
    driver.memory.write(TX_BUFFERS, frame)
    command = (EOP | IFCS | RS | DEXT) << 24 | 1 << 20
    driver.memory.write(ring, struct.pack("<QII", TX_BUFFERS, len(frame) | command, 2 << 8))
    driver.write(regs.TDT + second, 1)
    (sent,) = running.netdev.frames
    assert sent[40:42] == b"\0\0"


def test_peer_without_room_stops_both_queues_until_it_has_some(running: Rig) -> None:
    running.netdev.room = False
    running.driver.send(FRAME)
    running.driver.send(FRAME)
    assert running.netdev.frames == []
    running.netdev.room = True
    running.netdev.client.flush(0)
    running.scheduler.advance(0)
    assert running.netdev.frames == [FRAME, FRAME]


def test_mac_loopback(rig: Rig) -> None:
    rig.driver.start(rctl=1 << 1 | 1 << 3 | 1 << 26 | LOOPBACK)
    rig.driver.send(FRAME)
    assert rig.netdev.frames == []
    assert rig.driver.received() == [FRAME]
