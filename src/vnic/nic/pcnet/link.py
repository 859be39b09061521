"""The link status of the chip, as drivers read it: LNKST in the registers of the LEDs (BCR4 to BCR7).

The chip has no interrupt for it. Its drivers poll: Linux's pcnet32 reads BCR4 every two seconds and takes the link for
up unless it reads 00C0h, so that "seen" is a read of an LED's register that shows the link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vnic.nic.pcnet import registers as r

LED_REGISTERS: Final = range(r.LNKST, r.LNKST + 4)
_LEDOUT: Final = 0x8000
"""The LED is on: one of the events that the register enables is there."""
_LNKSTE: Final = 0x0040


class LinkStatus:
    """Whether there are link pulses on the wire. `seen` is called with what a guest reads."""

    def __init__(self, seen: Callable[[bool], None]) -> None:
        self.up = False
        self._seen = seen

    def read_led(self, value: int) -> int:
        """A guest reads an LED's register, of which `value` is stored."""
        if not value & _LNKSTE:
            return value & ~_LEDOUT  # the events of receive and transmit are too short to be seen
        self._seen(self.up)
        return value & ~_LEDOUT | _LEDOUT * self.up

    def lost(self, mode: int, mc: int) -> bool:
        """Whether a frame that is sent finds no carrier (LCAR): it goes to the wire, and the link is down."""
        inside = mode & r.LOOP and (mode & r.INTL or mc & r.TMAULOOP)
        return not self.up and not inside
