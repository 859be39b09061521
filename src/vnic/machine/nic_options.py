"""The properties of the NICs that `-device` and device_add make, one Struct for each driver.

`nics.py` builds the NICs from them; virtio-net's features, of which there are many, are in `virtio_features.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

import msgspec

from vnic.machine.virtio_features import NicOptions, VirtioFeatures


class _Attach(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    path: str
    """The socket; with `server` vnic listens there, else it connects."""
    server: bool = True


class VhostUserAttach(_Attach, tag_field="type", tag="vhost-user", kw_only=True):
    """The VM reaches the NIC as its vhost-user back-end."""


class VfioUserAttach(_Attach, tag_field="type", tag="vfio-user", kw_only=True):
    """The VM reaches the NIC as a PCI device over vfio-user."""


U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
I32: TypeAlias = Annotated[int, msgspec.Meta(ge=-0x80000000, le=0x7FFFFFFF)]


class VirtioNetBase(VirtioFeatures, kw_only=True):
    """QEMU's virtio-net properties, as far as vnic has them. `speed` is in Mbit/s, -1: not told."""

    attach: VhostUserAttach | VfioUserAttach | None = None
    host_mtu: U16 = 0
    mtu: U16 = 0
    speed: I32 = -1
    duplex: str | None = None
    mq: bool = False
    vectors: U32 | None = None
    msix: bool = True
    rx_queue_size: U16 = 1024
    tx_queue_size: U16 = 1024


class VirtioNetOptions(VirtioNetBase, tag_field="driver", tag="virtio-net", kw_only=True):
    """virtio-net, over either kind of socket."""


class VirtioNetPciOptions(VirtioNetBase, tag_field="driver", tag="virtio-net-pci", kw_only=True):
    """virtio-net as a PCI device, a modern one: what QEMU's properties ask beyond that is refused."""

    disable_legacy: Literal["on", "off", "auto"] = msgspec.field(name="disable-legacy", default="auto")
    disable_modern: bool = msgspec.field(name="disable-modern", default=False)


class PciNicOptions(NicOptions, kw_only=True):
    """What all NICs on PCI but virtio-net have."""

    attach: VfioUserAttach | None = None


class E1000Options(PciNicOptions, tag_field="driver", tag="e1000", kw_only=True):
    """Intel's gigabit card. `autonegotiation=off`: its link comes up without the 500 ms that a real one takes."""

    autonegotiation: bool = True


class E1000EmOptions(E1000Options, tag="e1000-82540em", kw_only=True):
    """QEMU's alias of e1000."""


class E1000GcOptions(E1000Options, tag="e1000-82544gc", kw_only=True):
    """The 82544GC."""


class E1000Em2Options(E1000Options, tag="e1000-82545em", kw_only=True):
    """The 82545EM."""


class IgbOptions(PciNicOptions, tag_field="driver", tag="igb", kw_only=True):
    """Intel's gigabit card with several queues. It has no VFs: QEMU's properties of these are refused."""


class Vmxnet3Options(PciNicOptions, tag_field="driver", tag="vmxnet3", kw_only=True):
    """VMware's paravirtual card."""


class Rtl8139Options(PciNicOptions, tag_field="driver", tag="rtl8139", kw_only=True):
    """Realtek's RTL8139C+."""


class PcnetOptions(PciNicOptions, tag_field="driver", tag="pcnet", kw_only=True):
    """AMD's PCnet-PCI II."""


class E1000eOptions(PciNicOptions, tag_field="driver", tag="e1000e", kw_only=True):
    """The 82574L."""


class TulipOptions(PciNicOptions, tag_field="driver", tag="tulip", kw_only=True):
    """DEC's 21143."""


class Ne2kPciOptions(PciNicOptions, tag_field="driver", tag="ne2k_pci", kw_only=True):
    """Realtek's RTL8029, an NE2000 on PCI."""


def _options_of(driver: str) -> type[PciNicOptions]:
    """The properties of a driver that has none of its own."""
    return cast(
        type[PciNicOptions],
        msgspec.defstruct(
            f"{driver.upper()}Options",
            (),
            bases=(PciNicOptions,),
            tag_field="driver",
            tag=driver,
            kw_only=True,
        ),
    )


EEPRO100_OPTIONS: dict[str, type[PciNicOptions]] = {
    name: _options_of(name)
    for name in (
        *("i82550", "i82551", "i82557a", "i82557b", "i82557c", "i82558a", "i82558b"),
        *("i82559a", "i82559b", "i82559c", "i82559er", "i82562", "i82801"),
    )
}
"""Intel's 8255x family."""
