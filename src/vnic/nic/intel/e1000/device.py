"""The e1000 (82540EM and its variants): one queue of legacy descriptors, the INTx pin, a Microwire EEPROM."""

from __future__ import annotations

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.chip import MMIO_BAR, IntelNic
from vnic.nic.intel.e1000.eeprom import Eeprom
from vnic.nic.intel.e1000.models import MODELS, REVISION, SUBSYSTEM, SUBSYSTEM_VENDOR, Model
from vnic.nic.intel.e1000.phy import PHY_REGISTERS
from vnic.nic.intel.e1000.record import E1000Record
from vnic.nic.intel.e1000.registers import ALIASES, BY_OFFSET, STATUS_RESET
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.parts import Parts
from vnic.nic.intel.phy import Phy
from vnic.nic.intel.registers import IO_BYTES
from vnic.nic.intel.rx import buffer_bytes
from vnic.nic.intel.rx_formats import IXSM, VP, Arrival, Legacy
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import require

_IO_BAR = 1
_UNTAGGED = Arrival(IXSM)
_HOT_WRITES = frozenset({regs.TDT, regs.RDT, regs.ICR, regs.ICS, regs.IMS, regs.IMC, regs.EECD})
"""The registers that cells have."""


class E1000(IntelNic):
    """One NIC. `autonegotiation=False` is QEMU's property of that name: the link comes up without the 500 ms."""

    record = E1000Record
    cells_wanted = c.count()
    io_bar = _IO_BAR
    status_reset = STATUS_RESET

    def __init__(self, model: Model = MODELS["e1000"], *, autonegotiation: bool = True) -> None:
        self.model = model
        self.eeprom = Eeprom(model)
        phy = Phy(PHY_REGISTERS, model.phy_id2)
        super().__init__(
            model.name,
            PciId(regs.VENDOR_INTEL, model.device_id, SUBSYSTEM_VENDOR, SUBSYSTEM, revision=REVISION),
            [Bar(MMIO_BAR, regs.MMIO_BYTES), Bar(_IO_BAR, IO_BYTES, io=True)],
            Parts(BY_OFFSET, ALIASES, phy, self.eeprom, self.eeprom),
            negotiate=autonegotiation,
        )
        self.registers.readers[regs.EECD] = self.eeprom.read_eecd
        self.registers.writers[regs.EECD] = self.eeprom.write_eecd

    def make_interrupts(self) -> Interrupts:
        return Interrupts(self._drive_pin)

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        return _UNTAGGED if tag is None else Arrival(IXSM | VP, tag)

    def layout_changed(self) -> None:
        self.rx.queues[0].format = Legacy(buffer_bytes(self.rx.rctl))

    def save(self) -> E1000Record:
        return E1000Record(**self.save_chip(), eeprom=self.eeprom.save())

    def restore(self, record: E1000Record, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        self.check_chip(record, handles)
        asserted = bool(record.interrupts.cause & record.interrupts.mask)
        require(asserted == record.function.intx, "interrupts.cause", "does not go with the level of the pin")
        self.restore_chip(record, handles)
        self.eeprom.restore(record.eeprom)
        self.go_on(handles)

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return length == 4 and offset in _HOT_WRITES and region == MMIO_BAR

    def _drive_pin(self, pending: int) -> None:
        level = pending != 0
        if level != self.intx:
            self.set_intx(level)
        self.report_interrupt(told=bool(pending & regs.ICR_LSC))
