"""-netdev passt: the process, its stream mode and its vhost-user mode. The registry and the user netdev make them."""
