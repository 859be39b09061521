"""The 21143 as a PCI device: its window, resets, processes, interrupts, and the link.

An attachment serves it as a `PciDevice`; the Network knows it as an `Endpoint`. How the guest learns of its link:
`link_status_changed` → `Link.up` → with the SIA in use, an interrupt → the guest reads CSR12, or the PHY's BMSR.
"""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.microwire import Microwire
from vnic.nic.pci_nic import PciNic
from vnic.nic.tulip import registers as r
from vnic.nic.tulip.link import Link
from vnic.nic.tulip.mii import Mii
from vnic.nic.tulip.record import ListRecord, TulipRecord
from vnic.nic.tulip.rx import Receiver
from vnic.nic.tulip.srom import DEVICE, VENDOR, srom_words
from vnic.nic.tulip.tx import Transmitter
from vnic.nic.turns import Polling
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import require, within

_DEC: Final = 0x1011
_21143: Final = 0x0019
_WINDOW_BYTES: Final = 128
POLL_SECONDS: Final = 0.002
"""How often the chip looks for descriptors while frames wait for them."""


class Tulip(PciNic):
    """One NIC."""

    record = TulipRecord
    link_lag_seconds = 61.0
    """Linux's driver polls the PHY of a link that is up each minute."""

    def __init__(self) -> None:
        super().__init__(
            "tulip",
            PciId(_DEC, _21143, VENDOR, DEVICE),
            [Bar(0, _WINDOW_BYTES, io=True), Bar(1, _WINDOW_BYTES)],
        )
        self.csr = list(r.RESET)
        self.link = Link(self.csr, lambda up: self.client.report.seen(up))
        self._mii = Mii(self.link)
        self._srom = Microwire(srom_words(bytes(6)))
        self.rx = Receiver(self)
        self.tx = Transmitter(self, self.rx.filter)
        self._polling = Polling(lambda: self.scheduler, POLL_SECONDS, lambda: self.rx.waits, self.rx.offer)

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.show_mac(self.client.mac)
        self._srom.words = srom_words(self.client.mac)
        self.link.up = self.client.link_up
        self.device_reset()

    def link_status_changed(self) -> None:
        """QEMU's tulip has no such function: its guest sees no change."""
        up = self.link.up = self.client.link_up
        self.touched()
        causes = self.link.changed()
        self.client.report.notified(up, interrupts=bool(causes))
        self._set_causes(causes)
        self.flush()  # frames that wait for a descriptor are dropped with the link
        if not up:
            self.tx.turns.resume()  # the list does not wait for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self.rx.receive(frame)

    def overrun(self, queue: int) -> None:
        if self.rx.enabled:
            self.rx.missed()

    def sent(self, queue: int) -> None:
        self.tx.turns.resume()

    def cleanup(self) -> None:
        self.tx.turns.cancel()
        self._polling.cancel()

    # --- State apart from handles ---

    def save(self) -> TulipRecord:
        return TulipRecord(
            **self.save_nic(),
            csr=list(self.csr),
            rx=ListRecord(at=self.rx.list.at, owed=self.rx.owed),
            tx=ListRecord(at=self.tx.list.at, owed=self.tx.owed),
            tx_waits=self.tx.turns.waiting,
            setup=self.rx.filter.frame,
            filter_kind=self.rx.filter.kind,
            phy=list(self.link.phy),
            mii=self._mii.save(),
            srom=self._srom.save(),
            link_up=self.link.up,
        )

    def restore(self, record: TulipRecord, handles: PciHandles) -> None:
        with within("function"):
            self.check_function(record.function)
        asserted = bool(_summary(record.csr) & record.csr[7])
        require(asserted == record.function.intx, "csr", "does not go with the pin's level")
        self.restore_nic(record, handles)
        self.csr[:] = record.csr
        self.rx.list.at, self.rx.owed = record.rx.at, record.rx.owed
        self.tx.list.at, self.tx.owed = record.tx.at, record.tx.owed
        self.rx.filter.load(record.setup, record.filter_kind)
        self.link.phy[:] = record.phy
        self._mii.restore(record.mii)
        self._srom.restore(record.srom)
        self.link.up = record.link_up
        if record.rx.owed or record.tx.owed:  # the process before was killed in the middle of a frame
            self.rx.take_up()
            self.tx.take_up()
            self._set_causes(r.RI * self.rx.enabled | r.TI * self.tx.enabled)
        self.resume()
        if record.tx_waits or record.tx.owed:
            self.tx.turns.later()

    # --- What the units need ---

    def interrupt(self, causes: int) -> None:
        self.rings.after_writes(self._set_causes, causes)

    def transmit(self, frame: bytes) -> bool:
        if self.csr[6] & r.OM:
            return self.rx.receive(frame, looped=True)
        return self.client.send(0, frame)

    def flush(self) -> None:
        self.client.flush(0)

    def suspend_rx(self) -> None:
        if self.csr[5] >> r.RS_SHIFT & 7 != r.RX_SUSPENDED:
            self._show_state(r.RS_SHIFT, r.RX_SUSPENDED)
            self._set_causes(r.RU)
        self._polling.begin()

    def bus_error(self, unit: str, error: GuestMemoryError) -> None:
        super().bus_error(unit, error)
        self._set_causes(r.FBE)

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """A bus reset. A link that is down stays down."""
        self._mii.reset()
        self._srom.deselect()
        self._soft_reset()

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        self.tx.demand()
        self.flush()

    def dma_mapped(self, addr: int, size: int) -> None:
        super().dma_mapped(addr, size)
        self.rx.list.known.clear()
        self.tx.list.known.clear()
        self._polling.now()

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        value = self._read(offset // r.STRIDE) if not offset & 4 else 0
        return (value >> 8 * (offset & 3)).to_bytes(4, "little")[:length].ljust(length, b"\0")

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """As QEMU's: what is not written of a register is zero."""
        if not offset & 7:
            self._write(offset // r.STRIDE, int.from_bytes(data[:4], "little"))

    # --- Registers ---

    def _read(self, number: int) -> int:
        value = self.csr[number]
        if number == 8:
            self.csr[8] = value & 0xFFFE_0000  # a read clears the count
            self.touched()
        elif number == 9:
            value &= ~(r.MDI | r.SR_DO * bool(value & r.SR_SELECT))
            value |= r.MDI * self._mii.out | r.SR_DO * bool(value & r.SR_SELECT and self._srom.out)
        elif number == 12:
            value = self.link.read_sia()
        return value

    def _write(self, number: int, value: int) -> None:
        csr = self.csr
        if number == 0:
            csr[0] = value
            if value & r.SWR:
                self._soft_reset()
        elif number == 1:
            self.tx.demand()
        elif number == 2:
            self._wake_rx()
        elif number == 3:
            csr[3] = value & ~3
            self.rx.list.restart()
        elif number == 4:
            csr[4] = value & ~3
            self.tx.list.restart()
        elif number == 5:
            csr[5] &= ~(value & r.CLEARED)
            self._drive_pin()
        elif number == 6:
            self._write_mode(value)
        elif number == 7:
            csr[7] = value
            self._drive_pin()
        elif number == 9:
            self._write_serial(value)
        elif number not in (8, 12):
            csr[number] = value
            if number == 11 and value & 0xFFFF:
                self.complain("CSR11", "the timer and the mitigation of interrupts have no effect")
        self._polling.now()

    def _write_mode(self, value: int) -> None:
        before, self.csr[6] = self.csr[6], value
        self._show_state(r.TS_SHIFT, r.TX_SUSPENDED if value & r.ST else r.STOPPED)
        if (before ^ value) & r.SR or not value & r.SR:
            self._show_state(r.RS_SHIFT, r.RX_WAITS if value & r.SR else r.STOPPED)
        self._show_driver()
        self.flush()  # to the guest, or dropped if the receiver is off
        self.tx.demand()

    def _write_serial(self, value: int) -> None:
        """CSR9: the wires of the serial ROM and of the MII."""
        rises = value & ~self.csr[9]
        self.csr[9] = value
        if value & r.SR_SELECT:
            if not value & r.SR_CS:
                self._srom.deselect()
            elif rises & r.SR_SK:
                self._srom.clock(bool(value & r.SR_DI))
        if rises & r.MDC:
            self._mii.clock(bool(value & r.MDO))

    def _wake_rx(self) -> None:
        if self.csr[6] & r.SR:
            self._show_state(r.RS_SHIFT, r.RX_WAITS)
        self.flush()

    def _show_state(self, shift: int, state: int) -> None:
        self.csr[5] = self.csr[5] & ~(7 << shift) | state << shift

    def _soft_reset(self) -> None:
        """CSR0.SWR."""
        if self.shadow is not None:
            self.shadow.drop()
        self.csr[:] = r.RESET
        self.rx.list.restart()
        self.tx.list.restart()
        self.rx.filter.reset()
        self.rx.owed, self.tx.owed = [], []
        self.rx.waits = False
        self.cleanup()
        self._drive_pin()
        self._show_driver()
        self.client.report.interrupt_acknowledged()
        self.client.purge(0)  # no sender may wait for a receiver that is off

    def _show_driver(self) -> None:
        """The receiver is on while the guest has the interface up. Its driver enables bus mastering as long as it is
        bound to the card."""
        on = self.rx.enabled
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    # --- Interrupts ---

    def _set_causes(self, causes: int) -> None:
        self.csr[5] |= causes
        self.touched()
        self._drive_pin()

    def _drive_pin(self) -> None:
        self.csr[5] = self.csr[5] & ~(r.AIS | r.NIS) | _summary(self.csr)
        level = bool(self.csr[5] & self.csr[7] & (r.AIS | r.NIS))
        if level != self.intx:
            self.set_intx(level)
        report = self.client.report
        if report.interrupt_owed:
            if level and self.csr[5] & self.csr[7] & r.LINK_CAUSES:
                report.interrupted()
            elif not self.csr[5] & r.LINK_CAUSES:
                report.interrupt_acknowledged()


def _summary(csr: list[int]) -> int:
    """NIS and AIS of the causes that are enabled."""
    enabled = csr[5] & csr[7]
    return r.NIS * bool(enabled & r.NORMAL) | r.AIS * bool(enabled & r.ABNORMAL)
