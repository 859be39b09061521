"""The NICs a guest sees: device models, and what they and their transports owe each other.

Pure: no sockets, no asyncio.
"""
