"""The link as the chip sees it: no signal, negotiating, or up; and the 500 ms between the last two.

The device model tells of the cable (the NIC's link in net/) and of what the guest asks of the PHY; the
link-status-change interrupt is raised through `changed`, only where STATUS.LU changed or negotiation was completed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from vnic.net.clock import Timer
from vnic.nic.intel.phy import BMCR_POWER_DOWN, BMCR_RESTART, Phy

NEGOTIATION_SECONDS = 0.5
"""As QEMU's e1000x_restart_autoneg; the guest's clock is ours."""


class LinkState(Enum):
    DOWN = "down"
    NEGOTIATING = "negotiating"
    UP = "up"


class Link:
    """STATUS.LU and the PHY's link bits (QEMU: e1000_set_link_status and e1000_autoneg_timer).

    Down is at once. Up takes a negotiation unless the guest (or `autonegotiation=off`) turned that off. After a
    reset the link is up at once, without a negotiation done, until the driver starts one.
    """

    def __init__(
        self,
        phy: Phy,
        call_later: Callable[[float, Callable[[], None]], Timer],
        changed: Callable[[], None],
        *,
        negotiate: bool = True,
    ) -> None:
        self._phy = phy
        self._call_later = call_later
        self._changed = changed
        self._negotiate = negotiate
        self._timer: Timer | None = None
        self.carrier = False
        self.state = LinkState.DOWN
        self._enter(LinkState.DOWN)

    @property
    def up(self) -> bool:
        """STATUS.LU."""
        return self.state is LinkState.UP

    def set_carrier(self, carrier: bool) -> None:
        """The cable's end: a repetition changes nothing."""
        self.carrier = carrier
        was_up = self.up
        if not carrier:
            self._enter(LinkState.DOWN)
        elif self.state is LinkState.DOWN:
            self._start()
        if self.up != was_up:
            self._changed()

    def phy_control(self, written: int) -> None:
        """The guest wrote BMCR: power down loses the link, power up and Restart negotiate anew, forcing ends it.

        What the guest does to its own link raises no interrupt when the link goes, only when it is back (QEMU).
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
        """The PHY was reset by CTRL.PHY_RST: it negotiates anew."""
        self._restart()

    def reset(self, carrier: bool) -> None:
        """Power-on or a bus reset; the PHY's registers have been reset already."""
        self.carrier = carrier
        self._enter(LinkState.UP if carrier else LinkState.DOWN)

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
        """There is a signal: negotiate, or be up where that is off."""
        if self._phy.powered_down:
            return
        if not self._negotiates:
            self._enter(LinkState.UP)
            return
        self._enter(LinkState.NEGOTIATING)
        self._timer = self._call_later(NEGOTIATION_SECONDS, self._negotiated)

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
