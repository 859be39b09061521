"""The e1000e: Intel's 82574L. `E1000e` is the NIC."""

from vnic.nic.intel.e1000e.device import E1000e

__all__ = ["E1000e"]
