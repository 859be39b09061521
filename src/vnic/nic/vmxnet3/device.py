"""The vmxnet3 as a PCI device: registers, commands, events, and what QEMU's does at each.

How the guest learns: `link_status_changed` → `link.py` → ECR_LINK in the shared area and an interrupt → the guest
writes GET_LINK and reads CMD → `Link.read`.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3 import shared as s
from vnic.nic.vmxnet3.filter import RxFilter
from vnic.nic.vmxnet3.interrupts import Interrupts
from vnic.nic.vmxnet3.link import Link
from vnic.nic.vmxnet3.queue import QueueHost, conf_of
from vnic.nic.vmxnet3.record import Vmxnet3Record
from vnic.nic.vmxnet3.rx import RxQueue
from vnic.nic.vmxnet3.tx import TxQueue
from vnic.pci.bar import Bar
from vnic.pci.capability import DSN_NUMBER, device_serial_number, msi, pcie_endpoint
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.pci.msix import MsixTable
from vnic.record import require, within

_WORD = 4
_MIN_BYTES = 60


class Vmxnet3(QueueHost):
    """One NIC. It is active, which Linux's driver has it while the interface is up, if it has queues."""

    record = Vmxnet3Record
    needs_shared_memory = True

    def __init__(self) -> None:
        msix = MsixTable(
            r.MAX_INTERRUPTS,
            table_bar=r.MSIX_BAR,
            table_offset=0,
            pba_bar=r.MSIX_BAR,
            pba_offset=r.MSIX_PBA_AT,
            at=r.MSIX_CAP_AT,
        )
        super().__init__(
            "vmxnet3",
            PciId(r.VENDOR_VMWARE, r.DEVICE_VMXNET3, r.VENDOR_VMWARE, r.DEVICE_VMXNET3, revision=r.REVISION),
            [Bar(r.PT_BAR, r.PT_BYTES), Bar(r.VD_BAR, r.VD_BYTES), Bar(r.MSIX_BAR, r.MSIX_BYTES)],
            capabilities=(pcie_endpoint(r.PCIE_CAP_AT), msix.capability(), msi(at=r.MSI_CAP_AT)),
            msix=msix,
        )
        self.config.add_extended(device_serial_number(), r.DSN_AT)
        self.interrupts = Interrupts(self, self._interrupt_sent)
        self.link = Link(lambda: self.client.report, lambda: self._post(r.ECR_LINK))
        self.filter = RxFilter()
        self._tx: list[TxQueue] = []
        self._rx: list[RxQueue] = []
        self._mac = bytes(6)
        self._command = 0
        self._clear()

    @property
    def rx_queues(self) -> int:
        return len(self._rx)

    def _clear(self) -> None:
        """What RESET_DEV resets, beyond the queues."""
        self._mac_low = self._shared_low = self._shared = 0
        self._event_interrupt = 0
        self.compound, self.fragments = True, 1
        self.filter.reset()
        self.interrupts.reset()

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.link.up = self.client.link_up
        mac = self.client.mac
        self._set_mac(mac)
        number = b"\xfe" + mac[3:] + mac[:3] + b"\xff"  # QEMU's vmxnet3_device_serial_num
        self.config.set(r.DSN_AT + DSN_NUMBER, 8, int.from_bytes(number, "little"))

    def link_status_changed(self) -> None:
        self.touched()
        self.link.changed(self.client.link_up)
        self.client.flush(0)  # frames that wait for a buffer are dropped with the link
        if not self.link.up:
            for queue in self._tx:
                queue.resume()  # no ring waits for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if not self._rx or not self.link.up or not self.bus_master:
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0")
        return not self.filter.accepts(data, self._mac) or self._rx[0].receive(data)

    def overrun(self, queue: int) -> None:
        if self._rx:
            self._rx[0].missed()

    def sent(self, queue: int) -> None:
        for each in self._tx:
            each.resume()

    def cleanup(self) -> None:
        self._deactivate()

    # --- State apart from handles ---

    def save(self) -> Vmxnet3Record:
        return Vmxnet3Record(
            **self.save_nic(),
            mac=self._mac,
            mac_low=self._mac_low,
            shared_low=self._shared_low,
            shared=self._shared,
            command=self._command,
            link_up=self.link.up,
            link_posted=self.link.posted,
            event_interrupt=self._event_interrupt,
            interrupts=self.interrupts.save(),
            filter=self.filter.save(),
            compound=self.compound,
            fragments=self.fragments,
            tx=[queue.save() for queue in self._tx],
            rx=[queue.save() for queue in self._rx],
        )

    def restore(self, record: Vmxnet3Record, handles: PciHandles) -> None:
        with within("function"):
            self.check_function(record.function)
        pin = record.interrupts.pending & ~record.interrupts.masked & 1
        require(pin or not record.function.intx, "interrupts", "do not go with the level of the pin")
        self.restore_nic(record, handles)
        self._mac, self._mac_low = record.mac, record.mac_low
        self._shared_low, self._shared = record.shared_low, record.shared
        self._command = record.command
        self.link.up, self.link.posted = record.link_up, record.link_posted
        self._event_interrupt = record.event_interrupt
        self.interrupts.restore(record.interrupts)
        self.filter.restore(record.filter)
        self.compound, self.fragments = record.compound, record.fragments
        self._tx = [TxQueue(self, conf_of(each)) for each in record.tx]
        self._rx = [RxQueue(self, conf_of(each)) for each in record.rx]
        for queue, each in zip((*self._tx, *self._rx), (*record.tx, *record.rx), strict=True):
            queue.restore(each)
        self.resume()

    def look_at_rings(self) -> None:
        """Go on behind what the process before has completed; the guest may not have been told."""
        try:
            for queue in (*self._tx, *self._rx):
                queue.take_up()
        except GuestMemoryError as error:
            self.bus_error("ring", error)
        for queue in (*self._tx, *self._rx):
            self.interrupts.trigger(queue.interrupt)
        self._kick()

    # --- What the units need ---

    def queue_error(self) -> None:
        self._post(r.ECR_TQERR)

    def _post(self, event: int) -> bool:
        """Set an event, and send its interrupt, which QEMU does even without a shared area. False: the driver has not
        named one, or it cannot be written."""
        posted = self._change_events(lambda events: events | event)
        self.interrupts.trigger(self._event_interrupt)
        return posted

    def _change_events(self, change: Callable[[int], int]) -> bool:
        if not self._shared:
            return False
        where = self._shared + s.ECR_AT
        try:
            events = int.from_bytes(self.dma.read(where, _WORD), "little")
            self.dma.write(where, change(events).to_bytes(_WORD, "little"))
        except GuestMemoryError as error:
            self.bus_error("ECR", error)
            return False
        return True

    def _interrupt_sent(self, index: int) -> None:
        if index == self._event_interrupt:
            self.link.interrupted()

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """A bus reset: all but the link. The next guest finds the address that the NIC was made with."""
        self._reset()
        self._set_mac(self.client.mac)

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        self._kick()

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return region == r.PT_BAR and offset >= r.TXPROD

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        data = b"".join(
            self._read(region, at).to_bytes(_WORD, "little")
            for at in range(offset & ~3, offset + length, _WORD)
        )
        return data[offset & 3 :][:length]

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        for at in range(0, len(data), _WORD):
            self._write(region, offset + at, int.from_bytes(data[at : at + _WORD], "little"))

    # --- Registers ---

    def _read(self, region: int, offset: int) -> int:
        if region == r.PT_BAR:
            index, rest = divmod(offset - r.IMR, r.STRIDE)
            return self.interrupts.masked >> index & 1 if not rest and index < r.MAX_INTERRUPTS else 0
        if region != r.VD_BAR:
            return 0
        if offset == r.CMD:
            return self._answer()
        if offset == r.ICR:
            self.touched()
            return self.interrupts.read_cause()
        return {
            r.VRRS: r.REVISION,
            r.UVRS: r.UPT_VERSION,
            r.MACL: int.from_bytes(self._mac[:4], "little"),
            r.MACH: int.from_bytes(self._mac[4:], "little"),
        }.get(offset, 0)

    def _write(self, region: int, offset: int, value: int) -> None:
        if region == r.PT_BAR:
            self._write_pt(offset, value)
        elif region == r.VD_BAR:
            self._write_vd(offset, value)

    def _write_pt(self, offset: int, value: int) -> None:
        if offset % r.STRIDE:
            return
        if offset >= r.RXPROD:
            self.client.flush(0)
        elif offset >= r.TXPROD:
            if (number := (offset - r.TXPROD) // r.STRIDE) < len(self._tx):
                self._tx[number].kick()
        elif (index := offset // r.STRIDE) < r.MAX_INTERRUPTS:
            self.interrupts.set_mask(index, bool(value))
            if not value:
                self.client.flush(0)  # a driver posts buffers before it enables the interrupt again

    def _write_vd(self, offset: int, value: int) -> None:
        if offset == r.DSAL:
            if not value:
                self._deactivate()
            self._shared_low, self._shared = value, 0
        elif offset == r.DSAH:
            self._shared = self._shared_low | value << 32
        elif offset == r.CMD:
            self._command = value
            self._carry_out(value)
        elif offset == r.MACL:
            self._mac_low = value
        elif offset == r.MACH:
            self._set_mac((self._mac_low | (value & 0xFFFF) << 32).to_bytes(6, "little"))
        elif offset == r.ECR:
            self._change_events(lambda events: events & ~value)
            if value & r.ECR_LINK:
                self.link.acknowledged()

    def _set_mac(self, mac: bytes) -> None:
        self._mac = mac
        self.show_mac(mac)

    # --- Commands ---

    def _answer(self) -> int:
        """A read of CMD. Commands without an answer, and unknown ones, read as 0."""
        command = self._command
        if command == r.GET_LINK:
            return self.link.read()
        mac = self.client.mac
        return {
            r.ACTIVATE_DEV: int(not self._tx),
            r.GET_PERM_MAC_LO: int.from_bytes(mac[:4], "little"),
            r.GET_PERM_MAC_HI: int.from_bytes(mac[4:], "little"),
            r.GET_DID_LO: r.DEVICE_VMXNET3,
            r.GET_DID_HI: r.REVISION,
            r.GET_ADAPTIVE_RING_INFO: r.ADAPTIVE_RING_DISABLED,
        }.get(command, 0)

    def _carry_out(self, command: int) -> None:
        if command == r.RESET_DEV:
            self._reset()
        elif command == r.QUIESCE_DEV:
            self._deactivate()
        elif self._shared:
            try:
                self._with_shared_area(command)
            except (GuestMemoryError, s.SharedError) as error:
                self.complain(f"command {command:#x}", str(error))

    def _with_shared_area(self, command: int) -> None:
        """Raises GuestMemoryError and SharedError."""
        dma, shared = self.dma, self._shared
        if command == r.ACTIVATE_DEV and not self._tx:
            self._activate()
        elif command == r.UPDATE_RX_MODE:
            self.filter.mode = s.read_rx_mode(dma, shared)
        elif command == r.UPDATE_VLAN_FILTERS:
            self.filter.vlans = s.read_vlans(dma, shared)
        elif command == r.UPDATE_MAC_FILTERS:
            self.filter.set_groups(s.read_groups(dma, shared))
        elif command == r.UPDATE_FEATURE:
            self.filter.strip = bool(s.read_features(dma, shared) & r.F_RXVLAN)
        elif command in (r.GET_QUEUE_STATUS, r.GET_STATS):
            for queue in (*self._tx, *self._rx):
                error = queue.error
                dma.write(queue.where + s.STATUS_AT, s.STATUS.pack(bool(error), error))
                if command == r.GET_STATS:
                    dma.write(queue.where + s.STATISTICS_AT, queue.statistics.pack())

    def _activate(self) -> None:
        """Raises GuestMemoryError and SharedError, and changes nothing of the device then."""
        dma, shared = self.dma, self._shared
        config = s.read_config(dma, shared)
        strip = bool(s.read_features(dma, shared) & r.F_RXVLAN)
        mode, vlans, groups = (
            s.read_rx_mode(dma, shared),
            s.read_vlans(dma, shared),
            s.read_groups(dma, shared),
        )
        tx = [TxQueue(self, conf) for conf in config.tx]
        rx = [RxQueue(self, conf) for conf in config.rx]
        for queue in (*tx, *rx):
            queue.completions.clear(dma)
        for queue in tx:
            dma.write(queue.where + s.TX_THRESHOLD_AT, (1).to_bytes(_WORD, "little"))
        self._tx, self._rx = tx, rx
        self.filter.mode, self.filter.strip, self.filter.vlans = mode, strip, vlans
        self.filter.set_groups(groups)
        self.compound, self.fragments = config.compound, config.fragments
        self._event_interrupt, self.interrupts.auto_mask = config.event_interrupt, config.auto_mask
        self._show_driver()

    def _deactivate(self) -> None:
        for queue in (*self._tx, *self._rx):
            queue.close()
        self._tx, self._rx = [], []
        self._show_driver()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def _reset(self) -> None:
        self._deactivate()
        self._clear()
        self.link.acknowledged()

    def _show_driver(self) -> None:
        """A driver enables bus mastering as long as it is bound to the card."""
        on = bool(self._tx)
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    def _kick(self) -> None:
        for queue in self._tx:
            queue.kick()
        self.client.flush(0)
