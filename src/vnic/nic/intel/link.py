"""The chip's link state: down, negotiating (500 ms), or up.

The device model reports the cable's state (the NIC's link in net/) and the guest's PHY commands. The link calls
`changed`, which sets the link-status-change interrupt, only if STATUS.LU changed or a negotiation completed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated

import msgspec

from vnic.net.clock import Scheduler, Timer
from vnic.nic.intel.phy import BMCR_POWER_DOWN, BMCR_RESTART, Phy
from vnic.record import Record, require

NEGOTIATION_SECONDS = 0.5
"""As QEMU's e1000x_restart_autoneg, by the host's clock."""


class LinkState(Enum):
    DOWN = "down"
    NEGOTIATING = "negotiating"
    UP = "up"


class LinkRecord(Record, frozen=True):
    carrier: bool
    state: LinkState
    remaining_seconds: Annotated[float, msgspec.Meta(ge=0, le=NEGOTIATION_SECONDS)] | None
    """Until a negotiation is done."""

    def check_fields(self) -> None:
        negotiates = self.state is LinkState.NEGOTIATING
        require(
            negotiates == (self.remaining_seconds is not None),
            "remaining_seconds",
            f"of a link {self.state.value}",
        )
        require(
            self.carrier or self.state is LinkState.DOWN, "state", f"is {self.state.value} without a carrier"
        )


class Link:
    """STATUS.LU and the PHY's link bits (QEMU: e1000_set_link_status and e1000_autoneg_timer).

    Down is at once. Up takes a negotiation unless the guest (or `autonegotiation=off`) turned that off. After a
    reset the link is up at once, without a negotiation done, until the driver starts one, if
    `starts_up` says so.
    """

    def __init__(
        self,
        phy: Phy,
        scheduler: Callable[[], Scheduler],
        changed: Callable[[], None],
        *,
        negotiate: bool = True,
    ) -> None:
        self._phy = phy
        self._scheduler = scheduler
        self._changed = changed
        self._negotiate = negotiate
        self.starts_up = True
        """After a reset the link is up at once; False: it is down until the driver starts a negotiation."""
        self._timer: Timer | None = None
        self._due = 0.0
        """When it is up, by the scheduler's clock."""
        self.carrier = False
        self.state = LinkState.DOWN
        self._enter(LinkState.DOWN)

    @property
    def up(self) -> bool:
        """STATUS.LU."""
        return self.state is LinkState.UP

    def set_carrier(self, carrier: bool) -> None:
        """The cable's state; a repeated state changes nothing."""
        self.carrier = carrier
        before = self.state
        if not carrier:
            self._enter(LinkState.DOWN)
        elif before is LinkState.DOWN:
            self._start()
        if (self.state is LinkState.UP) is not (before is LinkState.UP):
            self._changed()

    def phy_control(self, written: int) -> None:
        """The guest wrote BMCR: power down drops the link, power up and Restart start a negotiation, forcing ends it.

        A link loss that the guest causes raises no interrupt, only the return of the link does (QEMU).
        """
        if written & BMCR_POWER_DOWN:
            self._enter(LinkState.DOWN)
            return
        if self._negotiates:
            stale = written & BMCR_RESTART or self.state is LinkState.DOWN  # asked for, or powered up
        else:
            stale = self.state is not LinkState.UP
        if stale:
            self._restart()

    def phy_reset(self) -> None:
        """CTRL.PHY_RST reset the PHY: it starts a negotiation."""
        self._restart()

    def reset(self, carrier: bool) -> None:
        """Power-on or a bus reset; the PHY's registers have been reset already."""
        self.carrier = carrier
        self._enter(LinkState.UP if carrier and self.starts_up else LinkState.DOWN)

    def save(self) -> LinkRecord:
        remaining = None
        if self._timer is not None:
            remaining = min(max(self._due - self._scheduler().time(), 0.0), NEGOTIATION_SECONDS)
        return LinkRecord(carrier=self.carrier, state=self.state, remaining_seconds=remaining)

    def restore(self, record: LinkRecord) -> None:
        """The PHY's bits are in its own record."""
        self._cancel()
        self.carrier, self.state = record.carrier, record.state
        if record.remaining_seconds is not None:
            self._negotiate_for(record.remaining_seconds)

    def close(self) -> None:
        self._cancel()

    @property
    def _negotiates(self) -> bool:
        return self._negotiate and self._phy.autonegotiates

    def _restart(self) -> None:
        self._enter(LinkState.DOWN)
        if self.carrier:
            self._start()
            if self.up:
                self._changed()

    def _start(self) -> None:
        """There is a signal: negotiate, or go up at once if negotiation is off."""
        if self._phy.powered_down:
            return
        if not self._negotiates:
            self._enter(LinkState.UP)
            return
        self._enter(LinkState.NEGOTIATING)
        self._negotiate_for(NEGOTIATION_SECONDS)

    def _negotiate_for(self, seconds: float) -> None:
        scheduler = self._scheduler()
        self._due = scheduler.time() + seconds
        self._timer = scheduler.call_later(seconds, self._negotiated)

    def _negotiated(self) -> None:
        self._timer = None
        self._enter(LinkState.UP, negotiated=True)
        self._changed()

    def _enter(self, state: LinkState, negotiated: bool = False) -> None:
        self._cancel()
        self.state = state
        self._phy.show_link(state is LinkState.UP, negotiated)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
