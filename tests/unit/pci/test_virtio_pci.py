"""virtio-pci: what a driver finds, start-up, notifications, MSI-X and INTx with ISR, resets, ring handover."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from tests.fakes.irq import FakeIrq
from tests.fakes.virtio_device import FakeVirtioDevice, SlowBackend

from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.virtio_pci_driver import (
    COMMON,
    DEVICE,
    ISR,
    NOTIFY,
    PCI_CFG,
    VERSION_1,
    VirtioPciDriver,
)
from vnic.net.errors import NetError
from vnic.pci.capability import CAP_PM, PM_CONTROL
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode
from vnic.virtio.constants import STATUS_NEEDS_RESET
from vnic.virtio.features import EVENT_IDX, RING_RESET
from vnic.virtio.fence import FENCED
from vnic.virtio.pci import layout
from vnic.virtio.pci.record import VirtioPciRecord
from vnic.virtio.pci.transport import VirtioPci


class Rig:
    """A VM plugged into a fake device."""

    def __init__(self, *, vectors: int | None = None) -> None:
        self.device = FakeVirtioDevice()
        self.pci = VirtioPci(self.device, vectors=vectors)
        self.irq = FakeIrq()
        self.ram = FakeGuestMemory(1 << 20)
        self.memory = self.ram.served()
        self.pci.plug(self.irq, self.memory)
        self.driver = VirtioPciDriver(self.pci)
        self.rings = [DriverRing(self.ram, index, 64) for index in range(3)]
        self.gone: list[bool] = []

    def start(self, *, msix: bool = False) -> None:
        self.driver.start(VERSION_1 | 1, self.rings, msix=msix)

    def unplug(self) -> None:
        self.pci.unplug(lambda: self.gone.append(True))

    def close(self) -> None:
        if not self.gone:
            self.unplug()
        for ring in self.rings:
            ring.close()
        self.ram.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_driver_finds_ids_and_structures(rig: Rig) -> None:
    driver = rig.driver
    assert driver.config(0, 4) == 0x1041_1AF4
    assert driver.config(8, 4) == 0x0200_0001
    assert driver.config(0x2C, 4) == 0x1100_1AF4
    assert driver.place == {
        COMMON: (4, 0),
        NOTIFY: (4, 0x3000),
        ISR: (4, 0x1000),
        DEVICE: (4, 0x2000),
        PCI_CFG: (0, 0),
    }
    assert driver.multiplier == 4
    assert driver.config(driver.msix + 2, 2) == 3  # four vectors


def test_common_configuration_has_reset_values(rig: Rig) -> None:
    driver = rig.driver
    assert driver.features() == VERSION_1 | RING_RESET | (EVENT_IDX if FENCED else 0) | 1 << 28 | 1
    driver.put(0, 4, 2)
    assert driver.get(4, 4) == 0
    assert driver.get(18, 2) == 3
    assert driver.get(16, 2) == 0xFFFF
    for index, size in ((0, 256), (2, 256), (3, 0), (0xFFFF, 0)):
        driver.put(22, 2, index)
        assert (driver.get(22, 2), driver.get(24, 2)) == (index, size)
    assert driver.get(58, 2) == 0
    assert driver.get(60, 4) == 0


class NoShadow:
    """The shadow copy of a VM that never answers."""

    def fetch(self, *_arguments: object, **_more: object) -> None:
        pass

    def write(self, *_arguments: object) -> None:
        pass

    def when_sent(self, act: Callable[[], None]) -> None:
        pass

    def drop(self, quiet: Callable[[], None] | None = None) -> None:
        if quiet is not None:
            quiet()


def test_event_idx_is_not_offered_to_a_vm_that_shares_no_memory(rig: Rig) -> None:
    offered = rig.driver.features()
    rig.pci.use_shadow(rig.memory, NoShadow())
    assert rig.driver.features() == offered & ~EVENT_IDX
    rig.start()
    rig.driver.status = 0
    assert rig.driver.features() == offered & ~EVENT_IDX, "a reset offers it again"
    rig.unplug()
    rig.pci.plug(rig.irq, rig.memory)
    assert rig.driver.features() == offered, "the next VM may have it"


@pytest.mark.skipif(not FENCED, reason="EVENT_IDX is not offered here")
def test_driver_that_has_event_idx_already_has_to_reset_the_device(rig: Rig) -> None:
    """A VM behind an IOMMU has no memory yet when the driver chooses."""
    rig.driver.start(VERSION_1 | EVENT_IDX, rig.rings)
    rig.pci.use_shadow(rig.memory, NoShadow())
    assert rig.driver.status & STATUS_NEEDS_RESET
    rig.driver.status = 0
    rig.driver.start(VERSION_1 | EVENT_IDX & rig.driver.features(), rig.rings)
    assert not rig.driver.status & STATUS_NEEDS_RESET
    assert not rig.device.queues[0].event_idx


def test_layout_table_equals_packed_structure() -> None:
    end = 0
    for _, offset, size, access in layout.COMMON_CFG:
        assert offset == end
        assert access in ("r", "rw")
        end = offset + size
    assert end == layout.COMMON_LAYOUT.size


def test_driver_starts_and_gets_buffers_back(rig: Rig) -> None:
    rig.start()
    assert rig.device.driver_features == VERSION_1 | 1
    assert ("driver_ok", True) in rig.device.calls
    buffer = rig.ram.alloc(64)
    rig.rings[1].add([(buffer, 64)])
    rig.rings[1].publish()
    rig.driver.kick(1)
    assert len(rig.rings[1].take_used()) == 1
    assert rig.driver.isr() == 1
    assert rig.driver.isr() == 0
    assert rig.irq.edges == [True, False]


def test_unoffered_features_clear_features_ok(rig: Rig) -> None:
    driver = rig.driver
    assert not driver.negotiate(VERSION_1 | 2)
    assert driver.status == 3
    assert driver.negotiate(VERSION_1)


def test_driver_without_version_1_is_refused(rig: Rig) -> None:
    assert not rig.driver.negotiate(1)


def test_features_cannot_change_after_features_ok(rig: Rig) -> None:
    assert rig.driver.negotiate(VERSION_1)
    rig.driver.set_features(VERSION_1 | 1)
    assert rig.device.driver_features == VERSION_1
    rig.driver.put(8, 4, 7)  # words that do not exist
    rig.driver.put(12, 4, 7)
    assert rig.driver.get(12, 4) == 0


def test_enabled_queue_keeps_its_addresses(rig: Rig) -> None:
    rig.start()
    driver = rig.driver
    driver.put(22, 2, 1)
    before = [driver.get(offset, 8) for offset in (32, 40, 48)]
    assert before == [rig.rings[1].desc, rig.rings[1].avail, rig.rings[1].used]
    driver.put(24, 2, 128)
    driver.put(32, 8, 0x1000)
    driver.put(28, 2, 0)
    assert driver.get(24, 2) == 64
    assert [driver.get(offset, 8) for offset in (32, 40, 48)] == before
    assert driver.get(28, 2) == 1


def test_invalid_queue_breaks_device(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    driver = rig.driver
    driver.enable_bus()
    assert driver.negotiate(VERSION_1)
    for size, address in ((3, rig.rings[0].desc), (64, 0xDEAD_0000_0000)):
        driver.put(22, 2, 0)
        driver.put(24, 2, size)
        driver.put(32, 8, address)
        driver.put(28, 2, 1)
        assert driver.get(28, 2) == 0
    assert "queue 0 is broken" in caplog.text


def test_queue_size_above_maximum_is_ignored(rig: Rig) -> None:
    """As QEMU's virtio_queue_set_num: a size that cannot be is not taken."""
    driver = rig.driver
    for size in (0, 257, 512, 0xFFFF):
        driver.put(24, 2, size)
        assert driver.get(24, 2) == 256
    driver.put(24, 2, 1)
    assert driver.get(24, 2) == 1


def test_unsupported_power_state_is_ignored(rig: Rig) -> None:
    """PCI PM 1.2 §3.2.4: D1 and D2 are not supported, so that a write of them is discarded."""
    at = rig.pci.config.find(CAP_PM) + PM_CONTROL
    for written, state in ((1, 0), (2, 0), (3, 3), (1, 3), (2, 3), (0, 0)):
        rig.pci.config_write(at, bytes((written, 0)))
        assert rig.pci.config_read(at, 2) == bytes((8 | state, 0))


def test_config_change_sets_both_isr_bits(rig: Rig) -> None:
    rig.start()
    generation = rig.driver.generation
    assert rig.device.change_config(b"CHANGED!")
    assert rig.driver.generation == generation + 1
    assert rig.driver.isr() == 3
    assert rig.irq.edges == [True, False]
    assert rig.driver.function.window_read(4, 0x2000, 10) == b"CHANGED!\xff\xff"


def test_msix(rig: Rig) -> None:
    rig.start(msix=True)
    assert rig.device.change_config(b"x")
    rig.rings[0].add([], [(rig.ram.alloc(16), 16)])
    rig.rings[0].publish()
    rig.driver.kick(0)
    assert rig.irq.sent == [("msix", 0), ("msix", 1)]
    assert rig.irq.edges == []
    assert rig.driver.isr() == 3, "§4.1.4.5.1: the bit of a config change is set in any case"
    assert rig.driver.isr() == 0
    rig.irq.deliver = False
    assert not rig.device.change_config(b"y")


def test_invalid_vector_reads_back_as_no_vector(rig: Rig) -> None:
    rig.start(msix=True)
    rig.driver.put(16, 2, 4)  # the device has 0 to 3
    assert rig.driver.get(16, 2) == 0xFFFF
    assert not rig.device.change_config(b"x")
    rig.driver.put(22, 2, 9)
    rig.driver.put(26, 2, 1)  # no such queue
    assert rig.driver.get(26, 2) == 0xFFFF
    assert rig.irq.sent == []


def test_device_without_msix_uses_intx() -> None:
    rig = Rig(vectors=0)
    assert rig.driver.msix == 0
    assert list(rig.pci.bars) == [4]
    rig.start()
    rig.device.change_config(b"x")
    assert rig.irq.edges == [True]
    rig.close()


def test_too_many_msix_vectors_are_refused() -> None:
    with pytest.raises(NetError, match="at most 2048"):
        VirtioPci(FakeVirtioDevice(), vectors=2049)


def test_needs_reset_sends_config_change(rig: Rig) -> None:
    rig.start()
    rig.rings[1].offer(999)
    rig.rings[1].publish()
    rig.driver.kick(1)
    assert rig.driver.status == 15 | 64
    assert rig.driver.isr() == 3


def test_status_zero_resets_device(rig: Rig) -> None:
    rig.start(msix=True)
    rig.driver.status = 0
    assert rig.driver.status == 0
    for index in range(3):
        rig.driver.put(22, 2, index)
        assert rig.driver.get(28, 2) == 0
        assert rig.driver.get(26, 2) == 0xFFFF
        assert rig.driver.get(24, 2) == 256
        assert rig.driver.get(32, 8) == 0
    assert rig.driver.get(16, 2) == 0xFFFF
    assert rig.driver.get(12, 4) == 0
    for ring in rig.rings:
        ring.restart()
    rig.start(msix=True)


def test_function_reset_deasserts_pin(rig: Rig) -> None:
    rig.start()
    rig.device.change_config(b"x")
    rig.pci.reset()
    assert not rig.irq.level
    assert rig.driver.isr() == 0
    assert rig.driver.status == 0


def test_disabling_bus_mastering_stops_device(rig: Rig) -> None:
    rig.start()
    rig.driver.config(4, 2, 0x0002)
    assert rig.driver.status == 11
    assert rig.device.calls[-1] == ("driver_ok", False)


def test_driver_ok_requires_bus_mastering(rig: Rig) -> None:
    driver = rig.driver
    driver.config(4, 2, 0x0002)
    assert driver.negotiate(VERSION_1)
    driver.status = 15
    assert driver.status == 11
    assert ("driver_ok", True) not in rig.device.calls
    driver.config(4, 2, 0x0006)
    driver.status = 15
    assert driver.status == 15
    assert rig.device.calls[-1] == ("driver_ok", True)


def test_pci_cfg_capability_accesses_window(rig: Rig) -> None:
    rig.device.config[:] = b"\x01\x02\x03\x04\x05\x06\x07\x08"
    at = rig.driver.caps[PCI_CFG]

    def point(bar: int, offset: int, length: int) -> None:
        rig.driver.config(at + 4, 1, bar)
        rig.driver.config(at + 8, 4, offset)
        rig.driver.config(at + 12, 4, length)

    point(4, 0x2002, 2)
    assert rig.driver.config(at + 16, 4) == 0x0403
    point(4, 0, 4)
    rig.driver.config(at + 16, 4, 1)  # device_feature_select
    point(4, 4, 4)
    assert rig.driver.config(at + 16, 4) == (VERSION_1 | RING_RESET) >> 32
    for bar, offset, length in ((0, 0, 4), (4, 0x3FFE, 4), (4, 0, 3), (4, 0xFFFFFFFF, 4)):
        point(bar, offset, length)
        rig.driver.config(at + 16, 4, 0x55)
        assert rig.driver.config(at + 16, 4) == 0x55


def test_random_accesses_do_not_raise(rig: Rig) -> None:
    rig.start()
    for offset in range(0, 0x4000, 61):
        for data in (b"\xff", b"\xff" * 3, b"\xff" * 8, b"\xff" * 64):
            if offset + len(data) <= 0x4000 and not 16 <= offset < 24:
                assert len(rig.pci.window_read(4, offset, len(data))) == len(data)
                rig.pci.window_write(4, offset, data)
    assert len(rig.pci.window_read(4, 0, 0x4000)) == 0x4000


def test_back_end_gets_rings_and_eventfds(rig: Rig) -> None:
    back_end = rig.device.back_end = SlowBackend()
    own = os.eventfd(0, os.EFD_NONBLOCK)
    rig.irq.fds[1] = own  # the VM's eventfd for vector 1, which is ring 0's
    rig.start(msix=True)
    rx, tx = back_end.fds
    assert rx is not None
    assert tx is not None
    assert rx.call == own
    assert tx.kick is not None
    rig.driver.kick(1)
    assert os.eventfd_read(tx.kick) == 1
    assert ("kick", 1) not in rig.device.calls
    assert tx.call is not None
    os.eventfd_write(tx.call, 1)
    rig.irq.watched[tx.call]()
    rig.irq.watched[tx.call]()  # nothing there: no second interrupt
    assert rig.irq.sent == [("msix", 2)]
    before = back_end.changes
    rig.pci.irqs_changed()
    assert back_end.changes == before + 2
    # A reset waits for the back-end; an interrupt that it sent last is not lost.
    os.eventfd_write(tx.call, 1)
    rig.device.back_end = None
    rig.driver.status = 0
    assert rig.driver.status == 15
    back_end.returned(rig.device)
    assert rig.driver.status == 0
    assert rig.irq.watched == {}
    os.close(own)


def test_reset_ring_restarts_with_other_size(rig: Rig) -> None:
    """`ethtool -G`."""
    rig.driver.start(VERSION_1 | RING_RESET, rig.rings, msix=True)
    assert rig.driver.reset_ring(1)
    assert (rig.driver.get(24, 2), rig.driver.get(26, 2), rig.driver.get(28, 2)) == (256, 0xFFFF, 0)
    assert rig.driver.get(32, 8) == 0
    smaller = DriverRing(rig.ram, 1, 16)
    rig.rings.append(smaller)
    rig.driver.start_ring(smaller, 2)
    smaller.add([(rig.ram.alloc(64), 64)])
    smaller.publish(kick=False)
    rig.driver.kick(1)
    assert smaller.used_idx == 1
    assert rig.irq.sent == [("msix", 2)]
    assert rig.driver.status == 15


def test_ring_reset_requires_feature(rig: Rig) -> None:
    rig.start()
    assert rig.driver.reset_ring(1)
    assert rig.driver.get(28, 2) == 1


def test_ring_reset_waits_for_back_end(rig: Rig) -> None:
    back_end = rig.device.back_end = SlowBackend()
    rig.driver.start(VERSION_1 | RING_RESET, rig.rings)
    assert not rig.driver.reset_ring(1)
    assert not rig.driver.reset_ring(1)  # once is enough
    back_end.returned(rig.device)
    assert (rig.driver.get(58, 2), rig.driver.get(28, 2)) == (0, 0)
    rig.driver.put(22, 2, 0)
    assert rig.driver.get(28, 2) == 1  # the other is as it was
    back_end.fds.clear()
    rig.rings[1].restart()
    rig.driver.start_ring(rig.rings[1])
    assert len(back_end.fds) == 2  # and both are at the back-end again
    back_end.returned(rig.device)


def test_unplug_waits_for_back_end_with_rings(rig: Rig) -> None:
    back_end = rig.device.back_end = SlowBackend()
    rig.start()
    rig.device.back_end = None
    rig.unplug()
    assert rig.gone == []
    back_end.returned(rig.device)
    assert rig.gone == [True]
    assert rig.irq.watched == {}
    assert not rig.device.attached


def test_transport_registers_are_saved_and_restored(rig: Rig) -> None:
    rig.start(msix=True)
    rig.pci.window_write(4, layout.PLACE["queue_select"][0], b"\2\0")
    rig.pci.window_write(4, layout.PLACE["device_feature_select"][0], b"\1\0\0\0")
    rig.pci.config_interrupt()
    record = rig.pci.save()
    other = VirtioPci(FakeVirtioDevice())
    other.restore(decode(VirtioPciRecord, encode(record)), PciHandles(rig.irq, rig.memory))
    assert other.save() == record
    sent = list(rig.irq.sent)
    other.queue_interrupt(1)
    assert rig.irq.sent == [*sent, ("msix", 2)]
    assert other.region_read(4, 0x1000, 1) == rig.pci.region_read(4, 0x1000, 1) != b"\0"


def test_record_of_other_function_is_refused(rig: Rig) -> None:
    rig.start(msix=True)
    record = rig.pci.save()
    for other, field in (
        (VirtioPci(FakeVirtioDevice(), vectors=0), "function.config.data"),
        (VirtioPci(FakeVirtioDevice(), vectors=2), "function.config.data"),
    ):
        before = other.save()
        with pytest.raises(RecordError) as error:
            other.restore(record, PciHandles(rig.irq, rig.memory))
        assert error.value.field == field
        assert other.save() == before
    for queues, vectors, field in ((2, 4, "queue_vectors"), (3, 1, "queue_vectors[0]")):
        with pytest.raises(RecordError) as error:
            record.check(queues, vectors)
        assert error.value.field == field
