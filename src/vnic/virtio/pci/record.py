"""The saved registers of `VirtioPci`, which saves and restores them. Its virtio device has a separate record."""

from __future__ import annotations

from vnic.pci.device import PciDeviceRecord
from vnic.record import U8, U16, U32, U64, Record, require
from vnic.virtio.pci.layout import NO_VECTOR


class VirtioPciRecord(Record, frozen=True):
    """The transport's registers after a driver's writes."""

    function: PciDeviceRecord
    device_feature_select: U32
    driver_feature_select: U32
    driver_features: U64
    queue_select: U16
    config_vector: U16
    queue_vectors: list[U16]
    resetting: list[U16]
    """The queues whose reset is in progress."""
    isr: U8
    old_status: U8

    def check_fields(self) -> None:
        require(sorted(set(self.resetting)) == self.resetting, "resetting", "are not in order")

    def check(self, queues: int, vectors: int) -> None:
        """Raise RecordError unless the record is of a device with these numbers of queues and MSI-X vectors."""
        count = len(self.queue_vectors)
        require(count == queues, "queue_vectors", f"are {count}, of {queues} queues")
        for at, index in enumerate(self.resetting):
            require(index < queues, f"resetting[{at}]", f"is {index}, of {queues} queues")
        places = ["config_vector", *(f"queue_vectors[{at}]" for at in range(count))]
        for place, vector in zip(places, (self.config_vector, *self.queue_vectors), strict=True):
            require(vector < vectors or vector == NO_VECTOR, place, f"is vector {vector} of {vectors}")
