"""The 82576's interrupts (datasheet §7.3, §8.8): causes in ICR, vectors in EICR, and how either becomes an interrupt.

With GPIE.Multiple_MSIX each bit of EICR is an MSI-X vector: IVAR says which queues set it, IVAR_MISC which bit a link
change and all other causes of ICR set. Otherwise ICR asserts the pin, or sends the one message. The device model and
its units set causes here, those of ICR in bits 31:0 and those of EICR in bits 63:32.
"""

from __future__ import annotations

from typing import Final, Protocol

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.interrupts import Interrupts, InterruptsRecord
from vnic.record import U32, require

EXTENDED: Final = 32
"""The lowest bit of EICR's causes, beside those of ICR."""
ICR_RXDW: Final = 1 << 7
_ICR_DRSTA: Final = 1 << 30
_ICR_ASSERTED: Final = 1 << 31
_CAUSES: Final = 0x77D4FBFD
"""The bits of ICR and IMS (§8.8.9)."""
_GPIE_NSICR: Final = 1 << 0
GPIE_MSIX: Final = 1 << 4
_GPIE_EIAME: Final = 1 << 30
_EICR_OTHER: Final = 1 << 31
_MSIX_BITS: Final = 0x01FFFFFF
_LEGACY_BITS: Final = 0x4000FFFF
_IVAR_VALID: Final = 0x80
_CELL: Final = c.EEPROM
"""EICR, and EIMS above it. The 82576 has no bus of an EEPROM to keep there."""
_WORD: Final = 0xFFFFFFFF


class Lines(Protocol):
    """The function's interrupts."""

    @property
    def msix_enabled(self) -> bool: ...

    def set_level(self, level: bool, /) -> None: ...

    def notify(self, vector: int, /) -> bool:
        """Send a message. False: messages are off, or the guest cannot get it."""

    def causes_changed(self) -> None:
        """Causes were set, cleared or sent."""


class ExtendedInterruptsRecord(InterruptsRecord, frozen=True):
    eicr: U32
    eims: U32

    def check_fields(self) -> None:
        for name in ("cause", "mask"):
            surplus = getattr(self, name) & ~_CAUSES
            require(not surplus, name, f"has {surplus:#x}, which is no cause")


class ExtendedInterrupts(Interrupts):
    """ICR, IMS, EICR and EIMS. The other registers are plain ones, in `values`.

    Moderation (EITR) is not done: what moderates is EIAM, by which a message masks its vector until the driver has
    polled its rings and sets EIMS again.
    """

    def __init__(self, values: dict[int, int], lines: Lines) -> None:
        super().__init__(lambda pending: None)
        self._values = values
        self._lines = lines

    @property
    def eicr(self) -> int:
        return self.cells[_CELL] & _WORD

    @property
    def eims(self) -> int:
        return self.cells[_CELL] >> EXTENDED

    def _set_extended(self, eicr: int, eims: int) -> None:
        self.cells[_CELL] = eicr & _WORD | (eims & _WORD) << EXTENDED

    @property
    def by_vectors(self) -> bool:
        """GPIE.Multiple_MSIX."""
        return bool(self._values.get(r.GPIE, 0) & GPIE_MSIX)

    def reset(self) -> None:
        self.cells[c.CAUSE] = self.cells[c.MASK] = self.cells[_CELL] = 0
        self._lines.set_level(False)

    def save(self) -> ExtendedInterruptsRecord:
        return ExtendedInterruptsRecord(cause=self.cause, mask=self.mask, eicr=self.eicr, eims=self.eims)

    def restore(self, record: InterruptsRecord) -> None:
        super().restore(record)
        assert isinstance(record, ExtendedInterruptsRecord)
        self._set_extended(record.eicr, record.eims)

    def tell_again(self) -> None:
        """The process before was killed: interrupt once more for all that may be pending. A spurious interrupt harms no
        driver, a lost one does."""
        self.cells[c.CAUSE] &= _CAUSES
        self.cells[c.MASK] &= _CAUSES
        if self.by_vectors:
            queues = sum({1 << vector for vector in self._queue_vectors()})
            other = self._other() if self.cause & self.mask else 0
            self._set_extended(self.eicr | queues | other, self.eims)
            self._send(self.eicr & self.eims)
        elif self.cause & self.mask:
            self._lines.notify(0)
        self._told()

    # --- Vectors ---

    def _entry(self, at: int) -> int:
        """The bit of EICR that byte `at` of the IVARs names; 0 for none."""
        entry = self._values.get(r.IVAR + (at & ~3), 0) >> 8 * (at & 3) & 0xFF
        return 1 << (entry & 31) & _MSIX_BITS if entry & _IVAR_VALID else 0

    def receive_vector(self, queue: int) -> int:
        """The bit of EICR of a receive queue (§8.8.17): bytes 0 and 2 of IVAR n are of the queues n and n + 8."""
        return self._entry(4 * (queue & 7) + (queue >> 3) * 2)

    def transmit_vector(self, queue: int) -> int:
        return self._entry(4 * (queue & 7) + (queue >> 3) * 2 + 1)

    def _other(self) -> int:
        """The bit of EICR of all other causes, among them a link change."""
        return self._entry(r.IVAR_MISC - r.IVAR + 1)

    def _queue_vectors(self) -> set[int]:
        bits = (self._entry(at) for at in range(4 * 8))
        return {bit.bit_length() - 1 for bit in bits if bit}

    # --- Causes ---

    def set(self, causes: int) -> None:
        """Set causes of ICR, and of EICR above them."""
        before, extended = self._pending()
        self.cells[c.CAUSE] |= causes & _CAUSES
        self._set_extended(self.eicr | causes >> EXTENDED, self.eims)
        self._deliver(before, extended)

    def enable(self, causes: int) -> None:
        before, extended = self._pending()
        self.cells[c.MASK] |= causes & _CAUSES
        self._deliver(before, extended)

    def disable(self, causes: int) -> None:
        self.cells[c.MASK] &= ~causes & _CAUSES
        self._lowered()

    def clear(self, causes: int) -> None:
        """A write to ICR: ones clear."""
        self._mask_itself(self._shown())
        self.cells[c.CAUSE] &= ~causes & _CAUSES
        self._lowered()

    def read(self) -> int:
        """A read of ICR, which clears it but in one case: with vectors, without GPIE.NSICR and with causes enabled."""
        shown = self._shown()
        kept = self.by_vectors and self._lines.msix_enabled and self.mask
        if self._values.get(r.GPIE, 0) & _GPIE_NSICR or not kept:
            c.take(self.cells, c.CAUSE)
        self._mask_itself(shown)
        self._lowered()
        return shown

    def _shown(self) -> int:
        """ICR as it reads: INT_ASSERTED is of the modes without vectors."""
        cause = self.cause
        return cause | _ICR_ASSERTED if cause and not self.by_vectors else cause

    def _mask_itself(self, shown: int) -> None:
        """Reading or writing ICR clears what IAM names of the mask (§8.8.12)."""
        if self._values.get(r.GPIE, 0) & _GPIE_NSICR or (self.mask and shown & _ICR_ASSERTED):
            self.cells[c.MASK] &= ~self._values.get(r.IAM, 0) & _CAUSES

    # --- The extended registers ---

    @property
    def _bits(self) -> int:
        return _MSIX_BITS if self.by_vectors else _LEGACY_BITS

    def set_extended(self, vectors: int) -> None:
        """A write to EICS."""
        self.set((vectors & self._bits) << EXTENDED)

    def enable_extended(self, vectors: int) -> None:
        before, extended = self._pending()
        self._set_extended(self.eicr, self.eims | vectors & self._bits)
        self._deliver(before, extended)

    def disable_extended(self, vectors: int) -> None:
        self._set_extended(self.eicr, self.eims & ~(vectors & self._bits))
        self._lowered()

    def clear_extended(self, vectors: int) -> None:
        """A write to EICR: ones clear."""
        self._set_extended(self.eicr & ~(vectors & self._bits), self.eims)
        self._lowered()

    def read_extended(self) -> int:
        """A read of EICR clears it."""
        value = self.eicr
        self._set_extended(0, self.eims)
        self._lowered()
        return value

    # --- Delivery ---

    def lines_changed(self) -> None:
        """GPIE changed the mode, or the VM changed its eventfds: what is pending may be sent now."""
        if self.by_vectors:
            self._send(self.eicr & self.eims)
        self._told()

    def tells_of_link(self) -> bool:
        """Whether the guest was interrupted for the link change that ICR shows."""
        if not self.cause & self.mask & regs.ICR_LSC:
            return False
        other = self._other()
        return not self.by_vectors or bool(other and (not self.eicr & other or self.eims & other))

    def _pending(self) -> tuple[int, int]:
        return self.cause & self.mask, self.eicr & self.eims

    def _deliver(self, before: int, extended: int) -> None:
        """Interrupt for what is pending and was not before."""
        raised = self.cause & self.mask & ~before
        if self.by_vectors:
            eicr = self.eicr
            if raised & _ICR_DRSTA:
                eicr |= self._entry(r.IVAR_MISC - r.IVAR)
            if raised & ~_ICR_DRSTA:
                eicr |= self._other()
            self._set_extended(eicr, self.eims)
            self._send(eicr & self.eims & ~extended)
        elif raised:
            self._set_extended(self.eicr | _EICR_OTHER | raised & _ICR_DRSTA, self.eims)
            self._lines.notify(0)
        self._told()

    def _send(self, vectors: int) -> None:
        """Send messages; what a message clears and masks by itself is cleared and masked (EIAC, EIAM)."""
        values = self._values
        clears = values.get(r.EIAC, 0)
        masks = values.get(r.EIAM, 0) if values.get(r.GPIE, 0) & _GPIE_EIAME else 0
        while vectors:
            bit = vectors & -vectors
            vectors ^= bit
            vector = bit.bit_length() - 1
            if vector < r.VECTORS and self._lines.notify(vector):
                self._set_extended(self.eicr & ~(bit & clears), self.eims & ~(bit & masks))

    def _lowered(self) -> None:
        if not self.cause & self.mask and not self.by_vectors:
            self._set_extended(self.eicr & ~_EICR_OTHER, self.eims)
        self._told()

    def _told(self) -> None:
        self._lines.set_level(not self.by_vectors and bool(self.cause & self.mask))
        self._lines.causes_changed()
