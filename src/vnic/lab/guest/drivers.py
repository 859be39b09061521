"""Linux's drivers of vnic's PCI NICs, by model: a QEMU guest loads those of the NICs that it is to have.

The kit fetches them all; `vnic demo --model` and lab files know the models by this table, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DRIVERS: Mapping[str, str] = {
    "virtio-net-pci": "virtio_net",
    "e1000": "e1000",
    "e1000-82540em": "e1000",
    "e1000-82544gc": "e1000",
    "e1000-82545em": "e1000",
    "e1000e": "e1000e",
    "igb": "igb",
    "vmxnet3": "vmxnet3",
    "rtl8139": "8139cp",
    "pcnet": "pcnet32",
    "tulip": "tulip",
    "ne2k_pci": "ne2k_pci",
    **dict.fromkeys(
        (
            *("i82550", "i82551", "i82557a", "i82557b", "i82557c", "i82558a", "i82558b"),
            *("i82559a", "i82559b", "i82559c", "i82559er", "i82562", "i82801"),
        ),
        "e100",
    ),
}
"""By the driver of -device, the kernel's module."""


def modules_of(models: Iterable[str]) -> list[str]:
    """What a guest with NICs of these models loads, each once. virtio-net over vhost-user is QEMU's virtio-net-pci."""
    return list(dict.fromkeys(DRIVERS.get(model, DRIVERS["virtio-net-pci"]) for model in models))
