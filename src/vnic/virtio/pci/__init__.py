"""virtio over PCI (virtio 1.2 §4.1), modern only: `transport.VirtioPci` puts a virtio device on a PCI function.

`layout` is the layout of its window; `shadow_rings` serves a VM that does not share its memory.
"""
