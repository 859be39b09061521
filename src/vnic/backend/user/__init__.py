"""-netdev user: the back-end, its host forwarding rules, and what a restricted guest may send."""
