"""What all PCI NIC models have in common, between the machine's Network and the VM.

A model derives from `PciNic` and adds its registers, its rings and its link. An attachment serves it as a `PciDevice`;
the Network knows it as an `Endpoint`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Plan
from vnic.net.client import Endpoint, Nic
from vnic.net.clock import Scheduler
from vnic.pci.bar import Bar
from vnic.pci.capability import Capability
from vnic.pci.config import STATUS, PciId
from vnic.pci.device import PciDevice, PciDeviceRecord, PciHandles
from vnic.pci.irq import IrqLines
from vnic.pci.msix import MsixTable
from vnic.record import Mac, Record

log = logging.getLogger(__name__)

_STATUS_MASTER_ABORT = 0x2000


class PciNicRecord(Record, frozen=True):
    """What each model's record begins with. The client saves the steps of the last link change."""

    function: PciDeviceRecord
    info_mac: Mac
    complaints: list[str]


class PciNic(PciDevice, Endpoint):
    """One NIC. `name` is what `info network` calls its model.

    A model implements `start`, `link_status_changed`, `link_shown`, `receive`, `sent`, `device_reset`, the windows,
    `save` and `restore`. In `link_status_changed` it changes its registers, calls `client.report.notified`, and
    interrupts; where the guest reads the link it calls `client.report.seen`.
    """

    client: Nic

    record: ClassVar[type[Record]]
    """The type of what `save` returns."""

    def __init__(
        self,
        name: str,
        ident: PciId,
        bars: Sequence[Bar],
        *,
        capabilities: Sequence[Capability] = (),
        msix: MsixTable | None = None,
    ) -> None:
        super().__init__(ident, bars, capabilities=capabilities, msix=msix)
        self.name = name
        self._complaints: set[str] = set()
        self._info_mac = bytes(6)

    # --- Endpoint: the Network's side ---

    def idle(self) -> bool:
        return not self.client.guest.attached

    def wire_end(self) -> str:
        return f"{self.name} rings are processed in Python"

    def info_text(self, queue: int) -> str:
        """QEMU's qemu_format_nic_info_str."""
        address = ":".join(f"{byte:02x}" for byte in self._info_mac)
        return f"model={self.name},macaddr={address}"

    # --- State apart from handles ---

    def save(self) -> Record:
        """All state, as `record` says."""
        raise NotImplementedError

    def restore(self, record: Any, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        raise NotImplementedError

    def save_kept(self) -> Record:
        """The same without what cells have."""
        return self.save()

    def save_nic(self) -> dict[str, Any]:
        """The fields of PciNicRecord."""
        return {
            "function": self.save_function(),
            "info_mac": self._info_mac,
            "complaints": sorted(self._complaints),
        }

    def restore_nic(self, record: PciNicRecord, handles: PciHandles) -> None:
        """Take those fields, after `check_function`; then restore the rest, and call `resume`."""
        self.restore_function(record.function, handles)
        self._info_mac = record.info_mac
        self._complaints = set(record.complaints)

    def keep_record(self) -> None:
        """Have the record saved now: before the guest can see what a next process must not do once more."""
        self.touched()
        self.kept.commit()

    # --- PciDevice: the VM's side ---

    def plug(self, irq: IrqLines, memory: GuestMemory) -> None:
        super().plug(irq, memory)
        self._complaints.clear()

    def dma_refused(self, error: GuestMemoryError) -> None:
        self.bus_error("write", error)

    # --- Called by the model and its units ---

    def fetch(self, unit: str, plan: Callable[[GuestMemory], Plan], work: Callable[[], None]) -> None:
        """Call `work` once `plan` has fetched what it reads; at once if the VM shares its memory. For rings that the
        guest does not post by a register: others are in `rings`."""
        if self.shadow is None:
            work()
        elif self.bus_master:
            self.shadow.fetch(unit, partial(plan, self._memory), work, partial(self.bus_error, unit))

    @property
    def scheduler(self) -> Scheduler:
        return self.client.network.scheduler

    def show_mac(self, mac: bytes) -> None:
        """The address that `info network` prints."""
        self._info_mac = mac

    def complain(self, what: str, text: str) -> None:
        """Log each kind of error once per VM, so that a guest cannot fill the log."""
        if self._memory.lost:
            return  # the VM will be disconnected, and that is logged
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning("%s: %s: %s; said once for this VM", self.client.name, what, text)

    def bus_error(self, unit: str, error: GuestMemoryError) -> None:
        """The guest used an unmapped address: a master abort on a real bus (PCI 3.0 §6.2.3)."""
        self.config.data[STATUS + 1] |= _STATUS_MASTER_ABORT >> 8
        self.complain(f"{unit} DMA", str(error))
