"""The control channel's messages for a control that was started again: it stops all frames, has each port back with all
that it did, and gives the delay lines to the ports that follow.

`messages` parses them with all others, and `recall` and `impairments` make them. `program/protocol.h` has the same as
C structs.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

import msgspec

from vnic.dataplane.wire.impair_messages import ImpairDirection, ImpairReply
from vnic.dataplane.wire.layout import MessageError, first, fixed
from vnic.dataplane.wire.replies import PortStats
from vnic.dataplane.wire.tunnel_messages import TunnelState, TunnelStats

_U32: Final = struct.Struct("<I")
_NONE: Final = struct.Struct("")
_TAKE: Final = struct.Struct("<III")  # port, direction, of
_KIND: Final = struct.Struct("<II")  # kind, lines; behind the port's statistics
_LINE: Final = struct.Struct("<I4x")  # direction; then an ImpairReply
_STATS_BYTES: Final = 104
_STATE_BYTES: Final = 56
_TUNNEL_STATS_BYTES: Final = 80
_REPLY_BYTES: Final = 96
_TUNNEL: Final = 6
"""Kind.TUNNEL."""


class Hold(msgspec.Struct, frozen=True):
    """Remove all wires at once. Their ports send nothing until they are in another one, or are removed."""

    type: ClassVar[int] = 17

    def body(self) -> bytes:
        return b""

    @classmethod
    def parse(cls, body: bytes) -> Hold:
        fixed(_NONE, body)
        return cls()


class PortRecall(msgspec.Struct, frozen=True):
    """As PortRemove, for a control that does not know what the port has done. The reply is a RecallReply; the frames
    under way in the port's lines are kept."""

    type: ClassVar[int] = 18
    port: int

    def body(self) -> bytes:
        return _U32.pack(self.port)

    @classmethod
    def parse(cls, body: bytes) -> PortRecall:
        return cls(*fixed(_U32, body))


class LineTake(msgspec.Struct, frozen=True):
    """Give `port` the line that was kept of the port `of`, with the frames under way. Impair follows. ENOENT: there is
    none."""

    type: ClassVar[int] = 22
    port: int
    direction: ImpairDirection
    of: int

    def body(self) -> bytes:
        return _TAKE.pack(self.port, self.direction, self.of)

    @classmethod
    def parse(cls, body: bytes) -> LineTake:
        port, number, of = fixed(_TAKE, body)
        return cls(port, _direction(number), of)


class LinesDrop(msgspec.Struct, frozen=True):
    """End all lines that are still kept; what is under way there is lost."""

    type: ClassVar[int] = 23

    def body(self) -> bytes:
        return b""

    @classmethod
    def parse(cls, body: bytes) -> LinesDrop:
        fixed(_NONE, body)
        return cls()


class RecallReply(msgspec.Struct, frozen=True):
    """All that a port has done."""

    stats: PortStats
    kind: int
    tunnel: TunnelState | None = None
    tunnel_stats: TunnelStats | None = None
    lines: tuple[tuple[ImpairDirection, ImpairReply], ...] = ()

    def pack(self) -> bytes:
        parts = [self.stats.pack(), _KIND.pack(self.kind, len(self.lines))]
        if self.tunnel is not None and self.tunnel_stats is not None:
            parts += [self.tunnel.pack(), self.tunnel_stats.pack()]
        for direction, reply in self.lines:
            parts += [_LINE.pack(direction), reply.pack()]
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> RecallReply:
        """Raises MessageError."""
        stats = PortStats.parse(data[:_STATS_BYTES])
        kind, count = first(_KIND, data[_STATS_BYTES:])
        rest = data[_STATS_BYTES + _KIND.size :]
        tunnel = counters = None
        if kind == _TUNNEL:
            tunnel = TunnelState.parse(rest[:_STATE_BYTES])
            counters = TunnelStats.parse(rest[_STATE_BYTES : _STATE_BYTES + _TUNNEL_STATS_BYTES])
            rest = rest[_STATE_BYTES + _TUNNEL_STATS_BYTES :]
        size = _LINE.size + _REPLY_BYTES
        if count > len(ImpairDirection) or len(rest) != count * size:
            raise MessageError(f"{count} lines in {len(rest)} bytes")
        lines = []
        for at in range(0, len(rest), size):
            (number,) = _LINE.unpack_from(rest, at)
            lines.append((_direction(number), ImpairReply.parse(rest[at + _LINE.size : at + size])))
        return cls(stats, kind, tunnel, counters, tuple(lines))


def _direction(number: int) -> ImpairDirection:
    if number not in list(ImpairDirection):
        raise MessageError(f"direction {number}")
    return ImpairDirection(number)
