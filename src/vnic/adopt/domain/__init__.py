"""VMs of libvirt. `adopt.scan` lists domains through `library`."""
