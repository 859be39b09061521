"""The ne2k_pci: Realtek's RTL8029, an NE2000 on PCI. `Ne2kPci` is the NIC."""

from vnic.nic.ne2k_pci.device import Ne2kPci

__all__ = ["Ne2kPci"]
