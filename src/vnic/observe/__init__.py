"""What an operator is shown beside the monitor: the log."""
