"""Cuts the bytes of the control channel's messages into fields, each checked against its bounds.

`messages` and its neighbours, which hold the layouts, parse with it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any


class MessageError(Exception):
    """The other side sent what this version does not have: the channel is closed."""


def first(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    """The fields of `layout` at the start. MessageError if they are not all there."""
    if len(data) < layout.size:
        raise MessageError(f"{len(data)} bytes, {layout.size} are needed")
    return layout.unpack_from(data)


def fixed(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    """The fields of `layout`, which is the whole. Raises MessageError."""
    if len(data) != layout.size:
        raise MessageError(f"{len(data)} bytes instead of {layout.size}")
    return layout.unpack(data)


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """The parts of these lengths, which are the whole. Raises MessageError."""
    if sum(lengths) != len(data):
        raise MessageError(f"parts of {sum(lengths)} bytes in {len(data)}")
    parts, at = [], 0
    for length in lengths:
        parts.append(bytes(data[at : at + length]))
        at += length
    return parts
