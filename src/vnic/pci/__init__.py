"""PCI devices: config space, capabilities, BARs and interrupts. There is no bus; attachments serve a device."""
