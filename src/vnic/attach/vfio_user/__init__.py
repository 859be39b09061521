"""The vfio-user attachment: serves a PCI NIC to a VM. The machine makes it."""
