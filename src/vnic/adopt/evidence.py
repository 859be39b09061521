"""What a guest agent's answers prove about the guest's view of a link: Reading and Evidence. Pure.

The device shows its link as a level: whenever the driver looks, it sees the present state. So a guest that showed one
state when the hypervisor did, and shows the other after the hypervisor has, and has counted a change, has seen it. An
agent that says what is not so, and says it consistently, cannot be told from one that does not lie: what is proven
is the guest's own word.
"""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """One consistent answer."""

    carrier: bool
    changes: int
    """The guest's count of changes (carrier_changes)."""
    boot: str
    """Another one for each boot of the guest."""


class NotProven(Exception):
    """An answer proves nothing; `str()` says why."""


class Evidence:
    """What was read of one NIC. `count` below is the number of times that the hypervisor has changed its link."""

    def __init__(self) -> None:
        self.baseline: Reading | None = None
        self._count = 0
        """The changes that the guest had seen at the baseline."""
        self._boot_count = 0
        """Those before the guest's boot."""
        self._proven: int | None = None
        """The last count at which the guest was proven to have seen the link."""
        self._given_up: int | None = None
        """A count at which that can no longer be proven: changes followed each other too fast."""

    def reset(self, count: int) -> None:
        """The guest boots anew: it will find the link as it is."""
        self.baseline = None
        self._boot_count = count
        self._proven = self._given_up = None

    def given_up(self, count: int) -> bool:
        return self._given_up == count

    def take(self, reading: Reading, expected: bool, count: int) -> bool:
        """Take an answer to a question that was asked, and answered, while the hypervisor showed `expected`, after
        `count` changes. Whether it proves that the guest has seen that. Raises NotProven where it never will."""
        before = self.baseline
        if before is None or before.boot != reading.boot:
            return self._take_first(reading, expected, count)
        if reading.changes < before.changes:
            self._rebase(reading, count)
            raise self._give_up(count, "its count of changes went back")
        if reading.carrier is not expected:
            return False
        sent = count - self._count
        seen = reading.changes - before.changes
        if sent and seen < sent:
            self._rebase(reading, count)
            raise self._give_up(count, f"it has counted {seen} of {sent} changes")
        self._rebase(reading, count)
        if sent:
            self._proven = count
        if self._proven != count:
            raise self._give_up(count, "it has counted no change since it was asked first")
        return True

    def _take_first(self, reading: Reading, expected: bool, count: int) -> bool:
        self._proven = None
        changes = count - self._boot_count
        if reading.carrier is not expected:
            self.baseline, self._count = reading, count - min(changes, 1)
            return False
        self._rebase(reading, count)
        if changes > 1:
            raise self._give_up(count, f"there were {changes} changes before it was asked first")
        self._proven = count
        return True

    def _rebase(self, reading: Reading, count: int) -> None:
        self.baseline, self._count = reading, count

    def _give_up(self, count: int, why: str) -> NotProven:
        self._given_up = count
        return NotProven(why)
