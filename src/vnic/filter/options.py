"""The options of every filter, as Structs: the branches of QAPI's ObjectOptions (qapi/qom.json) that vnic has.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and the filters read them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import field

from vnic.net.filters import Direction, Insert
from vnic.net.objects import ObjectOptions

U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class NetFilterOptions(ObjectOptions, frozen=True, kw_only=True):
    """The options that all filters share (NetfilterProperties); `status` is a string there, too."""

    netdev: str
    queue: Direction = Direction.ALL
    status: str = "on"
    position: str = "tail"
    insert: Insert = Insert.BEHIND


class BufferOptions(NetFilterOptions, tag="filter-buffer", frozen=True, kw_only=True):
    """`interval` is in microseconds."""

    interval: U32


class DumpOptions(NetFilterOptions, tag="filter-dump", frozen=True, kw_only=True):
    """`maxlen` is the most bytes to keep of a frame."""

    file: str
    maxlen: U32 = 65536


class MirrorOptions(NetFilterOptions, tag="filter-mirror", frozen=True, kw_only=True):
    outdev: str
    vnet_hdr_support: bool = field(default=False, name="vnet_hdr_support")


class RedirectorOptions(NetFilterOptions, tag="filter-redirector", frozen=True, kw_only=True):
    indev: str | None = None
    outdev: str | None = None
    vnet_hdr_support: bool = field(default=False, name="vnet_hdr_support")


class ReplayOptions(NetFilterOptions, tag="filter-replay", frozen=True, kw_only=True):
    """It has no further options."""
