"""The NICs that `-device` and device_add can make: their properties, and how each is assembled.

`DEVICES` is the table; a DeviceType's `build` makes the device model, its Nic and the socket that serves it. Models
are imported when the first NIC of theirs is made, so that `vnic run` starts fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vnic.machine.nic_options import (
    E1000Em2Options,
    E1000EmOptions,
    E1000GcOptions,
    E1000Options,
    VfioUserAttach,
    VhostUserAttach,
    VirtioNetBase,
    VirtioNetOptions,
    VirtioNetPciOptions,
)
from vnic.machine.virtio_features import NicOptions, withheld
from vnic.memory.guest import GuestMemory
from vnic.monitor.interfaces import AttachmentNode
from vnic.net.client import Endpoint, Nic
from vnic.net.errors import NetError
from vnic.net.names import parse_mac
from vnic.net.network import Network

if TYPE_CHECKING:
    from vnic.pci.device import PciDevice

MTU_MIN = 68
"""The smallest MTU of IPv4 (virtio 1.2 §5.1.4.1)."""

# -- what a NIC is made of ------------------------------------------------------------------------------------------


class ServedAttachment(Protocol):
    """The socket shell of one NIC (vnic.attach)."""

    def start(self) -> None:
        """Open the socket; NetError where that cannot be done."""

    def close(self, done: Callable[[], None] | None = None) -> None:
        """End in order and call `done`, now or later; the link was announced down before."""

    def check_memory(self) -> None:
        """Cut the VM off if memory that it shares is gone."""

    def guest_memory(self) -> GuestMemory | None:
        """The memory of the attached VM."""


@dataclass(slots=True)
class PluggedNic:
    """A NIC of the machine and the socket that serves it."""

    nic: Nic
    attachment: ServedAttachment
    attach: VhostUserAttach | VfioUserAttach
    """Where that is, as the options said."""
    function: PciDevice | None = None
    """The PCI function that it is, over vfio-user."""
    served: bool = False
    """The socket is open: not before `cont` where the machine was started paused."""
    slot: int | None = None
    """Where `addr=` puts it."""

    def attachment_node(self) -> AttachmentNode:
        """Its entry in query-topology."""
        attach = self.attach
        kind: Literal["vhost-user", "vfio-user"] = "vhost-user"
        if isinstance(attach, VfioUserAttach):
            kind = "vfio-user"
        attached = self.nic.guest.attached
        return AttachmentNode(self.nic.name, kind, attach.path, attach.server, self.served, attached)

    def serve(self) -> None:
        """Open the socket, once. Raises NetError."""
        if not self.served:
            self.attachment.start()
            self.served = True


@dataclass(frozen=True, slots=True)
class DeviceType:
    """One value of `-device`."""

    options: type[NicOptions]
    desc: str
    build: Callable[[Builder, Any], PluggedNic]


@dataclass(slots=True)
class Builder:
    """What the build functions share, for one NIC: where it goes, and the properties that all have."""

    network: Network
    loop: asyncio.AbstractEventLoop
    by: str
    """Who asked for it."""
    nic: Nic | None = None
    """The NIC, once it is in the network: it has to go again if a later step fails."""

    def pairs(self, options: VirtioNetBase) -> int:
        """With mq=on, as many queue pairs as the netdev has queues (virtio_net_device_realize)."""
        if not options.mq or options.netdev is None:
            return 1
        netdev = self.network.find_netdev(options.netdev)
        return netdev.queues if netdev is not None else 1

    def add_nic(
        self, model: str, endpoint: Endpoint, options: NicOptions, driver: str, pairs: int = 1
    ) -> Nic:
        """Make the Nic; `driver` is the property owner that QEMU's error texts name."""
        mac = parse_mac(options.mac, driver) if options.mac is not None else self.network.clients.free_mac()
        self.nic = self.network.add_nic(
            options.id,
            model,
            endpoint,
            mac=mac,
            queues=pairs,
            netdev_id=options.netdev,
            link=options.link,
            driver=driver,
            by=self.by,
        )
        return self.nic

    def undo(self) -> None:
        """Remove all parts of a NIC that could not be completed."""
        if self.nic is not None:
            self.network.delete_nic(self.nic.name)


def _attach_missing(kind: str) -> NetError:
    return NetError(
        f"Parameter 'attach.path' is missing: say where the VM plugs in, as attach.type={kind},attach.path=nic0.sock"
    )


MAX_VHOST_USER_PAIRS = 127
"""So that the control queue, which stands behind the pairs, has a number that SET_VRING_KICK's u64 can name in its
low byte (vhost-user.rst)."""


def build_virtio_net(builder: Builder, options: VirtioNetOptions) -> PluggedNic:
    """virtio-net where the VM's own virtio transport talks vhost-user; PCI over vfio-user."""
    attach = options.attach
    if attach is None:
        raise _attach_missing("vhost-user")
    if isinstance(attach, VfioUserAttach):
        return build_virtio_net_pci(builder, options)
    if options.vectors is not None or not options.msix:
        key = "vectors" if options.vectors is not None else "msix"
        raise NetError(f"Property 'virtio-net.{key}' is the VM's affair with attach.type=vhost-user")
    if (pairs := builder.pairs(options)) > MAX_VHOST_USER_PAIRS:
        raise NetError(
            f"virtio-net over vhost-user has at most {MAX_VHOST_USER_PAIRS} queue pairs, not {pairs}: a ring's number"
            " has 8 bits, and the control queue comes last"
        )
    from vnic.attach.vhost_user.attachment import VhostUserAttachment

    device, nic = _virtio_net(builder, options, "virtio-net")
    attachment = VhostUserAttachment(device, nic, attach.path, attach.server, builder.loop)
    return PluggedNic(nic, attachment, attach)


def build_virtio_net_pci(builder: Builder, options: VirtioNetBase) -> PluggedNic:
    """virtio-net on a PCI function of its own (virtio 1.2 §4.1)."""
    attach = options.attach
    if attach is None:
        raise _attach_missing("vfio-user")
    if not isinstance(attach, VfioUserAttach):
        raise NetError("Property 'virtio-net-pci.attach' is for vfio-user; over vhost-user it is virtio-net")
    if isinstance(options, VirtioNetPciOptions) and (
        options.disable_legacy == "off" or options.disable_modern
    ):
        key = "disable-modern" if options.disable_modern else "disable-legacy"
        raise NetError(
            f"Property 'virtio-net-pci.{key}': legacy and transitional devices are not built into vnic"
        )
    from vnic.attach.vfio_user.attachment import VfioUserAttachment
    from vnic.virtio.pci.transport import VirtioPci

    _check_server(attach)
    device, nic = _virtio_net(builder, options, "virtio-net-pci")
    vectors = options.vectors if options.msix else 0
    pci = VirtioPci(device, vectors=vectors)
    return PluggedNic(nic, VfioUserAttachment(builder.loop, pci, nic, attach.path), attach, pci)


def build_e1000(builder: Builder, options: E1000Options) -> PluggedNic:
    """The 82540EM and its kin, on PCI."""
    attach = options.attach
    if attach is None:
        raise _attach_missing("vfio-user")
    from vnic.attach.vfio_user.attachment import VfioUserAttachment
    from vnic.nic.intel.e1000 import E1000, MODELS

    _check_server(attach)
    model = MODELS[str(options.__struct_config__.tag)]
    device = E1000(model, autonegotiation=options.autonegotiation)
    nic = builder.add_nic(model.name, device, options, model.name)
    return PluggedNic(nic, VfioUserAttachment(builder.loop, device, nic, attach.path), attach, device)


def _check_server(attach: VfioUserAttach) -> None:
    if not attach.server:
        raise NetError("Parameter 'attach.server' has to be on: a vfio-user device listens, the VM connects")


def _virtio_net(builder: Builder, options: VirtioNetBase, model: str) -> tuple[Any, Nic]:
    from vnic.nic.virtio_net import VirtioNet

    for key in ("mtu", "host_mtu"):
        if 0 < getattr(options, key) < MTU_MIN:
            raise NetError(f"'{key}' must be from {MTU_MIN} to 65535")
    if options.mtu and options.host_mtu and options.mtu != options.host_mtu:
        raise NetError("Parameters 'mtu' and 'host_mtu' are the same thing and differ")
    pairs = builder.pairs(options)
    device = VirtioNet(
        pairs,
        mtu=options.mtu or options.host_mtu,
        speed=None if options.speed == -1 else options.speed,
        duplex=options.duplex,
        queue_size=_queue_size(options),
        withheld=withheld(options, model),
        in_order=bool(options.in_order),
    )
    return device, builder.add_nic(model, device, options, "virtio-net-device", pairs)


def _queue_size(options: VirtioNetBase) -> int:
    """The largest ring the driver may make; QEMU's bounds, one value for both directions."""
    for key in ("rx_queue_size", "tx_queue_size"):
        size = getattr(options, key)
        if not 256 <= size <= 1024 or size & (size - 1):
            raise NetError(f"Invalid {key} (= {size}), must be a power of 2 between 256 and 1024.")
    return max(options.rx_queue_size, options.tx_queue_size)


DEVICES: dict[str, DeviceType] = {
    str(options.__struct_config__.tag): DeviceType(options, desc, build)
    for options, desc, build in (
        (VirtioNetOptions, "virtio network card, over vhost-user or vfio-user", build_virtio_net),
        (VirtioNetPciOptions, "virtio network card on PCI, over vfio-user", build_virtio_net_pci),
        (E1000Options, "Intel 82540EM gigabit card, over vfio-user", build_e1000),
        (E1000EmOptions, "the same as e1000", build_e1000),
        (E1000GcOptions, "Intel 82544GC gigabit card, over vfio-user", build_e1000),
        (E1000Em2Options, "Intel 82545EM gigabit card, over vfio-user", build_e1000),
    )
}
"""The values of `-device`."""


def device_structs() -> Mapping[str, type[NicOptions]]:
    """By driver, the Struct of its properties: what the monitor checks arguments against."""
    return {name: entry.options for name, entry in DEVICES.items()}


NOT_BUILT = frozenset(
    {
        *(
            "e1000e",
            "igb",
            "igbvf",
            "i82550",
            "i82551",
            "i82557a",
            "i82557b",
            "i82557c",
            "i82558a",
            "i82558b",
        ),
        *("i82559a", "i82559b", "i82559c", "i82559er", "i82562", "i82801", "ne2k_isa", "ne2k_pci", "pcnet"),
        *("rtl8139", "tulip", "vmxnet3", "usb-net", "rocker"),
        *("virtio-net-pci-transitional", "virtio-net-pci-non-transitional", "virtio-net-ccw"),
    }
)
"""NICs of QEMU that vnic does not have: refused by name rather than as unknown."""


_VMS_OWN = frozenset({"failover", "failover_pair_id"})
"""Properties that on a QEMU command line sit beside ours, and change what the VM's own -device is."""


def unknown_property(driver: str, name: str) -> NetError:
    """qdev's error, and a hint where the property is known elsewhere."""
    hint = ": it belongs to the VM's own -device" if name in _VMS_OWN else ""
    return NetError(f"Property '{driver}.{name}' not found{hint}")
