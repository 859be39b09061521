"""A virtio device as a PCI function: common configuration, notifications, ISR and device config (virtio 1.2 §4.1).

The VM's attachment calls it as a `PciDevice`; for the device model it is the `Attachment`. Modern (1.0 and later)
only: a transitional device would need the legacy I/O window, which vnic does not offer.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import Shadow
from vnic.net.errors import NetError
from vnic.pci.capability import (
    CAP_VENDOR,
    MSIX_MAX_VECTORS,
    pcie_endpoint,
    power_management,
)
from vnic.pci.config import CLASS_ETHERNET, PciId
from vnic.pci.device import PciDevice, PciHandles
from vnic.pci.irq import IrqLines, Notifiers
from vnic.pci.msix import MsixTable
from vnic.record import within
from vnic.virtio.attachment import Doorbell, QueueFds
from vnic.virtio.constants import STATUS_DRIVER_OK, STATUS_FEATURES_OK
from vnic.virtio.device import VirtioDevice
from vnic.virtio.features import EVENT_IDX, RING_RESET, VERSION_1
from vnic.virtio.fence import FENCED
from vnic.virtio.pci import layout
from vnic.virtio.pci.record import VirtioPciRecord
from vnic.virtio.pci.shadow_rings import ShadowRings
from vnic.virtio.queue import SplitQueue

_WORD = 0xFFFFFFFF
_FEATURES = RING_RESET | (EVENT_IDX if FENCED else 0)
"""A ring reset is offered only here, not over vhost-user: QEMU does not notify its back-end of one, which would go on
with the old ring."""


class VirtioPci(PciDevice):
    """One virtio device on one PCI function.

    `vectors` is the number of MSI-X vectors; by default one per queue and one for config, as for QEMU's virtio-net.
    0: no MSI-X, the guest has to use INTx (`msix=off`).
    """

    def __init__(
        self, device: VirtioDevice, *, vectors: int | None = None, class_code: int = CLASS_ETHERNET
    ) -> None:
        if len(device.queues) > layout.MAX_QUEUES:
            raise NetError(f"{len(device.queues)} queues are too many, virtio-pci has {layout.MAX_QUEUES}")
        if vectors is None:
            vectors = len(device.queues) + 1
        if vectors > MSIX_MAX_VECTORS:
            raise NetError(f"Property 'vectors' must be at most {MSIX_MAX_VECTORS}, MSI-X has no more")
        ident = PciId(
            layout.VENDOR,
            layout.DEVICE_BASE + device.device_id,
            layout.VENDOR,
            layout.SUBSYSTEM,
            layout.REVISION,
            class_code,
        )
        super().__init__(
            ident,
            [layout.WINDOW],
            msix=MsixTable.exclusive(vectors, layout.MSIX_BAR) if vectors else None,
            capabilities=(pcie_endpoint(), power_management(), *layout.capabilities()),
        )
        self.device = device
        device.transport_features = _FEATURES
        self._vectors = vectors
        self._access = self.config.find_all(CAP_VENDOR)[-1]  # the PCI configuration access capability
        self._notifiers: dict[int, Notifiers] = {}
        self._shadow_rings: ShadowRings | None = None
        self._old_status = 0
        self._isr = 0
        self._leaving = False  # the VM has left, and a back-end still has its rings
        self._clear()
        self._registers: dict[tuple[int, int], Callable[[int], None]] = {
            layout.PLACE["device_feature_select"]: self._set_device_feature_select,
            layout.PLACE["driver_feature_select"]: self._set_driver_feature_select,
            layout.PLACE["driver_feature"]: self._set_driver_feature,
            layout.PLACE["config_msix_vector"]: self._set_config_vector,
            layout.PLACE["device_status"]: self._set_status,
            layout.PLACE["queue_select"]: self._set_queue_select,
            layout.PLACE["queue_size"]: self._set_queue_size,
            layout.PLACE["queue_msix_vector"]: self._set_queue_vector,
            layout.PLACE["queue_enable"]: self._set_queue_enable,
            layout.PLACE["queue_reset"]: self._set_queue_reset,
        }
        self._powered_on = self.save()

    def _clear(self) -> None:
        """The transport's own registers after reset (§4.1.4.3.1)."""
        self._device_feature_select = 0
        self._driver_feature_select = 0
        self._driver_features = 0  # as written; the device keeps only offered ones
        self._queue_select = 0
        self._config_vector = layout.NO_VECTOR
        self._queue_vectors = [layout.NO_VECTOR] * len(self.device.queues)
        self._resetting: set[int] = set()
        """The queues whose reset is in progress."""
        self._isr = 0

    # --- State apart from handles ---

    def save(self) -> VirtioPciRecord:
        """A VM that is leaving has left."""
        if self._leaving:
            return self._powered_on
        return VirtioPciRecord(
            function=self.save_function(),
            device_feature_select=self._device_feature_select,
            driver_feature_select=self._driver_feature_select,
            driver_features=self._driver_features,
            queue_select=self._queue_select,
            config_vector=self._config_vector,
            queue_vectors=list(self._queue_vectors),
            resetting=sorted(self._resetting),
            isr=self._isr,
            old_status=self._old_status,
        )

    def restore(self, record: VirtioPciRecord, handles: PciHandles) -> None:
        """Take the place of `plug`: the device behind is restored next, with this as its attachment. Raises
        RecordError, and changes nothing then."""
        with within("function"):
            self.check_function(record.function)
        record.check(len(self.device.queues), self._vectors)
        self._device_feature_select = record.device_feature_select
        self._driver_feature_select = record.driver_feature_select
        self._driver_features, self._queue_select = record.driver_features, record.queue_select
        self._config_vector, self._queue_vectors = record.config_vector, list(record.queue_vectors)
        self._resetting = set(record.resetting)
        self._isr, self._old_status = record.isr, record.old_status
        self.restore_function(record.function, handles)
        self.resume()

    # --- PciDevice: called by the attachment ---

    def plug(self, irq: IrqLines, memory: GuestMemory) -> None:
        super().plug(irq, memory)
        self.device.attach(self, memory)

    def use_shadow(self, memory: GuestMemory, shadow: Shadow) -> None:
        super().use_shadow(memory, shadow)
        # A shadow copy has no fresh used_event, and the driver would not see avail_event (see ShadowRing).
        self.device.withhold(EVENT_IDX)
        self._shadow_rings = ShadowRings(self.device, memory, shadow, self._interrupt_of)

    def unplug(self, done: Callable[[], None]) -> None:
        self._leaving = True
        self.touched()

        def detached() -> None:
            self._leaving = False
            for notifiers in self._notifiers.values():
                notifiers.close()
            self._notifiers.clear()
            self._shadow_rings = None
            self.device.transport_features = _FEATURES
            super(VirtioPci, self).unplug(done)

        self.device.detach(detached)

    def device_reset(self) -> None:
        if self.shadow is not None:
            # The driver waits for 0 (§4.1.4.3.1), and may reuse its memory then.
            self._old_status = self.device.status or self._old_status
            self.shadow.drop(self._quiet)
        self._clear()
        self.device.reset()

    def _quiet(self) -> None:
        self._old_status = 0
        self.touched()

    def dma_mapped(self, addr: int, size: int) -> None:
        if self._shadow_rings is not None:
            self._shadow_rings.restart()

    def dma_unmapped(self, addr: int, size: int) -> None:
        if self._shadow_rings is not None:
            self._shadow_rings.save()

    def irqs_changed(self) -> None:
        for index in list(self._notifiers):
            self.device.queue_fds_changed(index)

    def bus_master_changed(self, enabled: bool) -> None:
        """Without bus mastering the device is stopped (QEMU's virtio_write_config): kexec clears it before it starts
        another kernel, and the rings' memory is then reused."""
        if not enabled and self.device.status & STATUS_DRIVER_OK:
            self.device.set_status(self.device.status & ~STATUS_DRIVER_OK)

    def look_at_rings(self) -> None:
        if self._shadow_rings is not None:
            self._shadow_rings.take_up()
        self.device.tell_again()

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return offset >> layout.PART_SHIFT == layout.NOTIFY and region == layout.WINDOW.index

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        part, at = offset >> layout.PART_SHIFT, offset & layout.PART_SIZE - 1
        if part == layout.ISR:
            data = self._read_isr() if at == 0 else b""
        elif part == layout.DEVICE:
            return self.device.read_config(at, length)
        elif part == layout.COMMON:
            data = self._common()[at : at + length]
        else:
            data = b""
        return data.ljust(length, b"\0")

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        part, at = offset >> layout.PART_SHIFT, offset & layout.PART_SIZE - 1
        if part == layout.NOTIFY:
            self._kick(at // layout.NOTIFY_MULTIPLIER)
        elif part == layout.COMMON:
            self._write_common(at, data)
        elif part == layout.DEVICE:
            self.device.write_config(at, data)

    def config_read(self, offset: int, length: int) -> bytes:
        at = self._access + layout.PCI_CFG_DATA
        if offset < at + 4 and at < offset + length and (where := self._access_target()):
            # §4.1.4.9.1: a read of pci_cfg_data reads the window at the selected offset.
            data = self.region_read(layout.WINDOW.index, *where)
            self.touched()
            self.config.data[at : at + len(data)] = data
        return super().config_read(offset, length)

    def config_write(self, offset: int, data: bytes) -> None:
        super().config_write(offset, data)
        at = self._access + layout.PCI_CFG_DATA
        if offset < at + 4 and at < offset + len(data) and (where := self._access_target()):
            target, length = where
            self.region_write(layout.WINDOW.index, target, self.config.read(at, length))

    def _access_target(self) -> tuple[int, int] | None:
        """(offset, length) that the access capability selects; None if that is outside the window."""
        return layout.access_target(lambda at, size: self.config.get(self._access + at, size))

    # --- common configuration (§4.1.4.3) ---

    def _queue(self) -> SplitQueue | None:
        """The selected queue; None if there is no such queue (its size then reads as zero)."""
        queues = self.device.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    def _common(self) -> bytes:
        device, queue, select = self.device, self._queue(), self._queue_select
        shift = self._device_feature_select * 32
        features = device.host_features >> shift & _WORD if shift < 64 else 0
        shift = self._driver_feature_select * 32
        accepted = self._driver_features >> shift & _WORD if shift < 64 else 0
        return layout.COMMON_LAYOUT.pack(
            self._device_feature_select,
            features,
            self._driver_feature_select,
            accepted,
            self._config_vector,
            len(device.queues),
            device.status or self._old_status,
            device.generation & 0xFF,
            select,
            queue.size if queue else 0,
            self._queue_vectors[select] if queue else layout.NO_VECTOR,
            queue.ready if queue else 0,
            select if queue else 0,
            queue.desc if queue else 0,
            queue.avail if queue else 0,
            queue.used if queue else 0,
            select if queue else 0,
            select in self._resetting,
        )

    def _write_common(self, at: int, data: bytes) -> None:
        """A driver writes whole registers, or halves of 64-bit ones (§4.1.3.1); other writes are ignored."""
        register = self._registers.get((at, len(data)))
        if register is not None:
            register(int.from_bytes(data, "little"))
        elif len(data) in (4, 8) and at % len(data) == 0 and at & ~7 in layout.QUEUE_ADDRESSES:
            self._set_queue_address(at, data)

    def _set_device_feature_select(self, value: int) -> None:
        self._device_feature_select = value

    def _set_driver_feature_select(self, value: int) -> None:
        self._driver_feature_select = value

    def _set_driver_feature(self, value: int) -> None:
        shift = self._driver_feature_select * 32
        if shift >= 64 or self.device.status & STATUS_FEATURES_OK:
            return  # §3.1.1: no change after FEATURES_OK
        self._driver_features = self._driver_features & ~(_WORD << shift) | value << shift
        self.device.set_features(self._driver_features)

    def _set_config_vector(self, value: int) -> None:
        self._config_vector = self._valid_vector(value)

    def _set_status(self, value: int) -> None:
        if value == 0:
            self.set_intx(False)
            self.device_reset()
            return
        if not self.device.driver_features & VERSION_1:
            value &= ~STATUS_FEATURES_OK  # §6.1: a driver must accept VERSION_1: there is no legacy interface
        if not self.bus_master:
            value &= ~STATUS_DRIVER_OK  # the device may not access the rings' memory
        self.device.set_status(value)
        if self._shadow_rings is not None and value & STATUS_DRIVER_OK:
            self._shadow_rings.kick_all()  # buffers made available before need no kick

    def _set_queue_select(self, value: int) -> None:
        self._queue_select = value

    def _set_queue_size(self, value: int) -> None:
        queue = self._queue()
        if queue is not None and not queue.ready and 0 < value <= queue.max_size:
            queue.size = value  # checked to be a power of two when the queue is enabled

    def _set_queue_vector(self, value: int) -> None:
        if self._queue() is not None:
            self._queue_vectors[self._queue_select] = self._valid_vector(value)
            self.device.queue_fds_changed(self._queue_select)

    def _set_queue_enable(self, value: int) -> None:
        queue = self._queue()
        if queue is not None and value == 1 and not queue.ready:
            if self._shadow_rings is not None:
                self._shadow_rings.enable(queue.index)
            self.device.queue_ready(queue.index)

    def _set_queue_reset(self, value: int) -> None:
        """§2.6.1: the driver waits until this register reads 0, and may then change the queue's size."""
        queue = self._queue()
        if queue is None or value != 1 or not self.device.driver_features & RING_RESET:
            return
        if (index := queue.index) in self._resetting:
            return
        self._resetting.add(index)

        def over() -> None:
            self.device.queues[index].reset()
            self._queue_vectors[index] = layout.NO_VECTOR
            self._resetting.discard(index)
            self.touched()

        def stopped(_base: int) -> None:
            if self._shadow_rings is None:
                over()
            else:
                self._shadow_rings.stopped(index, over)

        if self._shadow_rings is not None:
            self._shadow_rings.save()
        self.device.queue_stopped(index, stopped)

    def _set_queue_address(self, at: int, data: bytes) -> None:
        queue = self._queue()
        if queue is None or queue.ready:
            return
        name = layout.QUEUE_ADDRESSES[at & ~7]
        address = bytearray(getattr(queue, name).to_bytes(8, "little"))
        address[at % 8 : at % 8 + len(data)] = data
        setattr(queue, name, int.from_bytes(address, "little"))

    def _valid_vector(self, vector: int) -> int:
        """§4.1.5.1.2.1: a vector that does not exist reads back as NO_VECTOR."""
        return vector if vector < self._vectors else layout.NO_VECTOR

    # --- notifications (§4.1.5.2) and interrupts (§4.1.5.3, §4.1.5.4) ---

    def _kick(self, index: int) -> None:
        notifiers = self._notifiers.get(index)
        if notifiers is not None:
            notifiers.kick()
        elif index >= len(self.device.queues):
            return
        elif self._shadow_rings is not None:
            self._shadow_rings.kick(index)
        else:
            self.device.kick(index)

    def _read_isr(self) -> bytes:
        """A read clears the status and deasserts the line (§4.1.4.5). Queues interrupt again after a restart."""
        isr, self._isr = self._isr, 0
        if isr & layout.ISR_CONFIG:
            self.touched()
        self.set_intx(False)
        return isr.to_bytes(1, "little")

    def _interrupt(self, vector: int, isr: int) -> bool:
        self._isr |= isr  # also with MSI-X (§4.1.4.5.1), as QEMU's virtio_set_isr
        if self.msix_enabled:
            return vector != layout.NO_VECTOR and self.bus_master and self.irq.msix_notify(vector)
        self.set_intx(True)
        return True

    # --- virtio.device.Attachment: called by the device model ---

    def config_interrupt(self) -> bool:
        messages = self.irq.messages()
        if messages is not None:
            messages.expect()  # the driver reads the config then
        self.touched()
        # Both bits, as QEMU's virtio_notify_config sets them.
        return self._interrupt(self._config_vector, layout.ISR_CONFIG | layout.ISR_QUEUE)

    def queue_interrupt(self, index: int) -> None:
        if self._shadow_rings is not None:
            self._shadow_rings.interrupt(index)
        else:
            self._interrupt_of(index)

    def _interrupt_of(self, index: int) -> None:
        self._interrupt(self._queue_vectors[index], layout.ISR_QUEUE)

    def link_changed(self, up: bool) -> None:
        """Nothing to do: the driver reads the link from the device's config."""

    def needs_reset(self) -> None:
        self.config_interrupt()  # §2.1.2: NEEDS_RESET is announced as a config change

    def hand_over_queue(self, index: int) -> QueueFds | None:
        notifiers = self._notifiers.get(index)
        if notifiers is None:
            try:
                notifiers = self._notifiers[index] = self.irq.notifiers(lambda: self.queue_interrupt(index))
            except OSError:
                return None
        vector = self._queue_vectors[index]
        direct = self.irq.msix_fd(vector) if self.msix_enabled and vector != layout.NO_VECTOR else None
        return QueueFds(notifiers.kick_fd, notifiers.call_fd if direct is None else direct)

    def reclaim_queue(self, index: int) -> None:
        notifiers = self._notifiers.pop(index, None)
        if notifiers is not None:
            notifiers.close()

    def doorbell(self) -> Doorbell | None:
        messages = self.irq.messages()
        # By INTx the driver reads the ISR for each interrupt, so the turn would change for each packet.
        if messages is None or not self.msix_enabled:
            return None
        return Doorbell(messages, layout.WINDOW.index, *layout.DOORBELLS)
