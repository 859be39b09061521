"""The parts that all virtio devices share: split rings, features, device status, and the PCI transport.

Device models derive from `device.VirtioDevice`; attachments drive it. No sockets, no asyncio.
"""
