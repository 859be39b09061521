"""The heart of vnic: net clients and their peers, the holds that keep a wire down, and what became of each change.

Pure code: no sockets, no asyncio. `network.Network` is where to start reading; `link.py` is one link change.
"""
