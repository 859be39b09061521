"""virtio over PCI (virtio 1.2 §4.1), modern only: `transport.VirtioPci` puts a virtio device on a PCI function.

`layout` says what lies where in its window, `handover` gives the rings' notifications to a back-end as eventfds.
"""
