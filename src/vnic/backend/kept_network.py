"""The parts of a network that are neither a client nor an object, and outlive the process: flaps, and faults of links.

The machine calls it, when the NICs and netdevs of the process before exist again.
"""

from __future__ import annotations

from typing import Final

from vnic.keep import Keep, NoHandles
from vnic.net.faults import FaultsRecord
from vnic.net.flaps import FlapsRecord
from vnic.net.network import Network
from vnic.record import RecordError

FLAPS: Final = "flaps"
FAULTS: Final = "faults"


def restore_network(network: Network, keep: Keep) -> None:
    """Go on with the flaps and faults that the process before had, if there was one, and keep them from now on. One
    whose record is refused has none."""
    flaps = keep.inherited(FLAPS, FlapsRecord, NoHandles)
    if flaps is not None:
        network.flaps.restore(flaps[0], keep.age_us(FLAPS))
    faults = keep.inherited(FAULTS, FaultsRecord, NoHandles)
    if faults is not None:
        try:
            network.faults.restore(faults[0], keep.age_us(FAULTS))
        except RecordError as error:
            keep.refused(FAULTS, error)
    network.flaps.kept = keep.unit(FLAPS, network.flaps)
    network.faults.kept = keep.unit(FAULTS, network.faults)
