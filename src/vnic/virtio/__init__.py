"""What every virtio device shares: guest memory, split rings, feature bits. Pure: no sockets, no asyncio."""
