"""PCI devices: config space, capabilities, BARs, interrupts and DMA.

Device models derive from `device.PciDevice`; attachments serve them to a VM. There is no bus.
"""
