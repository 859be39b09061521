"""Device models: the NICs that a guest sees.

The machine creates them, attachments serve them. No sockets, no asyncio.
"""
