"""-netdev interface: a NIC on an existing interface of this host or of a container."""
