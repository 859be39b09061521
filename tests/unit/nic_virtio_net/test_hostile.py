"""A hostile driver breaks only its own rings: one log line, NEEDS_RESET, and other rings continue."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.net.queue import Frame
from vnic.nic.virtio_net import features
from vnic.virtio.constants import LOGGED_BREAKS, STATUS_NEEDS_RESET


def break_ring(lab: VirtioLab, index: int) -> None:
    ring = lab.driver.rings[index]
    ring.offer(0xFFFF)
    ring.publish()
    lab.driver.kick()


def test_broken_tx_ring_sets_needs_reset(caplog: pytest.LogCaptureFixture) -> None:
    with VirtioLab() as lab:
        lab.plug()
        lab.driver.fill_rx(4)
        lab.driver.send(frame(1), frame(2))
        break_ring(lab, 1)
        lab.driver.send(frame(3))
        lab.settle()
        assert lab.sent == [frame(1), frame(2)]
        assert lab.netdev.send(0, frame(4))
        assert lab.driver.received() == [frame(4)], "the other ring goes on"
        assert [record.getMessage() for record in caplog.records] == [
            "nic0: queue 1 is broken until the guest resets it: descriptor 65535 is outside of its table of 256"
        ]
        assert lab.device.status == 15 | STATUS_NEEDS_RESET
        assert lab.driver.reset_notices == 1
        lab.device.set_status(15)
        assert lab.device.status == 15 | STATUS_NEEDS_RESET, "only a reset clears it"
        lab.driver.start()
        lab.settle()
        lab.driver.send(frame(5))
        assert lab.sent[-1] == frame(5)


def test_chains_before_invalid_one_are_returned() -> None:
    with VirtioLab() as lab:
        lab.plug()
        for number in range(3):
            lab.driver.queue_tx(frame(number))
        break_ring(lab, 1)
        assert len(lab.sent) == lab.driver.rings[1].used_idx == 3


@pytest.mark.parametrize("size", [1, 11])
def test_packet_without_header_breaks_ring(size: int, caplog: pytest.LogCaptureFixture) -> None:
    with VirtioLab() as lab:
        lab.plug()
        lab.driver.rings[1].add([(lab.guest.alloc(size), size)])
        lab.driver.rings[1].publish()
        lab.driver.kick()
        assert "virtio_net_hdr" in caplog.text


def test_writable_buffer_in_tx_ring_breaks_ring(caplog: pytest.LogCaptureFixture) -> None:
    with VirtioLab() as lab:
        lab.plug()
        lab.driver.rings[1].add([], [(lab.guest.alloc(100), 100)])
        lab.driver.rings[1].publish()
        lab.driver.kick()
        assert "virtio_net_hdr" in caplog.text


@pytest.mark.parametrize(("readable", "writable"), [(100, 0), (0, 11), (0, 1)])
def test_invalid_receive_buffer_breaks_ring(
    readable: int, writable: int, caplog: pytest.LogCaptureFixture
) -> None:
    with VirtioLab() as lab:
        lab.plug()
        ring = lab.driver.rings[0]
        ring.add(
            [(lab.guest.alloc(readable), readable)] if readable else [],
            [(lab.guest.alloc(writable), writable)] if writable else [],
        )
        ring.publish()
        lab.driver.kick()
        assert lab.netdev.send(0, frame(1)), "lost"
        assert lab.netdev.send(0, frame(2))
        assert f"a receive buffer of {writable} bytes" in caplog.text
        lab.driver.send(frame(3))
        assert lab.sent == [frame(3)]


def test_legacy_driver_gets_no_needs_reset() -> None:
    with VirtioLab(header_bytes=10) as lab:
        lab.plug(features.MAC)
        break_ring(lab, 1)
        assert lab.device.status == 15
        assert lab.driver.reset_notices == 0


def test_log_lines_about_broken_rings_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with VirtioLab() as lab:
        lab.plug()
        for _ in range(LOGGED_BREAKS + 20):
            lab.driver.start()
            lab.settle()
            break_ring(lab, 1)
        assert len(caplog.records) == LOGGED_BREAKS


@pytest.mark.parametrize("part", ["desc", "avail", "used"])
def test_ring_outside_of_memory_does_not_start(part: str, caplog: pytest.LogCaptureFixture) -> None:
    with VirtioLab() as lab:
        lab.driver.plug(lab.device, start=False)
        ring = lab.driver.rings[1]
        setattr(ring, part, 0x10)
        assert not lab.driver.start_ring(ring)
        assert "nic0: queue 1 is broken" in caplog.text
        lab.device.kick(1)


def test_kick_of_missing_ring_is_ignored() -> None:
    with VirtioLab() as lab:
        for index in (0, 1, 2, 3, 99):
            lab.device.kick(index)
        lab.plug()
        for index in (3, 99):
            lab.device.kick(index)
        lab.settle()


class Leaving(FarEnd):
    """Makes the guest go away when it gets a frame."""

    lab: VirtioLab

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.lab.driver.device is not None:
            self.lab.driver.unplug()
        return True


def test_detach_during_burst_is_safe() -> None:
    """An attachment that fails while it raises an interrupt may detach from within the device's own call."""
    far = Leaving()
    with VirtioLab(far=far) as lab:
        far.lab = lab
        lab.plug()
        lab.driver.send(frame(1), frame(2), frame(3))
        lab.settle()
        assert lab.device.status == 0
        assert not lab.device.attached


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_random_rings_and_registers_do_not_raise(seed: int) -> None:
    """Nothing a driver writes makes a call of the device raise; after a reset it works again."""
    source = random.Random(seed)
    with VirtioLab(memory_bytes=1 << 20, ring_size=16) as lab:
        lab.plug()
        start, size = lab.guest.guest_addr, lab.guest.size
        for _ in range(30):
            ring = source.choice(lab.driver.rings)
            match source.randrange(8):
                case 0:
                    lab.device.set_status(source.choice((0, 1, 3, 11, 15, 128, 255)))
                case 1:
                    lab.device.set_features(source.getrandbits(64))
                case 2:
                    lab.device.write_config(source.randrange(20), source.randbytes(source.randrange(9)))
                    lab.device.read_config(source.randrange(300), source.randrange(300))
                case 3:
                    queue = lab.device.queues[ring.index]
                    queue.size = source.choice((16, 16, 0, 3, 1024))
                    lab.device.queue_ready(ring.index, source.choice((None, 0, 0xFFFF, 1 << 20)))
                case 4:
                    lab.netdev.send(0, source.randbytes(source.randrange(14, 3000)))
                case _:
                    for index in range(16):
                        addr = source.choice(
                            (start + source.randrange(size), ring.desc, source.getrandbits(64))
                        )
                        length = source.choice((16, 12, 100, 2000, source.getrandbits(32)))
                        ring.set_desc(index, addr, length, source.getrandbits(3), source.randrange(18))
                    for _ in range(source.randrange(4)):
                        ring.offer(source.randrange(18))
                    ring.publish()
                    lab.device.kick(ring.index)
            lab.scheduler.turn()
        lab.settle()
        lab.driver.start()
        lab.settle()
        lab.sent.clear()
        lab.driver.send(frame(1))
        lab.driver.fill_rx(2)
        lab.settle()
        assert lab.sent[-1] == frame(1)
        assert lab.netdev.send(0, frame(2))
        lab.settle()
        assert frame(2) in lab.driver.received()
