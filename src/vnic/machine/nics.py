"""The NICs that `-device` and device_add can make: their properties, and how each is assembled.

`DEVICES` is the table; a DeviceType's `build` makes the device model, its Nic and the socket that serves it. Models
are imported when the first NIC of theirs is made, so that `vnic run` starts fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vnic.machine.builder import Builder, PluggedNic, ServedAttachment
from vnic.machine.nic_options import (
    EEPRO100_OPTIONS,
    E1000Em2Options,
    E1000EmOptions,
    E1000eOptions,
    E1000GcOptions,
    E1000Options,
    IgbOptions,
    Ne2kPciOptions,
    PciNicOptions,
    PcnetOptions,
    Rtl8139Options,
    TulipOptions,
    VfioUserAttach,
    VirtioNetBase,
    VirtioNetOptions,
    VirtioNetPciOptions,
    Vmxnet3Options,
)
from vnic.machine.virtio_features import NicOptions, withheld
from vnic.net.client import Nic
from vnic.net.errors import NetError

if TYPE_CHECKING:
    from vnic.nic.pci_nic import PciNic
    from vnic.nic.virtio_net import VirtioNet
    from vnic.pci.device import PciDevice

MTU_MIN = 68
"""The smallest MTU of IPv4 (virtio 1.2 §5.1.4.1)."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model can do, for people who choose one."""

    interrupts: str
    """The kinds that a driver can choose from."""
    queues: str
    offloads: str
    link: str
    """Where the guest sees its link, and how it is told."""
    confirms: bool = True
    """Whether the guest's reading of its link can be seen: `seen` in the journal, `vnic link set … --wait`."""


@dataclass(frozen=True, slots=True)
class DeviceType:
    """One value of `-device`."""

    options: type[NicOptions]
    desc: str
    build: Callable[[Builder, Any], PluggedNic]
    facts: ModelFacts


def _attach_missing(kind: str) -> NetError:
    return NetError(
        f"Parameter 'attach.path' is missing: say where the VM plugs in, as attach.type={kind},attach.path=nic0.sock"
    )


_VIRTIO_DRIVER = "virtio-net-device"

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
    from vnic.machine.model_virtio import VirtioModel

    device = _virtio_net(options, "virtio-net", pairs)
    return builder.plug(
        "virtio-net",
        device,
        options,
        VirtioModel(device),
        lambda nic: VhostUserAttachment(
            device, nic, attach.path, attach.server, builder.loop, keep=builder.items.keep
        ),
        attach,
        driver=_VIRTIO_DRIVER,
        pairs=pairs,
    )


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
    from vnic.machine.model_virtio import VirtioPciModel
    from vnic.virtio.pci.transport import VirtioPci

    _check_server(attach)
    pairs = builder.pairs(options)
    device = _virtio_net(options, "virtio-net-pci", pairs)
    pci = VirtioPci(device, vectors=options.vectors if options.msix else 0)
    return builder.plug(
        "virtio-net-pci",
        device,
        options,
        VirtioPciModel(pci, device),
        _vfio_user(builder, pci, attach),
        attach,
        driver=_VIRTIO_DRIVER,
        pairs=pairs,
        function=pci,
    )


def build_e1000(builder: Builder, options: E1000Options) -> PluggedNic:
    """The 82540EM and its kin."""
    from vnic.nic.intel.e1000 import E1000, MODELS

    model = MODELS[_driver(options)]
    return _pci_nic(builder, options, E1000(model, autonegotiation=options.autonegotiation))


def build_igb(builder: Builder, options: IgbOptions) -> PluggedNic:
    """The 82576."""
    from vnic.nic.intel.igb import Igb

    return _pci_nic(builder, options, Igb())


def build_vmxnet3(builder: Builder, options: Vmxnet3Options) -> PluggedNic:
    """VMware's card."""
    from vnic.nic.vmxnet3 import Vmxnet3

    return _pci_nic(builder, options, Vmxnet3())


def build_rtl8139(builder: Builder, options: Rtl8139Options) -> PluggedNic:
    """The RTL8139C+."""
    from vnic.nic.rtl8139 import RTL8139

    return _pci_nic(builder, options, RTL8139())


def build_pcnet(builder: Builder, options: PcnetOptions) -> PluggedNic:
    """The Am79C970A."""
    from vnic.nic.pcnet import Pcnet

    return _pci_nic(builder, options, Pcnet())


def build_e1000e(builder: Builder, options: E1000eOptions) -> PluggedNic:
    """The 82574L."""
    from vnic.nic.intel.e1000e import E1000e

    return _pci_nic(builder, options, E1000e())


def build_tulip(builder: Builder, options: TulipOptions) -> PluggedNic:
    """The 21143."""
    from vnic.nic.tulip import Tulip

    return _pci_nic(builder, options, Tulip())


def build_ne2k_pci(builder: Builder, options: Ne2kPciOptions) -> PluggedNic:
    """The RTL8029."""
    from vnic.nic.ne2k_pci import Ne2kPci

    return _pci_nic(builder, options, Ne2kPci())


def build_eepro100(builder: Builder, options: PciNicOptions) -> PluggedNic:
    """The 8255x family."""
    from vnic.nic.eepro100 import MODELS, Eepro100

    return _pci_nic(builder, options, Eepro100(MODELS[_driver(options)]))


def _driver(options: NicOptions) -> str:
    return str(options.__struct_config__.tag)


def _pci_nic(builder: Builder, options: PciNicOptions, device: PciNic) -> PluggedNic:
    """A NIC on PCI other than virtio-net."""
    from vnic.machine.model_pci import PciNicModel

    attach = options.attach
    if attach is None:
        raise _attach_missing("vfio-user")
    _check_server(attach)
    return builder.plug(
        device.name,
        device,
        options,
        PciNicModel(device),
        _vfio_user(builder, device, attach),
        attach,
        driver=device.name,
        function=device,
    )


def _vfio_user(
    builder: Builder, device: PciDevice, attach: VfioUserAttach
) -> Callable[[Nic], ServedAttachment]:
    from vnic.attach.vfio_user.attachment import VfioUserAttachment

    return lambda nic: VfioUserAttachment(builder.loop, device, nic, attach.path, keep=builder.items.keep)


def _check_server(attach: VfioUserAttach) -> None:
    if not attach.server:
        raise NetError("Parameter 'attach.server' has to be on: a vfio-user device listens, the VM connects")


def _virtio_net(options: VirtioNetBase, model: str, pairs: int) -> VirtioNet:
    from vnic.nic.virtio_net import VirtioNet

    for key in ("mtu", "host_mtu"):
        if 0 < getattr(options, key) < MTU_MIN:
            raise NetError(f"'{key}' must be from {MTU_MIN} to 65535")
    if options.mtu and options.host_mtu and options.mtu != options.host_mtu:
        raise NetError("Parameters 'mtu' and 'host_mtu' are the same thing and differ")
    return VirtioNet(
        pairs,
        mtu=options.mtu or options.host_mtu,
        speed=None if options.speed == -1 else options.speed,
        duplex=options.duplex,
        queue_size=_queue_size(options),
        withheld=withheld(options, model),
        in_order=bool(options.in_order),
    )


def _queue_size(options: VirtioNetBase) -> int:
    """The largest ring the driver may make; QEMU's bounds, one value for both directions."""
    for key in ("rx_queue_size", "tx_queue_size"):
        size = getattr(options, key)
        if not 256 <= size <= 1024 or size & (size - 1):
            raise NetError(f"Invalid {key} (= {size}), must be a power of 2 between 256 and 1024.")
    return max(options.rx_queue_size, options.tx_queue_size)


_VIRTIO_FACTS = ModelFacts(
    interrupts="MSI-X, INTx; over vhost-user the VM's",
    queues="a pair for each queue of the netdev, with mq=on",
    offloads="checksums, segmentation, mergeable buffers, RSS",
    link="status in config space, with an interrupt of its own",
)
_E1000_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="checksums, segmentation, VLAN tags",
    link="STATUS.LU and the PHY's BMSR, interrupt LSC",
)
_IGB_FACTS = ModelFacts(
    interrupts="MSI-X, MSI, INTx",
    queues="16 pairs in the NIC, chosen by RSS or EtherType; the netdev has one",
    offloads="checksums in both directions, segmentation of TCP and UDP, VLAN tags, RSS",
    link="STATUS.LU and the PHY's BMSR, interrupt LSC; down until the driver negotiates",
)
_VMXNET3_FACTS = ModelFacts(
    interrupts="MSI-X, MSI, INTx",
    queues="up to 8 to send, 1 to receive",
    offloads="checksums, segmentation, VLAN tags",
    link="command GET_LINK, event LINK with an interrupt at each set_link",
)
_RTL8139_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="checksums and segmentation of IPv4, VLAN tags",
    link="BMSR and MSR, interrupt LinkChg",
)
_PCNET_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="none",
    link="LNKST in BCR4, which the driver polls; no interrupt",
)
_TULIP_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="none",
    link="BMSR of the PHY, which the driver polls, or CSR12 of the SIA, interrupts LNF, LNP and LC",
)

_E1000E_FACTS = ModelFacts(
    interrupts="MSI-X, MSI, INTx",
    queues="2, chosen by RSS",
    offloads="checksums, segmentation, VLAN tags, packet split",
    link="STATUS.LU and the PHY's BMSR, interrupt LSC",
)
_NE2K_PCI_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="none",
    link="not at all: frames are dropped while it is down",
    confirms=False,
)
_EEPRO100_FACTS = ModelFacts(
    interrupts="INTx",
    queues="1",
    offloads="none",
    link="the PHY's BMSR and general status; no interrupt, the guest polls",
)

_TABLE: tuple[
    tuple[type[NicOptions], str, Callable[[Builder, Any], PluggedNic], ModelFacts],
    ...,
] = (
    (VirtioNetOptions, "virtio network card, over vhost-user or vfio-user", build_virtio_net, _VIRTIO_FACTS),
    (VirtioNetPciOptions, "virtio network card on PCI, over vfio-user", build_virtio_net_pci, _VIRTIO_FACTS),
    (E1000Options, "Intel 82540EM gigabit card, over vfio-user", build_e1000, _E1000_FACTS),
    (E1000EmOptions, "the same as e1000", build_e1000, _E1000_FACTS),
    (E1000GcOptions, "Intel 82544GC gigabit card, over vfio-user", build_e1000, _E1000_FACTS),
    (E1000Em2Options, "Intel 82545EM gigabit card, over vfio-user", build_e1000, _E1000_FACTS),
    (E1000eOptions, "Intel 82574L gigabit card, over vfio-user", build_e1000e, _E1000E_FACTS),
    (IgbOptions, "Intel 82576 gigabit card with several queues, over vfio-user", build_igb, _IGB_FACTS),
    (Vmxnet3Options, "VMware's paravirtual card, over vfio-user", build_vmxnet3, _VMXNET3_FACTS),
    (Rtl8139Options, "Realtek RTL8139C+ fast Ethernet card, over vfio-user", build_rtl8139, _RTL8139_FACTS),
    (PcnetOptions, "AMD PCnet-PCI II (Am79C970A) 10 Mbit card, over vfio-user", build_pcnet, _PCNET_FACTS),
    (TulipOptions, "DEC 21143 (Tulip) fast Ethernet card, over vfio-user", build_tulip, _TULIP_FACTS),
    (Ne2kPciOptions, "Realtek RTL8029 (NE2000) card, over vfio-user", build_ne2k_pci, _NE2K_PCI_FACTS),
    *(
        (options, f"Intel {name} fast Ethernet card, over vfio-user", build_eepro100, _EEPRO100_FACTS)
        for name, options in EEPRO100_OPTIONS.items()
    ),
)
DEVICES: dict[str, DeviceType] = {
    str(options.__struct_config__.tag): DeviceType(options, desc, build, facts)
    for options, desc, build, facts in _TABLE
}
"""The values of `-device`."""


def device_structs() -> Mapping[str, type[NicOptions]]:
    """By driver, the Struct of its properties: what the monitor checks arguments against."""
    return {name: entry.options for name, entry in DEVICES.items()}


NOT_BUILT: Mapping[str, str] = dict.fromkeys(
    {
        *("ne2k_isa", "usb-net", "rocker"),
        *("virtio-net-pci-transitional", "virtio-net-pci-non-transitional", "virtio-net-ccw"),
    },
    "",
) | {"igbvf": "a VF needs SR-IOV, which vnic's igb does not offer"}
"""NICs of QEMU that vnic does not have, and why, where there is more to say: refused by name rather than as unknown."""


_VMS_OWN = frozenset({"failover", "failover_pair_id"})
"""Properties that on a QEMU command line sit beside ours, and change what the VM's own -device is."""
_OF_VFS = ("sriov", "vf", "max-vf", "num-vf", "numvf")


def unknown_property(driver: str, name: str) -> NetError:
    """qdev's error, and a hint where the property is known elsewhere."""
    hint = ": it belongs to the VM's own -device" if name in _VMS_OWN else ""
    if driver == "igb" and name.replace("_", "-").startswith(_OF_VFS):
        hint = ": vnic's igb has no VFs"
    return NetError(f"Property '{driver}.{name}' not found{hint}")
