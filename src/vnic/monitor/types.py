"""The types of command results and event data that net/ returns as plain dicts: QAPI's.

query-qmp-schema uses them, and the tests check net/'s dicts against them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Info(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """A Struct that describes its dict completely."""


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
