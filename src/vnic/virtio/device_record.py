"""The saved state that all virtio devices share; `VirtioDevice` saves and restores it. The VM is not part of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from vnic.lifecycle import Moves
from vnic.memory.guest import GuestMemory
from vnic.record import U8, U16, U64, Record, require, within
from vnic.virtio.queue import SplitQueue
from vnic.virtio.queue_record import QueueRecord


class DataPath(enum.Enum):
    """The data path of the device's data rings."""

    OFF = "off"
    """None: there is no driver."""
    DISCARD = "discard"
    """This process, with the link down: the driver's packets are completed unsent, received frames are dropped."""
    LOCAL = "local"
    """The data plane of this process."""
    TAKEN = "taken"
    """A RingBackend."""
    RETURNING = "returning"
    """A RingBackend that is stopping and has not returned them yet."""


_HERE: Final = frozenset({DataPath.OFF, DataPath.DISCARD, DataPath.LOCAL})
MOVES: Final[Moves[DataPath]] = {
    **{here: _HERE | {DataPath.TAKEN} for here in _HERE},
    DataPath.TAKEN: frozenset({DataPath.OFF, DataPath.RETURNING}),
    DataPath.RETURNING: frozenset({DataPath.OFF}),
}
"""TAKEN goes to OFF at once if the back-end could not take them."""


class VirtioDeviceRecord(Record, frozen=True):
    """A VirtioDevice without the part of its model."""

    attached: bool
    status: U8
    host_features: U64
    driver_features: U64
    features_refused: U64
    generation: Annotated[int, msgspec.Meta(ge=0)]
    datapath: DataPath
    returning: bool
    """The RingBackend was asked to return them: it is asked again."""
    resetting: bool
    """The driver's reset waits for rings that a back-end has."""
    stopping: list[U16]
    """Rings whose stop waits for that."""
    breaks: Annotated[int, msgspec.Meta(ge=0)]
    queues: list[QueueRecord]

    @staticmethod
    def without_vm(queues: Sequence[SplitQueue], host_features: int, generation: int) -> VirtioDeviceRecord:
        """That of a device of these queues which no VM has."""
        return VirtioDeviceRecord(
            attached=False,
            status=0,
            host_features=host_features,
            driver_features=0,
            features_refused=0,
            generation=generation,
            datapath=DataPath.OFF,
            returning=False,
            resetting=False,
            stopping=[],
            breaks=0,
            queues=[SplitQueue(queue.index, queue.max_size).save() for queue in queues],
        )

    def check_fields(self) -> None:
        require(self.datapath is not DataPath.RETURNING, "datapath", "is returning")
        taken = self.datapath is DataPath.TAKEN
        require(taken or not self.returning, "returning", f"does not go with {self.datapath.value}")
        surplus = self.driver_features & ~self.host_features
        require(not surplus, "driver_features", f"has {surplus:#x}, which was not offered")
        require(not self.features_refused & self.host_features, "features_refused", "has what was offered")
        for at, index in enumerate(self.stopping):
            require(index < len(self.queues), f"stopping[{at}]", f"is {index}, of {len(self.queues)} rings")
        idle = self.datapath is DataPath.OFF and not (self.resetting or self.stopping)
        require(self.attached or idle, "attached", "is false, and there is a driver")

    def check(
        self, queues: Sequence[SplitQueue], offerable: int, memory: GuestMemory, attached: bool
    ) -> None:
        """Raise RecordError if a device of these queues, which may offer these features, cannot be restored from it."""
        require(self.attached == attached, "attached", f"is {self.attached}, the VM's is {attached}")
        surplus = self.host_features & ~offerable
        require(not surplus, "host_features", f"has {surplus:#x}, which this device cannot offer")
        require(len(self.queues) == len(queues), "queues", f"are {len(self.queues)}, not {len(queues)}")
        for index, (queue, record) in enumerate(zip(queues, self.queues, strict=True)):
            with within(f"queues[{index}]"):
                record.check(queue.max_size, memory)
