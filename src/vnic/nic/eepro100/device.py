"""The 8255x as a PCI device: the SCB's registers, reset, interrupts, link.

How the guest learns: `link_status_changed` → `phy.py` → the driver looks at BMSR or general status when it thinks of
it, without an interrupt → seen.
"""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.eepro100 import registers as r
from vnic.nic.eepro100.command import CommandUnit
from vnic.nic.eepro100.configuration import Configuration
from vnic.nic.eepro100.eeprom import Eeprom
from vnic.nic.eepro100.models import VENDOR_INTEL, Model
from vnic.nic.eepro100.phy import Phy
from vnic.nic.eepro100.receive import ReceiveState, ReceiveUnit
from vnic.nic.eepro100.record import Eepro100Record
from vnic.nic.eepro100.statistics import Statistics
from vnic.nic.pci_nic import PciNic
from vnic.nic.register_window import SizedRegisterFile
from vnic.pci.bar import Bar
from vnic.pci.capability import PM_STATE_MASK, Capability
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import require, within

_POWER_AT: Final = 0xDC
_POWER_CAPABILITIES: Final = 0x7E21
_MIN_BYTES: Final = 60
_SELF_TEST_PASSED: Final = b"\xff\xff\xff\xff" + bytes(4)


class Eepro100(PciNic):
    """One NIC."""

    record = Eepro100Record
    needs_shared_memory = True
    link_lag_seconds = 2.1
    """Linux's e100 looks at its link every 2 s."""

    def __init__(self, model: Model) -> None:
        super().__init__(
            model.name,
            PciId(VENDOR_INTEL, model.device_id, model.subsystem_vendor, model.subsystem, model.revision),
            [Bar(0, r.MEMORY_BYTES, prefetchable=True), Bar(1, r.IO_BYTES, io=True), Bar(2, r.FLASH_BYTES)],
            capabilities=(_power_management(),) if model.extended else (),
        )
        self.model = model
        self.registers = SizedRegisterFile(r.REGISTERS, lambda: True)
        self.configuration = Configuration()
        self.statistics = Statistics()
        self.phy = Phy(lambda up: self.client.report.seen(up))
        self.eeprom = Eeprom(model)
        self.cu = CommandUnit(self)
        self.ru = ReceiveUnit(self)
        self._causes = self._mask = 0
        self._serve_registers()

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.eeprom.program(self.client.mac)
        self.show_mac(self.client.mac)
        self.phy.up = self.client.link_up
        self._reset()

    def link_status_changed(self) -> None:
        self.phy.up = up = self.client.link_up
        self.touched()
        self.client.report.notified(up, interrupts=False)
        self.client.flush(0)  # frames that wait for room are dropped with the link
        if not up:
            self.cu.resume()  # no block waits for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.phy.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self.ru.receive(bytes(frame).ljust(_MIN_BYTES, b"\0"))

    def overrun(self, queue: int) -> None:
        self.ru.missed()

    def sent(self, queue: int) -> None:
        self.cu.resume()

    def cleanup(self) -> None:
        self.cu.close()

    # --- State apart from handles ---

    def save(self) -> Eepro100Record:
        return Eepro100Record(
            **self.save_nic(),
            registers=self.registers.save(),
            causes=self._causes,
            mask=self._mask,
            command=self.cu.save(),
            receive=self.ru.save(),
            configuration=self.configuration.save(),
            statistics=self.statistics.save(),
            phy=self.phy.save(),
            eeprom=self.eeprom.save(),
        )

    def restore(self, record: Eepro100Record, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        with within("function"):
            self.check_function(record.function)
        with within("registers"):
            self.registers.check(record.registers)
        level = _asserts(record.causes, record.mask)
        require(level == record.function.intx, "causes", "do not go with the level of the pin")
        self.restore_nic(record, handles)
        self.registers.restore(record.registers)
        self._causes, self._mask = record.causes, record.mask
        self.configuration.restore(record.configuration)
        self.statistics.restore(record.statistics)
        self.phy.restore(record.phy)
        self.eeprom.restore(record.eeprom)
        self.cu.restore(record.command)
        self.ru.restore(record.receive)
        self.resume()
        self.ru.go_on()
        self.cu.go_on()

    # --- What the units need ---

    def post(self, causes: int) -> None:
        self._causes |= causes
        self._drive()

    def transmit(self, frame: bytes) -> bool:
        if not self.configuration.loops:
            return self.client.send(0, frame)
        if not self.ru.receive(frame):
            self.ru.missed()  # nothing offers it again
        return True

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """Power-on or a bus reset. A link that is down stays down."""
        self._reset()

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        if enabled:
            self.cu.work()
        self.client.flush(0)

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        return self.registers.read_window(offset, length) if region < 2 else bytes(length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region < 2:
            self.registers.write_window(offset, data)

    # --- Registers ---

    def _serve_registers(self) -> None:
        self.registers.readers.update(
            {
                r.STATUS: lambda: self.cu.state << 6 | self.ru.state << 2,
                r.ACK: lambda: self._causes,
                r.INTERRUPT_MASK: lambda: self._mask,
                r.EEPROM: self.eeprom.read,
                r.MDI: self.phy.read_mdi,
                r.GENERAL_STATUS: self.phy.general_status,
            }
        )
        self.registers.writers.update(
            {
                r.ACK: self._acknowledge,
                r.COMMAND: self._execute,
                r.INTERRUPT_MASK: self._write_mask,
                r.PORT: self._port,
                r.EEPROM: self.eeprom.write,
                r.MDI: self._write_mdi,
            }
        )

    def _reset(self) -> None:
        """PORT's software reset, or the bus: all but the link and the EEPROM."""
        self.configuration.reset(self.client.mac)
        self.statistics.reset()
        self._selective_reset()

    def _selective_reset(self) -> None:
        """What the driver has set by command blocks stays (SDM §6.3.4.3)."""
        self.registers.reset()
        self.phy.reset()
        self.eeprom.reset()
        self.cu.reset()
        self.ru.reset()
        self._causes = self._mask = 0
        self._drive()
        self._show_driver()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def _port(self, value: int) -> None:
        """PORT (SDM §6.3.4)."""
        selection = value & 0xF
        if selection == 0:
            self._reset()
        elif selection == 1:
            try:
                self.dma.write(value & ~0xF, _SELF_TEST_PASSED)
            except GuestMemoryError as error:
                self.bus_error("self-test", error)
        elif selection == 2:
            self._selective_reset()
        else:
            self.complain("PORT", f"there is no selection {selection}")

    def _execute(self, value: int) -> None:
        """The SCB's command byte, which is accepted at once, so that it reads as 0."""
        pointer = self.registers.values[r.POINTER]
        if self.ru.execute(value & 0x0F, pointer):
            self._show_driver()
            self.client.flush(0)
        self.cu.execute(value & 0xF0, pointer)

    def _show_driver(self) -> None:
        """The receive unit is started while the guest has the interface up. Its driver enables bus mastering as long as
        it is bound to the card."""
        on = self.ru.state is not ReceiveState.IDLE
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    def _write_mdi(self, value: int) -> None:
        if self.phy.write_mdi(value):
            self.post(r.MDI_DONE)

    # --- Interrupts ---

    def _acknowledge(self, causes: int) -> None:
        self._causes &= ~causes
        self._drive()

    def _write_mask(self, value: int) -> None:
        self._mask = value & r.MASK_BITS
        if value & r.INTERRUPT_NOW:
            self._causes |= r.SOFTWARE
        self._drive()

    def _drive(self) -> None:
        self.touched()
        level = _asserts(self._causes, self._mask)
        if level != self.intx:
            self.set_intx(level)


def _asserts(causes: int, mask: int) -> bool:
    """The level of the pin."""
    return not mask & r.MASK_ALL and bool(causes & (~mask | r.UNMASKABLE))


def _power_management() -> Capability:
    """As QEMU's: capabilities that name every state with PME, and a control register with the state."""
    body = _POWER_CAPABILITIES.to_bytes(2, "little") + bytes(4)
    return Capability(0x01, body, bytes((0, 0, PM_STATE_MASK, 0, 0, 0)), at=_POWER_AT)
