"""What a monitor is told of a link, each record typed once: causes, holds, changes, guests, query-links' entries.

`link.py` and `report.py` write them; the journal keeps them, and the monitor sends them as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

UpDown = Literal["up", "down"]
ClientType = Literal["nic", "netdev"]
OperState = Literal["up", "down", "lowerlayerdown"]


class HoldKind(StrEnum):
    """Why an end of a wire is down."""

    OPERATOR = "operator"
    """set_link, or `link=off` at the start."""
    DISCONNECTED = "disconnected"
    """The back-end's socket is not connected."""
    NO_PEER = "no-peer"
    """The NIC has no back-end, or its back-end was deleted."""
    FAR_END = "far-end"
    """The other end of a cable is down, or its VM is off."""
    UPLINK = "uplink"
    """A followed host interface is down."""


VNIC = "vnic"
"""The actor of what no client asked for: the command line, and vnic itself."""

CREATED = "created"
"""The kind of cause of a client's first record, when the client is created up."""


class Cause(msgspec.Struct, frozen=True):
    """Why a link changed: the kind of hold (or `created`), who placed or released it, and what for, in words."""

    kind: str
    by: str
    text: str


class Hold(msgspec.Struct, rename="kebab", frozen=True):
    """One reason that keeps a wire down: at which end, and since when."""

    client: str
    kind: HoldKind
    by: str
    text: str
    since: float
    """Seconds of wall-clock time. How long ago that is, only `monotonic-us` tells, for the clock may be set."""
    monotonic_us: int


class LinkChange(msgspec.Struct, rename="kebab", omit_defaults=True):
    """One record of the journal: a client's link went up or down. The steps are microseconds after the change."""

    id: int
    name: str
    type: ClientType
    link: UpDown
    cause: Cause
    time: float
    """Seconds of wall-clock time."""
    monotonic_us: int
    caused_by: int | None = None
    """The id of the change that this one follows from."""
    notified_us: int | None = None
    """The device model changed its status."""
    interrupt_us: int | None = None
    """The interrupt left for the guest."""
    seen_us: int | None = None
    """The guest's driver read the new status."""
    seen_latency_us: int | None = None
    """From the change (or from the guest's arrival, where that came later) to the guest's read."""


class ShownBy(StrEnum):
    """How a guest is shown its link."""

    DEVICE = "device"
    """It reads the link from its device, which is what `seen` tells of."""
    SOCKET = "socket"
    """Its socket is closed, and is there again: nothing tells whether it noticed."""


class GuestInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """What is known of the guest behind a NIC."""

    attached: bool
    driver_ok: bool
    seen: Literal["up", "down", "unknown"]
    """The link that the guest last read from the device."""
    seen_latency_us: int | None = None
    """How long it took to see the last change; absent: it has not seen it yet."""
    link_shown_by: ShownBy | None = None
    """Absent: it has not said yet, or there is none. A guest that was left to show the link down is still known."""


class LinkInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """One client of query-links. A NIC's `holds` are those of both ends of its wire, a netdev's its own: those that
    keep `link` down. A netdev's `guest` is that of the NIC on its wire."""

    name: str
    type: ClientType
    model: str
    link: UpDown
    operstate: OperState
    holds: list[Hold]
    carrier_changes: int
    carrier_up_changes: int
    carrier_down_changes: int
    last_change: LinkChange
    guest: GuestInfo
    peer: str | None = None
    mac: str | None = None


def link_word(up: bool) -> UpDown:
    """A link's state as records have it."""
    return "up" if up else "down"


class LinkChanged(msgspec.Struct, frozen=True):
    """The data of LINK_CHANGED: a link went up or down."""

    name: str
    link: UpDown
    id: int
    cause: Cause


class LinkSeen(msgspec.Struct, rename="kebab", frozen=True):
    """The data of LINK_SEEN: the guest read the new state from its device."""

    name: str
    link: UpDown
    id: int
    latency_us: int
