"""virtio-net (virtio 1.2 §5.1): one device model, served by vhost-user and by virtio-pci alike.

`device.py` is the device; `link_status_changed` in it is how a guest learns of its cable.
"""

from vnic.nic.virtio_net.device import VirtioNet

__all__ = ["VirtioNet"]
