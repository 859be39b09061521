"""-netdev passt: the process, its stream mode and its vhost-user mode."""
