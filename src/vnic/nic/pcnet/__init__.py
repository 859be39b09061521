"""AMD's PCnet-PCI II, the Am79C970A, as QEMU's `pcnet`. `Pcnet` is the NIC."""

from vnic.nic.pcnet.device import Pcnet

__all__ = ["Pcnet"]
