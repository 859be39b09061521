"""The options of every filter, as Structs: the branches of QAPI's ObjectOptions (qapi/qom.json) that vnic has.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and the filters read them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import field

from vnic.net.filters import Direction, Insert
from vnic.net.netem.words import DEFAULT_LIMIT, U64, Distribution
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


class NetemOptions(NetFilterOptions, tag="netem", frozen=True, kw_only=True):
    """The parameters of tc-netem(8), in its words. Each direction has its own frames under way, and its own random
    numbers from `seed`; without a seed one is drawn. Frames of more than `max-frame` bytes are lost."""

    delay: str | None = None
    jitter: str | None = None
    delay_correlation: str | None = None
    distribution: Distribution | None = None
    loss: str | None = None
    loss_correlation: str | None = None
    duplicate: str | None = None
    duplicate_correlation: str | None = None
    corrupt: str | None = None
    corrupt_correlation: str | None = None
    reorder: str | None = None
    reorder_correlation: str | None = None
    gap: U32 | None = None
    rate: str | None = None
    limit: U32 = DEFAULT_LIMIT
    seed: U64 | None = None
    max_frame: U32 | None = None
