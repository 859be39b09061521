"""virtio-net (virtio 1.2 §5.1): one device model, served by vhost-user and by virtio-pci alike.

`device.py` is the device; its `link_status_changed` notifies the guest of a link change.
"""

from vnic.nic.virtio_net.device import VirtioNet

__all__ = ["VirtioNet"]
