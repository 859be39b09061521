"""The state of the device's end of a vfio-user connection as a record, and its bounds.

`server.Server` saves it and is restored from it.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from vnic.lifecycle import Moves
from vnic.protocol.vfio_user import messages as m
from vnic.record import U16, U32, U64, Record, RecordError, require

MAX_DMA_REQUESTS: Final = 256
"""Limit on DMA requests in flight."""


class ServerState(enum.Enum):
    """The state of a connection."""

    NEGOTIATING = "negotiating"  # only VERSION may come
    SERVING = "serving"
    FAILED = "failed"  # a ProtocolError was raised; nothing more is taken


MOVES: Final[Moves[ServerState]] = {
    ServerState.NEGOTIATING: frozenset({ServerState.SERVING, ServerState.FAILED}),
    ServerState.SERVING: frozenset({ServerState.FAILED}),
    ServerState.FAILED: frozenset(),
}


class WriteRecord(Record, frozen=True):
    """One write of a REGION_WRITE_MULTI."""

    region: U32
    offset: U64
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=8)]


class RequestRecord(Record, frozen=True):
    """A DMA request that the client has not answered."""

    ident: U16
    command: U16
    count: U32


class ServerRecord(Record, frozen=True):
    """A connection between two steps."""

    state: ServerState
    capabilities: Annotated[bytes, msgspec.Meta(max_length=m.MAX_PAYLOAD)]
    """What the client said of itself, as JSON."""
    next_id: U16
    requests: Annotated[list[RequestRecord], msgspec.Meta(max_length=MAX_DMA_REQUESTS)]
    writes: Annotated[list[WriteRecord], msgspec.Meta(max_length=m.MAX_WRITES)]
    reply: bytes | None
    """The answer to the message that these writes are of."""

    def check_fields(self) -> None:
        require(self.writes or self.reply is None, "reply", "is of a message that was carried out")
        try:
            said = msgspec.json.decode(self.capabilities)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise RecordError("capabilities", str(error)) from None
        require(isinstance(said, dict), "capabilities", "are no object")
        idents = {each.ident for each in self.requests}
        require(len(idents) == len(self.requests), "requests", "have one id twice")
