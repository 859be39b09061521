"""Finds the VMs of this host that can be adopted: QEMU processes by /proc, and the domains of libvirt.

`vnic adopt` calls `find.find_vms`. Nothing here connects to a VM: a QMP socket has room for one client.
"""
