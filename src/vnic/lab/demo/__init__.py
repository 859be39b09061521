"""The demo: a guest on one NIC, and its steps."""
