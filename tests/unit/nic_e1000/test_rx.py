"""Receiving: filters, buffers of every size, VLAN tags, interrupts and counts, and what happens without room."""

from __future__ import annotations

import zlib

import pytest
from tests.fakes.e1000_driver import RCTL, RX_RING
from tests.unit.nic_e1000.conftest import MAC, Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.net import queue as incoming
from vnic.nic.intel import regs
from vnic.nic.intel.rx import EMPTY_PER_FRAME, buffer_bytes

PEER = bytes.fromhex("525400000002")
SBP, LPE, BSEX, SECRC, UPE, MPE, VFE = 1 << 2, 1 << 5, 1 << 25, 1 << 26, 1 << 3, 1 << 4, 1 << 18


def frame(size: int = 100, to: bytes = MAC) -> bytes:
    return (to + PEER + b"\x12\x34" + bytes(range(256)) * 70)[:size]


def test_frame_is_received_with_interrupt(running: Rig) -> None:
    assert running.wire(frame())
    assert running.driver.irq.level
    assert running.driver.read(regs.ICR) == regs.ICR_RXT0
    assert running.driver.received() == [frame()]
    assert running.driver.received() == []


def test_short_frames_are_padded(running: Rig) -> None:
    running.wire(frame(20))
    assert running.driver.received() == [frame(20).ljust(60, b"\0")]


def test_fcs_is_stored_unless_stripped(rig: Rig) -> None:
    rig.driver.start(rctl=RCTL & ~SECRC)
    rig.wire(frame())
    assert rig.driver.received() == [frame() + zlib.crc32(frame()).to_bytes(4, "little")]


@pytest.mark.parametrize(
    ("bits", "size"),
    [(0, 2048), (1 << 16, 1024), (2 << 16, 512), (3 << 16, 256),
     (BSEX | 1 << 16, 16384), (BSEX | 2 << 16, 8192), (BSEX | 3 << 16, 4096), (BSEX, 2048)],
)  # fmt: skip
def test_buffer_sizes(bits: int, size: int) -> None:
    assert buffer_bytes(bits) == size


def test_long_frame_uses_several_buffers(rig: Rig) -> None:
    rig.driver.buffer_bytes = 256
    rig.driver.start(rctl=RCTL | 3 << 16 | LPE)
    rig.wire(frame(1000))
    rig.wire(frame(2000))
    assert rig.driver.read(regs.RDH) == 12
    assert rig.driver.received() == [frame(1000), frame(2000)]


@pytest.mark.parametrize(("bits", "size"), [(SBP, 1519), (SBP | LPE, 16381)])
def test_oversized_frames_are_stored_with_bad_ones(rig: Rig, bits: int, size: int) -> None:
    """RCTL.SBP, as QEMU's e1000x_is_oversized."""
    rig.driver.start(rctl=RCTL | bits)
    rig.wire(frame(size))
    assert rig.driver.received() == [frame(size)]
    assert rig.driver.read(regs.ROC) == 0


def test_oversized_frames_are_counted_and_dropped(running: Rig) -> None:
    running.wire(frame(1518))
    running.wire(frame(1519))
    assert [len(each) for each in running.driver.received()] == [1518]
    assert running.driver.read(0x40AC) == 1
    running.driver.write(regs.RCTL, RCTL | LPE)
    running.wire(frame(9000))
    running.wire(frame(16381))
    assert [len(each) for each in running.driver.received()] == [9000]


MULTICAST = bytes.fromhex("01005e0000fb")


@pytest.mark.parametrize(
    ("to", "rctl", "taken"),
    [
        (MAC, 0, True),
        (PEER, 0, False),
        (PEER, UPE, True),
        (b"\xff" * 6, 0, True),
        (MULTICAST, 0, False),
        (MULTICAST, MPE, True),
        (MULTICAST, UPE, False),
    ],
)
def test_filters(running: Rig, to: bytes, rctl: int, taken: bool) -> None:
    running.driver.write(regs.RCTL, RCTL | rctl)
    running.wire(frame(to=to))
    assert bool(running.driver.received()) is taken


def test_broadcast_needs_bam(running: Rig) -> None:
    running.driver.write(regs.RCTL, RCTL & ~(1 << 15))
    running.wire(frame(to=b"\xff" * 6))
    assert running.driver.received() == []


@pytest.mark.parametrize(("offset", "shift"), [(0, 4), (1, 3), (2, 2), (3, 0)])
def test_multicast_table(running: Rig, offset: int, shift: int) -> None:
    key = (MULTICAST[5] << 8 | MULTICAST[4]) >> shift & 0xFFF
    running.driver.write(regs.MTA + (key >> 5) * 4, 1 << (key & 31))
    running.driver.write(regs.RCTL, RCTL | offset << 12)
    running.wire(frame(to=MULTICAST))
    running.wire(frame(to=bytes.fromhex("01005e0000fa")))
    assert len(running.driver.received()) == 1


def test_more_receive_addresses(running: Rig) -> None:
    running.driver.write(regs.RA + 8 * 15, int.from_bytes(PEER[:4], "little"))
    running.wire(frame(to=PEER))
    running.driver.write(regs.RA + 8 * 15 + 4, int.from_bytes(PEER[4:], "little") | 1 << 31)
    running.wire(frame(61, to=PEER))
    assert running.driver.received() == [frame(61, to=PEER)]


def tagged(vid: int) -> bytes:
    return MAC + PEER + b"\x81\x00" + (0x6000 | vid).to_bytes(2, "big") + frame()[12:]


def test_vlan_tags_are_stripped_on_demand(running: Rig) -> None:
    running.wire(tagged(100))
    assert running.driver.received() == [tagged(100)]
    running.driver.write(regs.CTRL, regs.CTRL_SLU | regs.CTRL_VME)
    running.wire(tagged(100))
    running.wire(frame())
    index = running.driver.rx_next
    assert running.driver.memory.read(RX_RING + index * 16 + 12, 4) == b"\x0f\0\x64\x60"
    assert running.driver.received() == [frame(), frame()]


def test_vlan_filter(running: Rig) -> None:
    running.driver.write(regs.RCTL, RCTL | VFE)
    running.driver.write(regs.VFTA + (100 >> 5) * 4, 1 << (100 & 31))
    for vid in (100, 101):
        running.wire(tagged(vid))
    running.wire(frame())
    assert running.driver.received() == [tagged(100), frame()]


def test_frames_wait_without_buffer(running: Rig) -> None:
    for number in range(20):
        running.wire(frame(64 + number))
    driver = running.driver
    assert driver.read(regs.RDH) == 15
    assert driver.read(regs.ICR) == regs.ICR_RXT0 | regs.ICR_RXDMT0  # the frames wait, none is lost
    assert (driver.read(regs.RNBC), driver.read(regs.MPC)) == (1, 0)
    assert [len(each) for each in driver.received()] == list(range(64, 79))
    assert [len(each) for each in driver.received()] == list(range(79, 84))
    assert running.netdev.sent_calls == 1


def test_rxdmt0_is_set_at_threshold(running: Rig) -> None:
    causes = []
    for _ in range(9):
        running.wire(frame())
        causes.append(bool(running.driver.read(regs.ICR) & regs.ICR_RXDMT0))
    assert causes == [False] * 6 + [True, False, False]  # 8 of 16 left: half, RDMTS 0


def test_waiting_frame_is_counted_once(running: Rig) -> None:
    for _ in range(17):
        running.wire(frame())
    running.driver.write(regs.RCTL, RCTL)
    running.driver.write(regs.RCTL, RCTL)
    assert running.driver.read(regs.RNBC) == 1


def test_overrun_counts_missed_frame(running: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "QUEUE_LIMIT", 2)
    causes = []
    for _ in range(19):
        running.wire(frame())
        causes.append(bool(running.driver.read(regs.ICR) & regs.ICR_RXO))
    assert causes == [False] * 17 + [True] * 2
    assert (running.driver.read(regs.MPC), running.driver.read(regs.RNBC)) == (2, 1)


def test_disabled_receiver_counts_no_overrun(running: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "QUEUE_LIMIT", 0)
    for _ in range(15):
        running.wire(frame())
    running.driver.write(regs.RCTL, 0)
    running.wire(frame())
    assert running.driver.read(regs.MPC) == 0


@pytest.mark.parametrize(("threshold", "small"), [(0, False), (99, False), (100, True)])
def test_small_frame_sets_srpd(running: Rig, threshold: int, small: bool) -> None:
    running.driver.write(regs.RSRPD, threshold)
    running.wire(frame(100))
    assert running.driver.read(regs.ICR) == regs.ICR_RXT0 | regs.ICR_SRPD * small


def test_frame_that_never_fits_is_dropped(rig: Rig) -> None:
    rig.driver.buffer_bytes = 256
    rig.driver.start(rctl=RCTL | 3 << 16 | LPE)
    rig.wire(frame(4000))
    assert rig.driver.read(regs.MPC) == 1
    rig.wire(frame())
    assert rig.driver.received() == [frame()]


def test_disabled_receiver_drops_frames(rig: Rig) -> None:
    assert rig.wire(frame())
    rig.driver.start()
    rig.device.config_write(4, b"\0\0")
    assert rig.wire(frame())
    rig.driver.bus_master()
    rig.set_link(False)
    rig.set_link(True)
    assert rig.wire(frame()), "while it negotiates, a cable carries nothing"
    rig.scheduler.advance(0.5)
    rig.wire(frame(77))
    assert rig.driver.received() == [frame(77)]


@pytest.mark.parametrize("way", ["rctl", "reset", "link", "bus master", "unplug"])
def test_waiting_frames_are_dropped_at_detach(running: Rig, way: str) -> None:
    """No sender may wait for ever for a guest that will not read."""
    for _ in range(20):
        running.wire(frame())
    assert not running.netdev.client.can_send(0)
    if way == "rctl":
        running.driver.write(regs.RCTL, 0)
    elif way == "reset":
        running.device.reset()
    elif way == "link":
        running.set_link(False)
    elif way == "bus master":
        running.driver.bus_master(False)
    else:
        running.device.unplug(lambda: None)
    assert running.netdev.client.can_send(0)
    assert running.netdev.sent_calls == 1


def test_waiting_frames_are_not_delivered_to_next_guest(running: Rig) -> None:
    for _ in range(2000):
        running.wire(frame())
    running.driver.write(regs.CTRL, regs.CTRL_RST)
    running.driver.start()
    running.scheduler.run_soon()
    assert running.driver.received() == []


def test_null_buffers_are_skipped(running: Rig) -> None:
    running.driver.memory.write(RX_RING, bytes(16))
    running.wire(frame())
    assert [entry[:2] for entry in running.driver.descriptors()] == [(0, 1), (100, 7)]


def test_ring_of_null_buffers_drops_frame(running: Rig) -> None:
    running.driver.memory.write(RX_RING, bytes(256))
    running.wire(frame())
    assert running.driver.read(regs.MPC) == 1
    assert running.driver.read(regs.ICR) & regs.ICR_RXO
    assert running.driver.read(regs.RDH) == 15


def test_null_buffers_skipped_per_frame_are_bounded(running: Rig) -> None:
    """65528 descriptors are 0.2 s of work: each frame gets no further than a few of them."""
    running.driver.write(regs.RDLEN, 0xFFF80)
    running.driver.write(regs.RDT, 65527)
    running.driver.memory.write(RX_RING, bytes(16 * 64))
    for number in range(1, 4):
        running.wire(frame())
        assert running.driver.read(regs.RDH) == number * (1 + EMPTY_PER_FRAME)


def test_counters(running: Rig) -> None:
    driver = running.driver
    for size, to in ((60, MAC), (61, MAC), (1514, b"\xff" * 6), (200, MULTICAST)):
        driver.write(regs.RCTL, RCTL | MPE)
        running.wire(frame(size, to))
    total = 64 + 65 + 1518 + 204
    assert driver.read(regs.GPRC) == 4
    assert driver.read(regs.GPRC) == 0
    assert driver.read(regs.TPR) == 4
    assert (driver.read(regs.GORCL), driver.read(regs.GORCL), driver.read(regs.GORCH)) == (total, total, 0)
    assert driver.read(regs.GORCL) == 0
    assert (driver.read(regs.BPRC), driver.read(regs.MPRC)) == (1, 1)
    assert [driver.read(regs.PRC64 + 4 * at) for at in range(6)] == [1, 1, 1, 0, 0, 1]


def test_buffer_outside_of_memory_drops_frame_and_logs_once(
    running: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    running.driver.memory.write(RX_RING, (GUEST_ADDR - 4096).to_bytes(8, "little"))
    for _ in range(5):
        assert running.wire(frame())
    assert running.driver.read(regs.MPC) == 5
    assert caplog.text.count("RX DMA") == 1
    assert running.device.config_read(7, 1) == b"\x20"  # received master abort
    running.driver.start()
    running.wire(frame())
    assert running.driver.received() == [frame()]
