"""VMs that run already, under QEMU or libvirt, and whose NICs become part of this vnic: their links, not their packets.

`vm` has the object, `nic` the end of a NIC, and `hypervisor` what they need of QEMU or libvirt. `filter.registry` makes
the objects.
"""
