"""The properties of every NIC, and those of virtio-net that switch its features, under QEMU's names and, where built,
with its defaults.

`nic_options.py` adds to them what each driver has besides; `nics.py` makes the device without what is off.
"""

from __future__ import annotations

from vnic.machine.place import PlaceOptions
from vnic.net.errors import NetError

NOT_BUILT = (
    *("gso", "guest_ufo", "guest_uso4", "guest_uso6", "host_ufo", "host_uso", "guest_rsc_ext"),
    *("guest_tunnel", "guest_tunnel_csum", "host_tunnel", "host_tunnel_csum"),
    *("ctrl_guest_offloads", "packed", "rss", "hash", "notify_on_empty", "iommu_platform"),
)
"""Features that vnic offers to no driver."""


class NicOptions(PlaceOptions, kw_only=True, forbid_unknown_fields=True):
    """The properties of every NIC. `link`: its state at the start."""

    id: str | None = None
    netdev: str | None = None
    mac: str | None = None
    link: bool = True


class VirtioFeatures(NicOptions, kw_only=True):
    """Each switches the feature of its name; others that need it (virtio 1.2 §5.1.3.1) go with it."""

    csum: bool = True
    guest_csum: bool = True
    guest_tso4: bool = True
    guest_tso6: bool = True
    guest_ecn: bool = True
    host_tso4: bool = True
    host_tso6: bool = True
    host_ecn: bool = True
    mrg_rxbuf: bool = True
    status: bool = True
    ctrl_vq: bool = True
    ctrl_rx: bool = True
    ctrl_vlan: bool = True
    ctrl_rx_extra: bool = True
    ctrl_mac_addr: bool = True
    guest_announce: bool = True
    indirect_desc: bool = True
    event_idx: bool = True
    """Over vhost-user: a VM that does not share its memory with vnic could not see the indices."""
    queue_reset: bool = True
    any_layout: bool = True
    """Any layout is taken, whatever this says: a driver of VERSION_1 may count on it (§2.7.4)."""
    in_order: bool | None = None
    """By default, where a vhost-user back-end has it."""
    gso: bool = False
    guest_ufo: bool = False
    guest_uso4: bool = False
    guest_uso6: bool = False
    host_ufo: bool = False
    host_uso: bool = False
    guest_rsc_ext: bool = False
    guest_tunnel: bool = False
    guest_tunnel_csum: bool = False
    host_tunnel: bool = False
    host_tunnel_csum: bool = False
    ctrl_guest_offloads: bool = False
    packed: bool = False
    rss: bool = False
    hash: bool = False
    notify_on_empty: bool = False
    iommu_platform: bool = False


SWITCHED = frozenset(VirtioFeatures.__struct_fields__) - set(NicOptions.__struct_fields__) - set(NOT_BUILT)
"""Features that can be on."""


def withheld(options: VirtioFeatures, driver: str) -> int:
    """The features that the driver is not to be offered. Raises NetError for one that is on and not built."""
    from vnic.nic.virtio_net.features import SWITCHES

    for name in NOT_BUILT:
        if getattr(options, name):
            raise NetError(
                f"Property '{driver}.{name}': vnic does not have this feature, so that it has to be off"
            )
    return sum(bit for name, bit in SWITCHES.items() if getattr(options, name) is False)
