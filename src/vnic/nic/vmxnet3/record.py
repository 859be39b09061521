"""The record of a Vmxnet3, which consists of those of its units."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.filter import FilterRecord
from vnic.nic.vmxnet3.interrupts import InterruptsRecord
from vnic.nic.vmxnet3.queue import InterruptIndex, QueueRecord
from vnic.nic.vmxnet3.shared import MAX_FRAGMENTS
from vnic.record import U32, U64, Mac, require


class Vmxnet3Record(PciNicRecord, frozen=True):
    """All state of a Vmxnet3. It is active if it has queues."""

    mac: Mac
    mac_low: U32
    shared_low: U32
    shared: U64
    command: U32
    link_up: bool
    link_posted: bool
    event_interrupt: InterruptIndex
    interrupts: InterruptsRecord
    filter: FilterRecord
    compound: bool
    fragments: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAGMENTS)]
    tx: Annotated[list[QueueRecord], msgspec.Meta(max_length=r.MAX_TX_QUEUES)]
    rx: Annotated[list[QueueRecord], msgspec.Meta(max_length=r.MAX_RX_QUEUES)]

    def check_fields(self) -> None:
        require(bool(self.tx) == bool(self.rx), "rx", f"has {len(self.rx)} queues, and tx has {len(self.tx)}")
        for name, queues, rings in (("tx", self.tx, 1), ("rx", self.rx, 2)):
            for at, queue in enumerate(queues):
                count = len(queue.rings)
                require(count == rings, f"{name}[{at}].rings", f"are {count}, not {rings}")
