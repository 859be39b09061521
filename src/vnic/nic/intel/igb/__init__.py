"""Intel's 82576 (igb): the gigabit NIC of QEMU with several queues, advanced descriptors and MSI-X, without VFs."""

from vnic.nic.intel.igb.device import Igb

__all__ = ["Igb"]
