"""When the units of a NIC work.

`Turns` is for a transmit unit, `Polling` for rings of which the guest changes its memory only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import Plan, Shadow
from vnic.net.clock import Scheduler, Timer
from vnic.nic.unit import NicUnitHost


class FetchingUnitHost(NicUnitHost, Protocol):
    """The model, as those of its units see it that fetch by plans of their own what a VM does not share."""

    @property
    def shadow(self) -> Shadow | None:
        """Set while the VM does not share its memory: what is read has to be fetched before, what is written is on its
        way."""

    @property
    def scheduler(self) -> Scheduler: ...

    def fetch(self, unit: str, plan: Callable[[GuestMemory], Plan], work: Callable[[], None]) -> None:
        """Call `work` once `plan` has fetched what it reads; at once if the VM shares its memory."""


class Turns:
    """When a transmit unit works: at once if the guest asks for it, later in a turn of the loop of its own, and not
    while its frames wait at the peer."""

    def __init__(self, scheduler: Callable[[], Scheduler], begin: Callable[[], None]) -> None:
        """`begin` begins the unit's work for one turn, now or once what it needs is fetched."""
        self._scheduler = scheduler
        self._begin = begin
        self._timer: Timer | None = None
        self.paused = False
        """Frames wait at the peer."""

    def now(self) -> None:
        """The guest asks for work."""
        if not self.paused and self._timer is None:
            self._begin()

    def later(self) -> None:
        """There is work for another turn."""
        if self._timer is None:
            self._timer = self._scheduler().call_soon(self._turn)

    @property
    def waiting(self) -> bool:
        """There is work for another turn, or frames wait."""
        return self.paused or self._timer is not None

    def resume(self) -> None:
        """The peer took the waiting frames, or they are lost."""
        if self.paused:
            self.paused = False
            self.later()

    def cancel(self) -> None:
        self.paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._timer = None
        self.now()


class Polling:
    """`look` is called every so often, as long as it is `wanted`."""

    def __init__(
        self,
        scheduler: Callable[[], Scheduler],
        seconds: float,
        wanted: Callable[[], bool],
        look: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._seconds = seconds
        self._wanted = wanted
        self._look = look
        self._timer: Timer | None = None

    def begin(self) -> None:
        """It may be wanted from now on."""
        if self._timer is None and self._wanted():
            self._timer = self._scheduler().call_later(self._seconds, self.now)

    def now(self) -> None:
        """Look at once, and go on as long as it is wanted."""
        self.cancel()
        if self._wanted():
            self._look()
            self.begin()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
