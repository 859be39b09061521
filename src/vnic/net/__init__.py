"""Net clients and their peers, the holds that keep a wire down, and the journal of link changes.

The machine, the monitor, device models and back-ends call it; it uses no sockets and no asyncio. Start reading with
`network.Network`; `link.py` is one link change.
"""
