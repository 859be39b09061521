"""The vmxnet3 as a PCI device: registers, commands, events, and what QEMU's does at each.

How the guest learns: `link_status_changed` → `link.py` → ECR_LINK in the shared area and an interrupt → the guest
writes GET_LINK and reads CMD → `Link.read`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3 import shared as s
from vnic.nic.vmxnet3.filter import FilterRecord, RxFilter
from vnic.nic.vmxnet3.interrupts import Interrupts, InterruptsRecord
from vnic.nic.vmxnet3.link import Link
from vnic.nic.vmxnet3.queue import MAX_FRAGMENTS, RX_NO_BUFFER, InterruptIndex, QueueHost, QueueRecord
from vnic.nic.vmxnet3.rx import RxQueue
from vnic.nic.vmxnet3.tx import TxQueue
from vnic.pci.bar import Bar
from vnic.pci.capability import DSN_NUMBER, device_serial_number, msi, pcie_endpoint
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.pci.msix import MsixTable
from vnic.record import U32, U64, require, within

_WORD = 4
_MIN_BYTES = 60
_FILTER_PARTS = {
    r.UPDATE_RX_MODE: "mode",
    r.UPDATE_VLAN_FILTERS: "vlans",
    r.UPDATE_MAC_FILTERS: "groups",
    r.UPDATE_FEATURE: "strip",
}


class Vmxnet3Record(PciNicRecord, frozen=True):
    """It is active if it has queues."""

    mac_low: U32
    shared_low: U32
    shared: U64
    command: U32
    link_up: bool
    link_posted: bool
    event_interrupt: InterruptIndex
    interrupts: InterruptsRecord
    filter: FilterRecord
    compound: bool
    fragments: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAGMENTS)]
    tx: Annotated[list[QueueRecord], msgspec.Meta(max_length=r.MAX_TX_QUEUES)]
    rx: Annotated[list[QueueRecord], msgspec.Meta(max_length=r.MAX_RX_QUEUES)]

    def check_fields(self) -> None:
        require(bool(self.tx) == bool(self.rx), "rx", f"has {len(self.rx)} queues, and tx has {len(self.tx)}")
        for name, queues, rings in (("tx", self.tx, 1), ("rx", self.rx, 2)):
            for at, queue in enumerate(queues):
                count = len(queue.rings)
                require(count == rings, f"{name}[{at}].rings", f"are {count}, not {rings}")


class Vmxnet3(QueueHost):
    """One NIC. It is active, which Linux's driver has it while the interface is up, if it has queues."""

    record = Vmxnet3Record
    needs_shared_memory = True

    def __init__(self) -> None:
        bar = r.MSIX_BAR
        msix = MsixTable(
            r.MAX_INTERRUPTS,
            table_bar=bar,
            table_offset=0,
            pba_bar=bar,
            pba_offset=r.PBA_AT,
            at=r.MSIX_CAP_AT,
        )
        super().__init__(
            "vmxnet3",
            PciId(r.VENDOR_VMWARE, r.DEVICE_VMXNET3, r.VENDOR_VMWARE, r.DEVICE_VMXNET3, revision=r.REVISION),
            [Bar(r.PT_BAR, r.PT_BYTES), Bar(r.VD_BAR, r.VD_BYTES), Bar(bar, r.MSIX_BYTES)],
            capabilities=(pcie_endpoint(r.PCIE_CAP_AT), msix.capability(), msi(at=r.MSI_CAP_AT)),
            msix=msix,
        )
        self.config.add_extended(device_serial_number(), r.DSN_AT)
        self.interrupts = Interrupts(self, self._interrupt_sent)
        self.link = Link(lambda: self.client.report, self._post_link)
        self.filter = RxFilter()
        self._tx: list[TxQueue] = []
        self._rx: list[RxQueue] = []
        self._command = 0
        self._clear()

    def start(self) -> None:
        self.link.up, mac = self.client.link_up, self.client.mac
        self.show_mac(mac)
        number = b"\xfe" + mac[3:] + mac[:3] + b"\xff"  # QEMU's vmxnet3_device_serial_num
        self.config.set(r.DSN_AT + DSN_NUMBER, 8, int.from_bytes(number, "little"))

    def link_status_changed(self) -> None:
        self.touched()
        self.link.changed(self.client.link_up)
        self.client.flush(0)  # frames that wait for a buffer are dropped with the link
        if not self.link.up:
            self.sent(0)  # no ring waits for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if not self._rx or not self.link.up or not self.bus_master:
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0")
        return not self.filter.accepts(data, self._info_mac) or self._rx[0].receive(data)

    def overrun(self, queue: int) -> None:
        if self._rx:
            self._rx[0].count(RX_NO_BUFFER)

    def sent(self, queue: int) -> None:
        for each in self._tx:
            each.resume()

    def cleanup(self) -> None:
        self._deactivate()

    def save(self) -> Vmxnet3Record:
        return Vmxnet3Record(
            **self.save_nic(),
            mac_low=self._mac_low,
            shared_low=self._shared_low,
            shared=self._shared,
            command=self._command,
            link_up=self.link.up,
            link_posted=self.link.posted,
            event_interrupt=self._event_interrupt,
            interrupts=self.interrupts.save(),
            filter=self.filter.record,
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
        self._mac_low, self._command = record.mac_low, record.command
        self._shared_low, self._shared = record.shared_low, record.shared
        self._event_interrupt = record.event_interrupt
        self.link.up, self.link.posted = record.link_up, record.link_posted
        self.interrupts.restore(record.interrupts)
        self.filter.set(record.filter)
        self.compound, self.fragments = record.compound, record.fragments
        self._tx = [TxQueue(self, each) for each in record.tx]
        self._rx = [RxQueue(self, each) for each in record.rx]
        self.rx_queues = len(self._rx)
        self.resume()

    def look_at_rings(self) -> None:
        """Go on behind what the process before has completed; the guest may not have been told."""
        queues = (*self._tx, *self._rx)
        try:
            for queue in queues:
                queue.take_up()
        except GuestMemoryError as error:
            self.bus_error("ring", error)
        for queue in queues:
            self.interrupts.trigger(queue.interrupt)
        self._kick()

    def _post_link(self) -> bool:
        """Set ECR_LINK, and send the interrupt, which QEMU does even without a shared area. False: the driver has not
        named one, or it cannot be written."""
        posted = self._change_events(lambda events: events | r.ECR_LINK)
        self.interrupts.trigger(self._event_interrupt)
        return posted

    def _change_events(self, change: Callable[[int], int]) -> bool:
        where = self._shared + s.ECR_AT
        try:
            if self._shared:
                events = int.from_bytes(self.dma.read(where, _WORD), "little")
                self.dma.write(where, change(events).to_bytes(_WORD, "little"))
        except GuestMemoryError as error:
            self.bus_error("ECR", error)
            return False
        return bool(self._shared)

    def _interrupt_sent(self, index: int) -> None:
        if index == self._event_interrupt:
            self.link.interrupted()

    def device_reset(self) -> None:
        """A bus reset: all but the link. The next guest finds the address that the NIC was made with."""
        self._reset()
        self.show_mac(self.client.mac)

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        self._kick()

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        words = range(offset & ~3, offset + length, _WORD)
        data = b"".join(self._read(region, at).to_bytes(_WORD, "little") for at in words)
        return data[offset & 3 :][:length]

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        for at in range(0, len(data) if region in (r.PT_BAR, r.VD_BAR) else 0, _WORD):
            write = self._write_pt if region == r.PT_BAR else self._write_vd
            write(offset + at, int.from_bytes(data[at : at + _WORD], "little"))

    def _read(self, region: int, offset: int) -> int:
        index, rest = divmod(offset, r.STRIDE)
        if region == r.PT_BAR:
            return self.interrupts.masked >> index & 1 if not rest and index < r.MAX_INTERRUPTS else 0
        if region != r.VD_BAR:
            return 0
        if offset == r.CMD:
            return self._answer()
        if offset == r.ICR:
            self.touched()
            return self.interrupts.read_cause()
        low, high = _halves(self._info_mac)
        return {r.VRRS: r.REVISION, r.UVRS: r.UPT_VERSION, r.MACL: low, r.MACH: high}.get(offset, 0)

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
            self.show_mac((self._mac_low | (value & 0xFFFF) << 32).to_bytes(6, "little"))
        elif offset == r.ECR:
            self._change_events(lambda events: events & ~value)
            if value & r.ECR_LINK:
                self.link.acknowledged()

    def _answer(self) -> int:
        """A read of CMD. Commands without an answer, and unknown ones, read as 0."""
        if self._command == r.GET_LINK:
            return self.link.read()
        low, high = _halves(self.client.mac)
        return {
            r.ACTIVATE_DEV: int(not self._tx),
            r.GET_PERM_MAC_LO: low,
            r.GET_PERM_MAC_HI: high,
            r.GET_DID_LO: r.DEVICE_VMXNET3,
            r.GET_DID_HI: r.REVISION,
            r.GET_ADAPTIVE_RING_INFO: r.ADAPTIVE_RING_DISABLED,
        }.get(self._command, 0)

    def _carry_out(self, command: int) -> None:
        try:
            if command == r.RESET_DEV:
                self._reset()
            elif command == r.QUIESCE_DEV:
                self._deactivate()
            elif not self._shared:
                pass
            elif command == r.ACTIVATE_DEV and not self._tx:
                self._activate()
            elif part := _FILTER_PARTS.get(command):
                new: FilterRecord = s.read_filter(self.dma, self._shared)
                self.filter.set(msgspec.structs.replace(self.filter.record, **{part: getattr(new, part)}))
            elif command == r.GET_STATS:
                for queue in (*self._tx, *self._rx):
                    self.dma.write(queue.where + s.STATISTICS_AT, queue.statistics())
        except (GuestMemoryError, s.SharedError) as error:
            self.complain(f"command {command:#x}", str(error))

    def _activate(self) -> None:
        """Raises GuestMemoryError and SharedError, and changes nothing of the device then."""
        dma = self.dma
        config = s.read_config(dma, self._shared)
        rx_filter = s.read_filter(dma, self._shared)
        for conf in (*config.tx, *config.rx):
            dma.write(conf.completions.base, bytes(conf.completions.size * r.DESCRIPTOR_BYTES))
        for conf in config.tx:
            dma.write(conf.where + s.TX_THRESHOLD_AT, (1).to_bytes(_WORD, "little"))
        self._tx = [TxQueue(self, conf) for conf in config.tx]
        self._rx = [RxQueue(self, conf) for conf in config.rx]
        self.rx_queues = len(self._rx)
        self.filter.set(rx_filter)
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

    def _clear(self) -> None:
        """What RESET_DEV resets, beyond the queues."""
        self._mac_low = self._shared_low = self._shared = self._event_interrupt = 0
        self.compound, self.fragments = True, 1
        self.filter.set(FilterRecord())
        self.interrupts.reset()

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


def _halves(mac: bytes) -> tuple[int, int]:
    return int.from_bytes(mac[:4], "little"), int.from_bytes(mac[4:], "little")
