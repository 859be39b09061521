"""Model: the unit `nic/NAME`, a NIC's device model as one record, and the order in which it is restored.

`nics` makes one beside each device, and `plug` has it kept or restores it from the record of the process before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from vnic.keep import Keep, Kept, NoHandles
from vnic.record import Record
from vnic.virtio.attachment import VirtioHandles

RingsBack = Callable[[VirtioHandles], None]
"""Restores the netdev that may have the guest's rings: when the guest's memory and eventfds are there, and before the
device."""


class Model(Protocol):
    """A device model as a unit."""

    @property
    def record(self) -> type[Record]:
        """The type of its record."""

    def save_kept(self) -> tuple[Record, NoHandles]: ...

    def keep_as(self, kept: Kept) -> None:
        """Tell `kept` of each change from now on."""

    def begin(self, keep: Keep, key: str) -> None:
        """The device is new."""

    def restore(self, record: Any, handles: Any, keep: Keep, key: str, rings_back: RingsBack) -> None:
        """Take the place of the model that was saved. `handles` are the attachment's, None without a VM. Raises
        RecordError."""
