"""-netdev user: the back-end, its host forwarding rules, and the filter for a restricted guest."""
