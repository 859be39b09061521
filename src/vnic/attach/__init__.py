"""The sockets through which a VM reaches a NIC: thin shells around the engines of `vnic.protocol`."""
