"""Serves a NIC to a VM over a vhost-user socket."""
