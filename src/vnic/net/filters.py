"""Filters on a netdev: which frames one sees, in what order, and how it sends on what it took (QEMU's net/filter.c).

`vnic.filter` derives the filters of `-object filter-…` from Filter; NetClient.send runs them.
"""

from __future__ import annotations

import enum


class Direction(enum.StrEnum):
    """The `queue=` of a filter, as the netdev sees it (NetFilterDirection of qapi/net.json)."""

    ALL = "all"
    RX = "rx"
    """What the netdev receives: the guest sent it."""
    TX = "tx"
    """What the netdev sends: the guest will receive it."""
