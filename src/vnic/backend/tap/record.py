"""The saved state of a tap apart from its descriptors. `tap.backend` and `tap.queue` save and restore it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.record import U16, U32, Record, require


class TapQueueRecord(Record, frozen=True):
    """The state of a TapQueue."""

    offloads: U32
    """What the kernel was told that it may leave undone."""
    paused_for: U16 | None
    """The queue of the peer that has no room."""
    sender_waits: bool


class TapRecord(Record, frozen=True):
    """The state of a TapBackend."""

    ifname: Annotated[str, msgspec.Meta(max_length=15)]
    vnet_hdr: bool
    info: str
    """The text of `info network`; "" is that of a descriptor that was passed."""
    comes_back: bool
    """An interface of that name is used again after this one was deleted."""
    script_running: bool
    carrier: bool | None
    """What the interface shows; None: it was not set yet."""
    queues: list[TapQueueRecord]
    """None at all: the interface was deleted."""

    def check_fields(self) -> None:
        require(self.queues or not self.script_running, "script_running", "without an interface")
        require(self.queues or self.carrier is None, "carrier", "without an interface")

    def check(self, queues: int, passed: int) -> None:
        """Raise RecordError if a tap of so many queues cannot be restored from it and so many descriptors."""
        count = len(self.queues)
        require(count in (0, queues), "queues", f"are {count}, not {queues}")
        require(count == passed, "queues", f"are {count}, and {passed} descriptors were passed")
