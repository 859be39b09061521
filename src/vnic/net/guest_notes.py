"""GuestNotes: the records of the journal that say when a NIC's guest came and went; `LinkReport` writes them.

A guest decides how often it does so, and must not push the rest of the history out of the journal: of many records in a
short time, the later ones are left out.
"""

from __future__ import annotations

from typing import Final

from vnic.net.clock import Clock
from vnic.net.journal import Journal
from vnic.net.records import NoteKind

NOTES_MAX: Final = 20
NOTES_PERIOD_US: Final = 10_000_000
"""The most records about one guest in a period."""


class GuestNotes:
    """Those of one NIC."""

    def __init__(self, nic: str, clock: Clock, journal: Journal) -> None:
        self._nic = nic
        self._clock = clock
        self._journal = journal
        self._began_us = -NOTES_PERIOD_US
        self._notes = 0
        self._left_out = 0

    def attached(self, attached: bool) -> None:
        """A VM attached or detached."""
        if attached:
            self._note("attached", "a VM attached")
        else:
            self._note("detached", "the VM detached")

    def driver(self, ready: bool) -> None:
        """The driver started or stopped the device."""
        if ready:
            self._note("driver-ready", "the guest's driver started the device")
        else:
            self._note("driver-gone", "the guest's driver stopped the device")

    def _note(self, event: str, text: str) -> None:
        now_us = self._clock.monotonic_ns() // 1000
        if now_us - self._began_us >= NOTES_PERIOD_US:
            self._began_us, self._notes = now_us, 0
        self._notes += 1
        if self._notes > NOTES_MAX:
            self._left_out += 1
            return
        details = {"left-out": self._left_out} if self._left_out else None
        if self._left_out:
            text += f" ({self._left_out} records of this guest were left out before)"
            self._left_out = 0
        self._journal.note(NoteKind.GUEST, event, text, name=self._nic, details=details)
