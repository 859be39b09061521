"""When control is started again after its death, and when that is given up. Sans-IO: times are the caller's."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 1.0
"""The pauses: none after the first death, then one that doubles from the first of these to the second. QEMU gives up a
vfio-user device that has not answered for 5 s (x-msg-timeout=), the start included."""

FAILED_PAUSE_MAX_S: Final = 5.0
"""The second one where control does not come up."""

WELL_S: Final = 1.0
"""A control that was set up and lived for that long ends the series of deaths."""

ANEW_AFTER: Final = 3
"""After so many starts in a row that did not come up, the next one gets none of the stored descriptors: links that go
down are better than no vnic."""

GIVE_UP_AFTER: Final = 6


class Restarts:
    """The deaths of control in a row."""

    def __init__(self) -> None:
        self._deaths = 0
        self._failures = 0
        """Deaths before READY=1."""

    def died(self, lived_s: float | None, *, killed: bool = False) -> float | None:
        """`lived_s`: since it was set up; None if it never was. `killed`: by SIGKILL, and not by the supervisor; that
        tells nothing of whether it would have come up. Returns the pause before the next start; None: give up."""
        if lived_s is None:
            self._failures += not killed
        else:
            self._failures = 0
            if lived_s >= WELL_S:
                self._deaths = 0
        self._deaths += 1
        if self._failures >= GIVE_UP_AFTER:
            return None
        if self._deaths == 1:
            return 0.0
        most = FAILED_PAUSE_MAX_S if self._failures else PAUSE_MAX_S
        return min(FIRST_PAUSE_S * 2.0 ** (min(self._deaths, 64) - 2), most)

    @property
    def anew(self) -> bool:
        """Whether the next start is to get nothing that was stored."""
        return self._failures >= ANEW_AFTER
