"""The saved state of a `BackendEngine`: what the front-end negotiated, memory and rings, the messages that wait.

`backend` saves and restores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vnic.memory.map_record import MemoryMapRecord
from vnic.protocol.frames import MessageQueueRecord, MessageRecord
from vnic.protocol.vhost_user.notices import ConfigNoticesRecord
from vnic.protocol.vhost_user.ring import RingFds
from vnic.protocol.vhost_user.rings import DeviceRingsRecord
from vnic.record import U64, Record, require


class BackendHandles(NamedTuple):
    """The descriptors of an engine. All but those of memory are the engine's after `restore`."""

    request: int | None
    """The channel for back-end requests."""
    memory: Sequence[int]
    """The files of the regions, in order; the regions duplicate them."""
    rings: Sequence[RingFds]
    messages: Sequence[Sequence[int]]
    """As `MessageQueue.fds`."""


class BackendEngineRecord(Record, frozen=True):
    """The state of a BackendEngine between two turns of the loop."""

    protocol_features: U64
    promised: U64
    """All features that were offered on this connection."""
    notices: ConfigNoticesRecord
    request_channel: bool
    memory: MemoryMapRecord
    rings: DeviceRingsRecord
    messages: MessageQueueRecord
    working: MessageRecord | None
    """The message in progress, which waits for a back-end to return rings."""

    def check_fields(self) -> None:
        for at, region in enumerate(self.memory.regions):
            is_file = region.kind == "file" and region.user_addr is not None
            require(is_file, f"memory.regions[{at}].kind", "is not that of a vhost-user region")

    def check(self, offered: int, handles: BackendHandles) -> None:
        """Raise RecordError if an engine that offers these protocol features cannot be restored from it."""
        surplus = self.protocol_features & ~offered
        require(not surplus, "protocol_features", f"has {surplus:#x}, which is not offered")
        told = self.request_channel
        missing = "no" if told else "a"
        fits = told is (handles.request is not None)
        require(fits, "request_channel", f"is {told}, and {missing} descriptor was passed")
