"""What a model of Intel's NICs consists of, for `IntelNic`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vnic.nic.intel.chip_cells import BusUnit
from vnic.nic.intel.nvm import Nvm
from vnic.nic.intel.phy import Phy
from vnic.nic.intel.registers import Register


class Parts(NamedTuple):
    """Its tables and the units that are made of them."""

    registers: Mapping[int, Register]
    aliases: Mapping[int, int]
    phy: Phy
    nvm: Nvm
    bus: BusUnit | None = None
    """The NVM once more, if drivers can clock it bit by bit."""
