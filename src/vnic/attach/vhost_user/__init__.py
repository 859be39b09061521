"""The vhost-user attachment: serves a NIC to a VM. The machine makes it."""
