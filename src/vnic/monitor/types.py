"""The types of what commands return and events carry, where net/ hands out plain dicts: QAPI's and vnic's own.

They serve query-qmp-schema, and the tests hold what net/ says against them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

UpDown = Literal["up", "down"]


class _Info(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """A Struct that must describe its dict completely."""


class Cause(_Info):
    """Why a link changed: the kind of hold, who placed or released it, and what for, in words."""

    kind: str
    by: str
    text: str


class Hold(_Info):
    """One reason that keeps a wire down: at which end, and since when (seconds of wall-clock time, and by
    CLOCK_MONOTONIC)."""

    client: str
    kind: str
    by: str
    text: str
    since: float
    monotonic_us: int


class LinkChange(_Info):
    """One record of the journal; the steps are microseconds after the change."""

    id: int
    name: str
    type: Literal["nic", "netdev"]
    link: UpDown
    cause: Cause
    time: float
    monotonic_us: int
    caused_by: int | None = None
    notified_us: int | None = None
    interrupt_us: int | None = None
    seen_us: int | None = None
    seen_latency_us: int | None = None


class GuestInfo(_Info):
    """What is known of the guest behind a NIC."""

    attached: bool
    driver_ok: bool
    seen: Literal["up", "down", "unknown"]
    seen_latency_us: int | None = None
    link_shown_by: Literal["device", "socket"] | None = None
    """socket: the guest sees its link only by its socket being closed and coming back, so `seen` stays unknown."""


class LinkInfo(_Info):
    """One client of query-links."""

    name: str
    type: Literal["nic", "netdev"]
    model: str
    link: UpDown
    operstate: Literal["up", "down", "lowerlayerdown"]
    holds: list[Hold]
    carrier_changes: int
    carrier_up_changes: int
    carrier_down_changes: int
    last_change: LinkChange
    guest: GuestInfo
    peer: str | None = None
    mac: str | None = None


RxState = Literal["normal", "none", "all"]


class RxFilterInfo(_Info):
    """QAPI's RxFilterInfo."""

    name: str
    promiscuous: bool
    multicast: RxState
    unicast: RxState
    vlan: RxState
    broadcast_allowed: bool
    multicast_overflow: bool
    unicast_overflow: bool
    main_mac: str
    vlan_table: list[int]
    unicast_table: list[str]
    multicast_table: list[str]


# -- addresses, as events name them (qapi/sockets.json) -----------------------------------------------------------


class InetSocketAddress(_Info, tag_field="type", tag="inet"):
    host: str
    port: str
    numeric: bool | None = None
    to: int | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    keep_alive: bool | None = None


class UnixSocketAddress(_Info, tag_field="type", tag="unix"):
    path: str
    abstract: bool | None = None
    tight: bool | None = None


class VsockSocketAddress(_Info, tag_field="type", tag="vsock"):
    cid: str
    port: str


class FdSocketAddress(_Info, tag_field="type", tag="fd"):
    name: str = msgspec.field(name="str")


SocketAddress = InetSocketAddress | UnixSocketAddress | VsockSocketAddress | FdSocketAddress
