"""Serves a PCI NIC to a VM over a vfio-user socket."""
