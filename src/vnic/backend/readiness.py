"""What keeps a wire from being a cable with a guest at its end: for netdevs that show that to their other end.

`cable` holds the other end by it, and `tunnel` tells its peer in each CCM. `follow=` says what counts.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.follow import UNDECIDED, Undecided, hold_to_follow
from vnic.net.records import Hold, HoldKind, ShownBy

OPERATOR: Final = "operator"
ATTACHED: Final = "attached"
DRIVER: Final = "driver"
ADMIN: Final = "admin"
WORDS: Final = (OPERATOR, ATTACHED, DRIVER, ADMIN)
DEFAULT: Final = frozenset((OPERATOR, ATTACHED, DRIVER))
NONE: Final = "none"


def parse_follow(text: str | None) -> frozenset[str]:
    """`operator+driver` as a set; NetError for another word."""
    if text is None:
        return DEFAULT
    if text == NONE:
        return frozenset()
    words = text.split("+")
    if not set(words) <= set(WORDS):
        raise NetError(f"Parameter 'follow' expects '{NONE}', or some of '{'+'.join(WORDS)}', not '{text}'")
    return frozenset(words)


class Lack(enum.Enum):
    """What is missing at a wire; the value is the text behind the NIC's name."""

    HELD = "is held"
    NO_NIC = "no NIC is plugged in"
    NOT_ATTACHED = "its VM is not attached"
    DRIVER = "its driver is not ready"
    ADMIN = "its guest has the interface down"


class NotReady(NamedTuple):
    """Why a wire is not ready."""

    lack: Lack
    client: NetClient
    """The end of the wire at which it is missing."""
    hold: Hold | None = None
    """With HELD."""


def what_is_missing(
    wire: Sequence[NetClient], follow: frozenset[str], own: Sequence[NetClient]
) -> NotReady | Undecided | None:
    """What is missing at `wire`, whose first client is the netdev; None: it is ready.

    Holds that came by way of the wire `own`, and holds by a far end, do not count: no circle is to keep itself down.
    """
    if OPERATOR in follow:
        hold = hold_to_follow(wire, own, but=HoldKind.FAR_END)
        if hold is not None:
            return NotReady(Lack.HELD, next(end for end in wire if hold.client == end.name), hold)
    if len(wire) == 1:
        return NotReady(Lack.NO_NIC, wire[0]) if ATTACHED in follow else None
    nic = wire[1]
    lack = _guest_lacks(nic, follow) if isinstance(nic, Nic) else None
    return NotReady(lack, nic) if isinstance(lack, Lack) else lack


def _guest_lacks(nic: Nic, follow: frozenset[str]) -> Lack | Undecided | None:
    """What the guest of a NIC lacks.

    Some guests see their link by their socket, which is closed while it is down: whether they are there is then not
    known. They count as ready until they leave by themselves: two of them, one at each end, would otherwise wait for
    each other.
    """
    guest = nic.guest
    if guest.link_shown_by is ShownBy.HYPERVISOR:  # which does not tell of the driver
        return Lack.ADMIN if ADMIN in follow and guest.admin_down else None
    if guest.link_shown_by is not ShownBy.SOCKET:
        if ATTACHED in follow and not guest.attached:
            return Lack.NOT_ATTACHED
        if guest.attached and guest.link_shown_by is None and not guest.driver_ok:
            return UNDECIDED if follow & {DRIVER, ADMIN} else None
        if follow & {DRIVER, ADMIN} and not guest.driver_ok and not guest.admin_down:
            return Lack.DRIVER
    if ADMIN in follow and guest.admin_down:
        return Lack.ADMIN
    return None
