"""VMware's paravirtual NIC, as QEMU emulates it: revision 1 of the device, version 1 of UPT. `Vmxnet3` is the NIC."""

from vnic.nic.vmxnet3.device import Vmxnet3

__all__ = ["Vmxnet3"]
