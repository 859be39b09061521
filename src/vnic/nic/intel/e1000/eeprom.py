"""The 8254x's EEPROM: its words, and the Microwire bus behind EECD that the guest clocks bit by bit.

The device model passes writes of EECD to it. Linux reads the whole EEPROM this way at probe.
"""

from __future__ import annotations

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.e1000.models import SUBSYSTEM, SUBSYSTEM_VENDOR, Model
from vnic.nic.intel.nvm import EerdLayout, Nvm, NvmRecord
from vnic.nic.microwire import Microwire, MicrowireRecord, is_packed
from vnic.record import U16, require

# EECD, SDM §13.4.3
_SK = 1 << 0
_CS = 1 << 1
_DI = 1 << 2
_DO = 1 << 3
_FWE = 3 << 4
_REQ = 1 << 6
_GNT = 1 << 7
_PRES = 1 << 8
_KEPT = _SK | _CS | _DI | _FWE | _REQ
_BUS_SHIFT = 16
"""In the cell: the bus is above the pins."""

EERD = EerdLayout(done=1 << 4, address_shift=8, address_mask=0xFF)  # SDM §13.4.4


def template(model: Model) -> dict[int, int]:
    """The words with settings for the driver and the chip (SDM §5.6)."""
    return {
        3: 0,  # compatibility
        5: 0,  # version
        6: 0,
        7: 0,
        # Initialization control 1: valid signature (01 in bits 15:14), ids are loaded from here (bits 1:0).
        10: 0x6403,
        11: SUBSYSTEM,
        12: SUBSYSTEM_VENDOR,
        13: model.device_id,
        14: regs.VENDOR_INTEL,
        # Initialization control 2: both pause bits (13:12), so that drivers offer flow control. Bit 2, the 82544's
        # wake-up enable, is clear.
        15: 0x3040,
        33: 0,
        34: 0x0F04,
        35: 0x7FFF,
        36: 0x4901,  # initialization control 3; APM Enable (bit 10) is clear: there is no wake-up
    }


class EepromRecord(MicrowireRecord, frozen=True):
    """The pins of EECD, the bus and EERD."""

    nvm: NvmRecord
    pins: U16

    def check_fields(self) -> None:
        super().check_fields()
        require(not self.pins & ~_KEPT, "pins", f"are {self.pins:#x}")


class Eeprom(Nvm):
    """The memory, its bus and both registers. A guest cannot change a word."""

    def __init__(self, model: Model) -> None:
        self.cells = c.plain()
        self._bus = Microwire(())
        super().__init__(template(model), EERD)

    def program(self, mac: bytes) -> None:
        super().program(mac)
        self._bus.words = self.words

    def reset(self) -> None:
        super().reset()
        self._pins = 0
        self._bus.deselect()
        self._keep()

    def save(self) -> EepromRecord:
        bus = self._bus.save()
        return EepromRecord(
            nvm=self.save_nvm(),
            pins=self._pins,
            state=bus.state,
            shifted=bus.shifted,
            bits=bus.bits,
            out=bus.out,
        )

    def restore(self, record: EepromRecord) -> None:
        self.restore_nvm(record.nvm)
        self._pins = record.pins
        self._bus.restore(record)
        self._keep()

    def check(self, cells: memoryview) -> None:
        """Raise RecordError unless the cell has a state of the bus."""
        pins, bus = self._of_cell(cells)
        require(not pins & ~_KEPT and is_packed(bus), f"cells[{c.EEPROM}]", "is no state of the EEPROM's bus")

    def take_up(self) -> None:
        """Go on as the cell says, which was checked."""
        self._pins, bus = self._of_cell(self.cells)
        self._bus.unpack(bus)

    def _keep(self) -> None:
        self.cells[c.EEPROM] = self._pins | self._bus.packed() << _BUS_SHIFT

    @staticmethod
    def _of_cell(cells: memoryview) -> tuple[int, int]:
        """The pins and the packed bus."""
        word = cells[c.EEPROM]
        return word & (1 << _BUS_SHIFT) - 1, word >> _BUS_SHIFT

    def read_eecd(self) -> int:
        return self._pins | _GNT | _PRES | (_DO if self._bus.out else 0)

    def write_eecd(self, value: int) -> None:
        """The bus: chip select, and data in at each rising edge of the clock."""
        rising = value & ~self._pins & _SK
        self._pins = value & _KEPT
        if not value & _CS:
            self._bus.deselect()
        elif rising:
            self._bus.clock(bool(value & _DI))
        self._keep()
