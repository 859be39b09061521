"""Holds: the named reasons that keep a wire down, and the causes behind a change.

QEMU keeps one flag, `link_down`, so that whoever writes last wins; here every reason is kept by itself and
`link_down` is `bool(holds)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
"""Who did what nobody asked for while it ran: the command line, and vnic itself."""

CREATED = "created"
"""The cause kind of a client's first record, when it is born up."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Who did what, for a person: `kind` is a HoldKind (or `created`), `by` an actor, `text` a sentence part."""

    kind: str
    by: str
    text: str

    def to_dict(self) -> dict[str, object]:
        return {"kind": str(self.kind), "by": self.by, "text": self.text}


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason that is in force, since `since_ns` of wall-clock time, which is `monotonic_ns` by the other clock."""

    kind: HoldKind
    by: str
    text: str
    since_ns: int
    monotonic_ns: int

    def to_dict(self, client: str) -> dict[str, object]:
        """The member of query-links' `holds`; `since` is wall-clock seconds; how long ago that is, only
        `monotonic-us` tells, for the wall clock may be set."""
        return {
            "client": client,
            "kind": str(self.kind),
            "by": self.by,
            "text": self.text,
            "since": self.since_ns / 1e9,
            "monotonic-us": self.monotonic_ns // 1000,
        }
