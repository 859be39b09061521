"""-chardev: options, the table of a machine's chardevs, and the socket that most of them are."""
