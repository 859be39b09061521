"""What is kept of vnic-wire for a control that is started again: the program and, of each port, whose it is.

`process` and `kept_ports` save these records. `recall` reads those of the process before, and adds to a port's record
what vnic-wire returned, so that nothing is lost if it is killed itself.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from vnic.dataplane.wire.impair_messages import ImpairDirection
from vnic.dataplane.wire.messages import STATS_PORTS, Kind
from vnic.record import U8, U16, U32, U64, Record, require

KINDS = [int(kind) for kind in Kind]
COUNTERS = 7
"""Those of `Counts`."""


class FileRecord(Record, frozen=True):
    """Which file a program was started from."""

    device: U64
    inode: U64


class SocketRecord(Record, frozen=True):
    """A receiving socket of tunnels."""

    number: U32
    counters: bytes = b""
    """A SocketStats, once it is recalled."""


class WireRecord(Record, frozen=True):
    """The state of a WireProgram."""

    life: U32
    """Raised with each channel: ports and requests of another life have other names."""
    restarts: U32
    pid: U32
    """0: none runs."""
    protocol: U32 = 0
    """The version that it speaks; 0: its HELLO was not answered yet."""
    capabilities: U64 = 0
    features: U64 = 0
    protocol_features: U64 = 0
    workers: U32 = 1
    spin_us: U32 = 0
    file: FileRecord | None = None
    sockets: list[SocketRecord] = msgspec.field(default_factory=list)

    def check_fields(self) -> None:
        require(self.pid or not (self.protocol or self.sockets), "pid", "is 0, with the state of a program")


class WireHandles(NamedTuple):
    """What belongs to a WireRecord with a pid."""

    channel: int | None
    pidfd: int | None


class LineRecord(Record, frozen=True):
    """One direction of a port that vnic-wire impairs."""

    direction: U8
    """ImpairDirection."""
    lines: list[tuple[str, Literal["rx", "tx"]]]
    """The ids of the netem and of the faults, and the direction of each."""
    seen: Annotated[list[U64], msgspec.Meta(min_length=COUNTERS, max_length=COUNTERS)]
    """The counters that the lines have been credited with."""

    def check_fields(self) -> None:
        require(self.direction in list(ImpairDirection), "direction", f"is {self.direction}")
        require(self.lines, "lines", "are missing")


class ToldRecord(Record, frozen=True):
    """What vnic-wire has told of the other end of a tunnel."""

    heard: Annotated[int, msgspec.Meta(ge=0, le=2)]
    rdi: bool
    status: Annotated[int, msgspec.Meta(ge=0, le=7)]
    refused: bool
    silent_us: U64
    sequence: U32 | None


class FrameRecord(Record, frozen=True):
    """A frame that a recalled port had read."""

    queue: U16
    header: Annotated[bytes, msgspec.Meta(min_length=10, max_length=10)]
    frame: bytes


class PortRecord(Record, frozen=True):
    """One port: whose it is, and, once it is recalled, what it left."""

    number: U32
    kind: U8
    client: str
    type: Literal["netdev", "nic"]
    shared: U32 = 0
    """A tunnel's: the number of its receiving socket."""
    lines: list[LineRecord] = msgspec.field(default_factory=list)
    told: ToldRecord | None = None
    frames: list[FrameRecord] = msgspec.field(default_factory=list)
    last_frame: U32 = 0
    """The number of the last of them."""
    reply: bytes = b""
    """A RecallReply."""

    def check_fields(self) -> None:
        require(self.kind in KINDS, "kind", f"is {self.kind}")
        require(len(self.lines) <= len(ImpairDirection), "lines", f"are {len(self.lines)}")
        require(len(self.reply) <= STATS_PORTS, "reply", f"has {len(self.reply)} bytes")


class PortHandles(NamedTuple):
    memory: int | None
    """The StreamMemory of a stream."""


class PortFacts(NamedTuple):
    """What a port adds to its record."""

    kind: Kind
    memory: int | None = None
    shared: int = 0
    told: ToldRecord | None = None
