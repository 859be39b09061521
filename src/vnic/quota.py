"""Limits on the descriptors that this process holds for guests: for one guest and for all together.

Each attachment joins when its client connects, and reports the descriptors that messages bring. The number held is
counted from the state of its engine, so that closed descriptors need no report.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

GUEST_DESCRIPTORS: Final = 4096
"""More than any client needs: 256 rings, all that vhost-user can name, are 768; over vfio-user 2048 vectors of MSI-X
and 512 regions of memory, at two each, are 3072."""
OPEN_FILES: Final = 1 << 17
"""The limit on open files that a start asks for."""
MOST_FOR_EACH: Final = 2
"""Descriptors held for one that arrived: a region keeps one, and its mapping another."""


class TooManyDescriptors(Exception):
    """A guest exceeds a limit on descriptors; the text names the number and the limit."""


def soft_limit() -> int | None:
    """The number of descriptors that this process may have open (RLIMIT_NOFILE); None: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def allow_open_files() -> None:
    """As many as may be had, within reason: the usual 1024 are less than one VM may have us open (512 regions of
    memory take two each), and all others would go without; 10 000 NICs take 90 000."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Holding:
    """The descriptors held for one guest, from its connection until the last one is closed."""

    def __init__(self, quota: DescriptorQuota, name: str, count: Callable[[], int]) -> None:
        self._quota = quota
        self.name = name
        self.count = count
        self.most = 0
        """An upper bound of `count`, without its cost."""

    def received(self, descriptors: int) -> None:
        """This number of descriptors arrived; they will be held or closed. Raises TooManyDescriptors."""
        self._quota.add(self, MOST_FOR_EACH * descriptors)

    def end(self) -> None:
        """No descriptor is held any more."""
        self._quota.leave(self)


class DescriptorQuota:
    """The holdings of all guests and their limits. The limits follow the process's limit, which may change."""

    def __init__(self, limit: Callable[[], int | None] = soft_limit) -> None:
        self._limit = limit
        self._holdings: dict[Holding, None] = {}
        self._most = 0
        """The sum of their upper bounds: that a descriptor arrives costs the same however many guests there are."""

    def join(self, name: str, count: Callable[[], int]) -> Holding:
        """A guest connects to the NIC `name`; `count` returns the number of descriptors held for it."""
        holding = Holding(self, name, count)
        self._holdings[holding] = None
        return holding

    def leave(self, holding: Holding) -> None:
        del self._holdings[holding]
        self._most -= holding.most

    @property
    def total(self) -> int | None:
        """The limit for all guests; a quarter of the process's limit is for vnic's own descriptors (listeners,
        monitors, back-ends, children). None: no limit."""
        limit = self._limit()
        return None if limit is None else limit - limit // 4

    def held(self, name: str) -> int:
        """The number of descriptors held for the guest at the NIC `name`."""
        return sum(each.count() for each in self._holdings if each.name == name)

    def _set_most(self, holding: Holding, most: int) -> None:
        self._most += most - holding.most
        holding.most = most

    def add(self, holding: Holding, descriptors: int) -> None:
        """Raise TooManyDescriptors if `holding` now exceeds the limit for one guest, or all exceed theirs. The exact
        count is made only if the upper bound exceeds a limit."""
        self._set_most(holding, holding.most + descriptors)
        total = self.total
        share = GUEST_DESCRIPTORS if total is None else min(GUEST_DESCRIPTORS, total // 2)
        if holding.most > share:
            self._set_most(holding, holding.count())
            if holding.most > share:
                raise TooManyDescriptors(
                    f"{holding.most} descriptors are above the limit of {share} for one guest"
                )
        if total is None or self._most <= total:
            return
        for each in self._holdings:
            self._set_most(each, each.count())
        held = self._most
        if held > total:
            raise TooManyDescriptors(
                f"{holding.most} descriptors beside the {held - holding.most} of other guests are above the limit of"
                f" {total} for all guests"
            )


QUOTA: Final = DescriptorQuota()
"""The only one: the limit is per process."""
