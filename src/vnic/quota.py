"""How many descriptors guests may have this process hold: one of them, and all together.

Each attachment joins when its client connects, and tells of the descriptors that its messages brought. What is held is
counted from the state of its engine, so that nothing has to be told of what was closed.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

GUEST_DESCRIPTORS: Final = 4096
"""More than any client needs: 256 rings, all that vhost-user can name, are 768; over vfio-user 2048 vectors of MSI-X
and 512 regions of memory, at two each, are 3072."""
MOST_FOR_EACH: Final = 2
"""Descriptors held for one that came: a region keeps its own, and one of its mapping."""


class TooManyDescriptors(Exception):
    """A guest would have this process hold more than it may; the text names both numbers."""


def soft_limit() -> int | None:
    """How many descriptors this process may have open (RLIMIT_NOFILE); None: there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Holding:
    """What one guest has us hold, from when it connects until the last of it is closed."""

    def __init__(self, quota: DescriptorQuota, name: str, count: Callable[[], int]) -> None:
        self._quota = quota
        self.name = name
        self.count = count
        self.most = 0
        """No less than `count` would tell, without the work."""

    def received(self, descriptors: int) -> None:
        """So many came, and are or will be held or closed. Raises TooManyDescriptors."""
        self.most += MOST_FOR_EACH * descriptors
        self._quota.check(self)

    def end(self) -> None:
        """Nothing is held any more."""
        self._quota.leave(self)


class DescriptorQuota:
    """The holdings of all guests, against the limits. These follow the process's own, which may change at any time."""

    def __init__(self, limit: Callable[[], int | None] = soft_limit) -> None:
        self._limit = limit
        self._holdings: list[Holding] = []

    def join(self, name: str, count: Callable[[], int]) -> Holding:
        """A guest at the NIC `name`; `count` tells how many descriptors are held for it."""
        holding = Holding(self, name, count)
        self._holdings.append(holding)
        return holding

    def leave(self, holding: Holding) -> None:
        self._holdings.remove(holding)

    @property
    def total(self) -> int | None:
        """What all guests may have us hold: a quarter of the limit is for what vnic opens itself (listeners, monitors,
        back-ends, children). None: there is no limit."""
        limit = self._limit()
        return None if limit is None else limit - limit // 4

    def held(self, name: str) -> int:
        """How many descriptors are held for the guest at the NIC `name`."""
        return sum(each.count() for each in self._holdings if each.name == name)

    def check(self, holding: Holding) -> None:
        """Raise TooManyDescriptors where `holding` is above the limit for one guest, or all are above theirs. They are
        counted only where they could be."""
        total = self.total
        share = GUEST_DESCRIPTORS if total is None else min(GUEST_DESCRIPTORS, total // 2)
        if holding.most > share:
            holding.most = holding.count()
            if holding.most > share:
                raise TooManyDescriptors(
                    f"{holding.most} descriptors are above the limit of {share} for one guest"
                )
        if total is None or sum(each.most for each in self._holdings) <= total:
            return
        for each in self._holdings:
            each.most = each.count()
        held = sum(each.most for each in self._holdings)
        if held > total:
            raise TooManyDescriptors(
                f"{holding.most} descriptors beside the {held - holding.most} of other guests are above the limit of"
                f" {total} for all guests"
            )


QUOTA: Final = DescriptorQuota()
"""A process has one limit."""
