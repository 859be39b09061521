"""The record of an RTL8139, which consists of those of its units."""

from __future__ import annotations

from vnic.nic.bus_timer import BusTimerRecord
from vnic.nic.causes import CausesRecord
from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.register_window import SizedRegisterFileRecord
from vnic.nic.rtl8139.eeprom import EepromRecord
from vnic.nic.rtl8139.link import LinkRecord
from vnic.nic.rtl8139.registers import CR_RE, CR_RESET, CR_TE
from vnic.nic.rtl8139.rx import ReceiverRecord
from vnic.nic.rtl8139.tally import TallyRecord
from vnic.nic.rtl8139.tx import TransmitterRecord
from vnic.record import U8, U16, U64, require


class RTL8139Record(PciNicRecord, frozen=True):
    """All state of an RTL8139."""

    registers: SizedRegisterFileRecord
    command: U8
    plus_command: U16
    plus: bool
    """CPCR was written since the last reset: the chip is in C+ mode."""
    clock: bool
    dump: U64
    """DTCCR."""
    interrupts: CausesRecord
    link: LinkRecord
    timer: BusTimerRecord
    eeprom: EepromRecord
    tally: TallyRecord
    rx: ReceiverRecord
    tx: TransmitterRecord

    def check_fields(self) -> None:
        require(not self.command & ~(CR_RESET | CR_RE | CR_TE), "command", f"is {self.command:#x}")
        require(not self.plus_command & ~PLUS_WRITABLE, "plus_command", f"is {self.plus_command:#x}")
        require(self.plus or not self.plus_command, "plus", "is false, and plus_command is set")


PLUS_WRITABLE = 0x007B
"""The bits of CPCR."""
