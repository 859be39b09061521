"""-netdev tap: the device, its scripts, and the back-end."""
