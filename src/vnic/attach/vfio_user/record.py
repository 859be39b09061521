"""The records of a vfio-user attachment and of the VM's session, and the descriptors that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vnic.attach.attachment import AttachmentRecord
from vnic.attach.vfio_user.irq_record import EventfdIrqsRecord
from vnic.memory.map_record import MemoryMapRecord
from vnic.protocol.frames import FrameAssemblerRecord
from vnic.protocol.vfio_user.server_record import ServerRecord
from vnic.record import Record, require
from vnic.sockets.listener import ListeningHandles


class VfioUserSessionRecord(Record, frozen=True):
    """A VM that is served, between two steps of its messages: how far these are is in cells (`progress`)."""

    server: ServerRecord
    memory: MemoryMapRecord
    shared: bool | None
    """Whether the VM shares its memory; None: that is not known yet."""
    irqs: EventfdIrqsRecord
    begun: FrameAssemblerRecord
    """The beginning of a message that was taken from the socket."""


class VmHandles(NamedTuple):
    """The descriptors of a VM."""

    sock: int
    outbox: int
    memory: Sequence[int]
    irqs: Sequence[int]
    begun: Sequence[int]


class VfioUserAttachmentRecord(Record, frozen=True):
    """A VfioUserAttachment. A VM that is leaving is not in it."""

    attachment: AttachmentRecord
    session: VfioUserSessionRecord | None

    def check_fields(self) -> None:
        attached = self.attachment.state == "attached"
        require(attached is (self.session is not None), "session", "does not go with the state")


class VfioUserAttachmentHandles(NamedTuple):
    """The descriptors of a VfioUserAttachment."""

    listening: ListeningHandles | None
    vm: VmHandles | None
    waiting: int | None
    """The connection of the next VM."""
