"""The link as the guest learns of it: the command GET_LINK, and the event ECR_LINK.

Drivers write GET_LINK to CMD and read the answer there, at their start and after each ECR_LINK. That read is what
"seen" means. The answer is the speed in Mbit/s above bit 16, and bit 0 while the link is up.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.net.report import LinkReport

_SPEED = 1000 << 16  # as QEMU's, also while the link is down


class Link:
    """`post` sets ECR_LINK and sends the event's interrupt. False: the driver has no event register."""

    def __init__(self, report: Callable[[], LinkReport], post: Callable[[], bool]) -> None:
        self._report = report
        self._post = post
        self.up = False
        self.posted = False
        """The driver has not acknowledged ECR_LINK."""

    def changed(self, up: bool) -> None:
        """QEMU's vmxnet3_set_link_status, which sets the event at every call, also if the link is what it was."""
        self.up, self.posted = up, True
        self._report().notified(up)
        if not self._post():
            self.acknowledged()

    def interrupted(self) -> None:
        """The interrupt of the events was sent."""
        if self.posted:
            self._report().interrupted()

    def acknowledged(self) -> None:
        """The driver cleared ECR_LINK, or will never see it."""
        self.posted = False
        if self._report().interrupt_owed:
            self._report().interrupt_acknowledged()

    def read(self) -> int:
        """The answer to GET_LINK: the guest has seen the link."""
        self._report().seen(self.up)
        return _SPEED | self.up
