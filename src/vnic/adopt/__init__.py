"""VMs that run already, under QEMU or libvirt, and whose NICs become part of this vnic."""
