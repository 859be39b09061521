"""The 82574's interrupts: causes that go to the pin, to MSI, or by IVAR to MSI-X vectors (datasheet §7.4, §10.2.4).

An interrupt is sent when an unmasked cause is set that was not pending. EIAC clears and masks the causes of a vector
that was sent, and the driver enables them again when it is done. Registers are as QEMU's e1000e has them.
"""

from __future__ import annotations

from typing import Final, Protocol

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import registers as r
from vnic.nic.intel.interrupts import Interrupts

# Causes besides the 8254x's, §10.2.4.1
ICR_ACK: Final = 1 << 17
ICR_MNG: Final = 1 << 18
ICR_RXQ0: Final = 1 << 20
ICR_RXQ1: Final = 1 << 21
ICR_TXQ0: Final = 1 << 22
ICR_TXQ1: Final = 1 << 23
ICR_OTHER: Final = 1 << 24
ICR_ASSERTED: Final = 1 << 31

_OTHER_CAUSES = regs.ICR_LSC | regs.ICR_RXO | regs.ICR_MDAC | regs.ICR_SRPD | ICR_ACK | ICR_MNG
"""Those that MSI-X has one vector for."""
_MASKABLE = (
    (regs.ICR_TXDW | regs.ICR_TXQE | regs.ICR_RXDMT0 | regs.ICR_RXT0 | regs.ICR_TXD_LOW)
    | (_OTHER_CAUSES | ICR_OTHER)
    | (ICR_RXQ0 | ICR_RXQ1 | ICR_TXQ0 | ICR_TXQ1)
)
_ALL = 0xFFFFFFFF

_IVAR = ((ICR_RXQ0, 0), (ICR_RXQ1, 4), (ICR_TXQ0, 8), (ICR_TXQ1, 12), (ICR_OTHER, 16))
"""The causes of MSI-X, and where IVAR has the vector of each (§10.2.4.9)."""
_IVAR_VECTOR = 7
_IVAR_VALID = 1 << 3


class InterruptHost(Protocol):
    """The device, as its interrupts see it."""

    @property
    def values(self) -> dict[int, int]: ...

    @property
    def msix_enabled(self) -> bool: ...

    @property
    def msi_enabled(self) -> bool: ...

    def notify(self, vector: int, /) -> bool: ...

    def set_intx(self, level: bool, /) -> None: ...

    def report_interrupt(self, *, told: bool) -> None: ...

    def touched(self) -> None: ...


class MessageInterrupts(Interrupts):
    """ICR, ICS, IMS and IMC, with auto-clear and auto-mask."""

    def __init__(self, device: InterruptHost) -> None:
        super().__init__(lambda _: None)
        self._device = device

    def reset(self) -> None:
        self.cells[c.CAUSE] = self.cells[c.MASK] = 0
        self._device.set_intx(False)

    def tell_again(self) -> None:
        self._tell(0)

    def set(self, causes: int) -> None:
        before = self.cause & self.mask
        self.cells[c.CAUSE] |= causes
        self._tell(before)

    def enable(self, causes: int) -> None:
        before = self.cause & self.mask
        self.cells[c.MASK] |= causes & _MASKABLE
        self._tell(before)

    def disable(self, causes: int) -> None:
        self.cells[c.MASK] &= ~causes
        self._lowered()

    def clear(self, causes: int) -> None:
        """A write to ICR. Windows clears all that OTHER stands for by that bit (QEMU)."""
        if self.cause & ICR_ASSERTED:
            self._auto_mask()
        if causes & ICR_OTHER:
            causes |= _OTHER_CAUSES
        self.cells[c.CAUSE] &= ~causes
        self._lowered()

    def read(self) -> int:
        """A read of ICR clears it, but for MSI-X with causes that are all masked (QEMU: e1000e_mac_icr_read)."""
        cause, mask = self.cause, self.mask
        auto = bool(cause & ICR_ASSERTED and self._extension & r.CTRL_EXT_IAME)
        if not mask or cause & mask or auto or not self._device.msix_enabled:
            c.take(self.cells, c.CAUSE)
            if auto:
                self._auto_mask()
            self._lowered()
        return cause

    @property
    def _extension(self) -> int:
        return self._device.values.get(regs.CTRL_EXT, 0)

    def _auto_mask(self) -> None:
        if self._extension & r.CTRL_EXT_IAME:
            self.cells[c.MASK] &= ~self._device.values.get(r.IAM, 0)

    def _lowered(self) -> None:
        """Causes were cleared or masked."""
        if not self.cause & self.mask:
            self._device.set_intx(False)
        self._device.report_interrupt(told=False)

    def _tell(self, before: int) -> None:
        """Interrupt the guest for what is pending now and was not before."""
        device = self._device
        msix = device.msix_enabled
        cause = self.cause & ~ICR_ASSERTED
        if msix and cause & _OTHER_CAUSES:
            cause |= ICR_OTHER
        cause |= ICR_ASSERTED * (cause != 0)
        self.cells[c.CAUSE] = cause
        pending = cause & self.mask
        raised = pending & ~before
        link = ICR_OTHER if msix else regs.ICR_LSC
        told = bool(cause & regs.ICR_LSC and pending & link)
        if raised and msix:
            unsent = self._send(raised)
            told = told and not unsent & link
        elif raised and device.msi_enabled:
            told = device.notify(0) and told
        elif raised:
            device.set_intx(True)
        device.report_interrupt(told=told)

    def _send(self, raised: int) -> int:
        """Send the vectors of these causes; returns the causes that have none, or whose vector cannot be sent."""
        device = self._device
        values = device.values
        ivar, eiac, extension = values.get(r.IVAR, 0), values.get(r.EIAC, 0), self._extension
        unsent = 0
        for bit, shift in _IVAR:
            if not raised & bit:
                continue
            vector = ivar >> shift & _IVAR_VECTOR
            sent = ivar >> shift & _IVAR_VALID and vector < r.VECTORS and device.notify(vector)
            if not sent:
                unsent |= bit
            if extension & r.CTRL_EXT_EIAME and values.get(r.IAM, 0) & bit:
                values[r.IAM] &= ~bit & _ALL
                device.touched()
            if eiac & bit:
                self.cells[c.CAUSE] &= ~bit
                if not extension & r.CTRL_EXT_IAME:
                    self.cells[c.MASK] &= ~bit
        return unsent
