"""The data of vnic-wire's replies: what it says of itself, and the counters.

`process`, `ports` and `engine` parse it; the tests' fake packs it. `messages` has the rest of the channel.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

import msgspec

from vnic.dataplane.wire.layout import MessageError, fixed

_HELLO_REPLY: Final = struct.Struct("<IIQQQ")  # version, pid, capabilities, features, protocol features
_STATS: Final = struct.Struct("<II12Q")
assert _STATS.size == 104


class HelloReply(msgspec.Struct, frozen=True):
    version: int
    pid: int
    capabilities: int = 0
    features: int = 0
    """What each VHOST port answers to GET_FEATURES."""
    protocol_features: int = 0

    def pack(self) -> bytes:
        return _HELLO_REPLY.pack(
            self.version, self.pid, self.capabilities, self.features, self.protocol_features
        )

    @classmethod
    def parse(cls, data: bytes) -> HelloReply:
        return cls(*fixed(_HELLO_REPLY, data))


class PortStats(msgspec.Struct, frozen=True):
    """Counters of one port. Frames that come `in` come from its far end or guest; the last eight are drops by cause."""

    port: int
    queues: int = 1
    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    no_peer: int = 0
    no_room: int = 0
    filtered: int = 0
    too_long: int = 0
    too_short: int = 0
    bad_offload: int = 0
    broken: int = 0
    refused: int = 0
    causes: ClassVar[tuple[str, ...]] = (
        *("no_peer", "no_room", "filtered", "too_long", "too_short", "bad_offload", "broken", "refused"),
    )

    def pack(self) -> bytes:
        return _STATS.pack(*msgspec.structs.astuple(self))

    @classmethod
    def parse(cls, data: bytes) -> PortStats:
        return cls(*fixed(_STATS, data))

    @property
    def drops(self) -> dict[str, int]:
        """The drops by cause, without those that did not occur."""
        return {name.replace("_", "-"): getattr(self, name) for name in self.causes if getattr(self, name)}


class Stats(msgspec.Struct, frozen=True):
    ports: tuple[PortStats, ...] = ()

    def pack(self) -> bytes:
        return b"".join(each.pack() for each in self.ports)

    @classmethod
    def parse(cls, data: bytes) -> Stats:
        if len(data) % _STATS.size:
            raise MessageError(f"statistics of {len(data)} bytes")
        return cls(tuple(PortStats(*each) for each in _STATS.iter_unpack(data)))
