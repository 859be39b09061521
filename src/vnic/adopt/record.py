"""The saved state of an adopted VM. Its NICs' clients have records of their own."""

from __future__ import annotations

from typing import Final

from vnic.adopt.hypervisor import NICS_MAX
from vnic.record import Mac, Record, require


class AdoptedNicRecord(Record, frozen=True):
    """A NIC as it was found, and whether its link is vnic's by now."""

    name: str
    model: str
    mac: Mac
    netdev: str
    known: bool
    touched: bool


class AdoptedVmRecord(Record, frozen=True):
    """The state of an AdoptedVm."""

    nics: list[AdoptedNicRecord]
    identity: str
    """See Hypervisor."""

    def check_fields(self) -> None:
        names = [nic.name for nic in self.nics]
        require(len(set(names)) == len(names), "nics", "has a name twice")
        require(all(names), "nics", "has one without a name")
        require(len(names) <= NICS_MAX, "nics", f"has more than {NICS_MAX}")


KEY: Final = "adopted"
"""Before the object's id, the key of its unit."""
