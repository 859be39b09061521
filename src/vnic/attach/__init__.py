"""The sockets through which VMs connect to NICs. The machine makes them; the protocols are in `vnic.protocol`."""
