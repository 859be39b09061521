"""What `query-tunnels` and `vnic tunnel` show of a tunnel, with its counters. The key is not part of it."""

from __future__ import annotations

from typing import Final, Literal, Self

import msgspec

from vnic.protocol.cfm.ccm import StatusWord


class Counters(msgspec.Struct, rename="kebab"):
    """Numbers that only grow."""

    def plus(self, other: Self) -> Self:
        """The sums."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return type(self)(*(one + two for one, two in pairs))


class TunnelCounters(Counters, rename="kebab"):
    """The CCMs of a tunnel, and the datagrams that were dropped, by cause."""

    ccm_sent: int = 0
    ccm_received: int = 0
    """Those that were taken."""
    wrong_level: int = 0
    """CCMs of a lower level."""
    wrong_maid: int = 0
    wrong_mep: int = 0
    """CCMs, or datagrams with a key, that have this end's own id."""
    bad_ccm: int = 0
    """Malformed ones."""
    old_sequence: int = 0
    """CCMs that are no newer than the last one."""
    bad_key: int = 0
    """Datagrams that the key does not authenticate."""
    replayed: int = 0
    truncated: int = 0
    """Too short for a frame or for the key's trailer."""


TROUBLES: Final = {
    "wrong_level": "continuity frames of a lower level than level= come",
    "wrong_maid": "CCMs of another maintenance association come (md=, ma=)",
    "wrong_mep": "CCMs or datagrams with this end's own MEP id come: frames come back, or both ends have the same mep=",
    "bad_ccm": "malformed CCMs come",
    "old_sequence": "CCMs come that are repeated or too late",
    "bad_key": "datagrams come that key= does not authenticate",
    "replayed": "datagrams come that were received before, or too late",
    "truncated": "datagrams come that are too short",
}
"""One log line for each counter, the first time."""


class SocketCounters(Counters, rename="kebab"):
    """The datagrams of a UDP port that belong to no tunnel, by cause."""

    unknown_vni: int = 0
    unknown_source: int = 0
    """Of a VNI that a tunnel has, and not from its remote address."""
    truncated: int = 0
    """Too short for a VXLAN header."""
    not_vxlan: int = 0
    """The header has no VNI."""


class RemoteInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """What CCMs tell of the other end."""

    heard: Literal["never", "yes", "lost"]
    silent_us: int | None = None
    """The time since its last CCM, or since the start. Absent while vnic-wire hears it, which tells only of a loss."""
    rdi: bool = False
    """It hears nothing from here."""
    refused: bool = False
    """Its host has said that nothing listens on the port."""
    status: StatusWord | None = None
    """Absent if it has not told."""
    mep: int | None = None


class CcmInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """The continuity check of a tunnel."""

    mode: Literal["on", "auto"]
    interval_us: int
    level: int
    mep: int
    status: StatusWord
    """This end's interface status, as its CCMs tell it."""
    rdi: bool
    """This end hears nothing, as its CCMs tell."""
    remote: RemoteInfo


class TunnelInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    """One tunnel. Without `ccm` it is a plain VXLAN tunnel."""

    name: str
    local: str
    remote: str
    vni: int
    key: bool
    """Whether datagrams are authenticated."""
    counters: TunnelCounters
    socket: SocketCounters
    """Of the UDP port, which tunnels with the same local address share."""
    path: Literal["python", "wire"]
    """Who has the tunnel's sockets and makes its CCMs: this process, or vnic-wire."""
    mtu: int | None = None
    ccm: CcmInfo | None = None
