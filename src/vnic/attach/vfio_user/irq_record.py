"""The record of a VM's interrupts, without the descriptors that go beside it.

`irq.EventfdIrqs` saves it and is restored from it.
"""

from __future__ import annotations

from vnic.record import U16, Record, require


class IntxRecord(Record, frozen=True):
    level: bool
    masked: bool
    held: bool
    """It was masked by the VM, and not by an interrupt."""
    trigger: bool
    """Whether there is a descriptor to write to, and one to be unmasked by."""
    unmask: bool


class VectorsRecord(Record, frozen=True):
    enabled: bool
    pending: list[U16]
    """The latched vectors."""
    fds: list[U16]
    """The vectors that have a descriptor."""

    def check_fields(self) -> None:
        for name in ("pending", "fds"):
            vectors = getattr(self, name)
            require(sorted(set(vectors)) == vectors, name, "are not in order")
            require(self.enabled or not vectors, name, "of interrupts that are off")


class EventfdIrqsRecord(Record, frozen=True):
    """Which interrupts are bound to descriptors. These go beside it: INTx's two, then those of the vectors."""

    intx: IntxRecord
    msi: VectorsRecord
    msix: VectorsRecord
    error: VectorsRecord
