"""`-chardev`: the options, the table of a machine's chardevs, and sockets. Monitors, vhost-user netdevs and filters use
it."""
