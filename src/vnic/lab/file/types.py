"""The types of a lab file: its keys as the file has them, and the checked lab that `load` makes of it.

The JSON Schema is made of the first; `plan` and `graph` read the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vnic.lab.guest.drivers import DRIVERS

Kind: TypeAlias = Literal["uml", "qemu", "socket", "hub", "interface", "tunnel"]
if TYPE_CHECKING:
    Model: TypeAlias = str
else:
    Model = Literal[("virtio-net", *DRIVERS)]
LinkType: TypeAlias = Literal[
    "veth", "veth-stitch", "host", "vxlan", "vxlan-stitch", "mgmt-net", "macvlan", "dummy"
]
FollowWord: TypeAlias = Literal["operator", "attached", "driver", "admin"]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]
Size: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]+ ?([kKmMgG]([iI]?[bB])?)?$")]
"""Bytes with a unit; a number without one counts MiB."""
Vni: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFFFF)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
Mtu: TypeAlias = Annotated[int, Meta(ge=68, le=65535)]
Percent: TypeAlias = (
    Annotated[float, Meta(ge=0, le=100)] | Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?%$")]
)
Count: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Mac: TypeAlias = Annotated[str, Meta(pattern="^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$")]
Pair: TypeAlias = Annotated[list[str], Meta(max_length=2)]
Duration: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(us|ms|s)$")]


class Keys(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whatever a file has keys of. Keys that are not here are refused, or known as containerlab's and ignored."""


# -- what is in the file ----------------------------------------------------------------------------------------------


class NodeKeys(Keys):
    """A node. Which keys it may have follows from its kind (KEYS_OF)."""

    kind: Annotated[
        str | None,
        Meta(description="uml, qemu, socket, hub, interface or tunnel; containerlab's are `socket`"),
    ] = None
    memory: Annotated[Size | int | None, Meta(description="of the guest: MiB, or with a unit, 512MB")] = None
    exec: Annotated[
        list[Text] | None, Meta(description="shell commands that run in the guest when it has booted")
    ] = None
    modules: Annotated[
        list[Text] | None, Meta(description="kernel modules that a uml guest loads, as 8021q")
    ] = None
    root: Annotated[
        Text | None, Meta(description="the folder that a uml guest has as its root; / is this machine's own")
    ] = None
    image: Annotated[Text | None, Meta(description="the disk image that a qemu node boots")] = None
    kernel: Annotated[Text | None, Meta(description="the kernel that a qemu node boots")] = None
    initrd: Annotated[Text | None, Meta(description="the initrd beside `kernel`")] = None
    append: Annotated[Text | None, Meta(description="the command line of `kernel`")] = None
    program: Annotated[Text | None, Meta(description="the QEMU of a qemu node")] = None
    arguments: Annotated[list[Text] | None, Meta(description="further arguments of QEMU, a word each")] = None
    model: Annotated[
        Model | None, Meta(description="the NICs: virtio-net, over vhost-user, or one on PCI")
    ] = None
    netns: Annotated[
        Text | int | None, Meta(description="the network namespace of an interface node: name, path or pid")
    ] = None
    propagate: Annotated[
        bool | None, Meta(description="the interface is set down while the NIC is held or its VM is gone")
    ] = None
    local: Annotated[
        Text | None, Meta(description="this end of a tunnel: HOST or HOST:PORT; default: all addresses")
    ] = None
    remote: Annotated[
        Text | None, Meta(description="the other end of a tunnel: HOST or HOST:PORT, port 4789 by default")
    ] = None
    vni: Annotated[Vni | None, Meta(description="the VXLAN network identifier of a tunnel")] = None
    mtu: Annotated[Mtu | None, Meta(description="the MTU of a tunnel")] = None
    interval: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="milliseconds between a tunnel's CCMs")
    ] = None
    level: Annotated[
        Annotated[int, Meta(ge=0, le=7)] | None, Meta(description="the maintenance level of a tunnel's CCMs")
    ] = None
    ccm: Annotated[Literal["on", "auto", "off"] | None, Meta(description="whether a tunnel sends CCMs")] = (
        None
    )
    key: Annotated[Text | None, Meta(description="the key that both ends of a tunnel share")] = None
    key_file: Annotated[Text | None, Meta(description="the file whose first line is that key")] = None
    mep: Annotated[
        Annotated[int, Meta(ge=1, le=8191)] | None, Meta(description="a tunnel's own MEP in its CCMs")
    ] = None
    md: Annotated[Text | None, Meta(description="the maintenance domain of a tunnel's CCMs")] = None
    ma: Annotated[Text | None, Meta(description="the maintenance association of a tunnel's CCMs")] = None


KEYS_OF: Final[dict[str, frozenset[str]]] = {
    "uml": frozenset({"memory", "exec", "modules", "root"}),
    "qemu": frozenset(
        {"memory", "exec", "image", "kernel", "initrd", "append", "program", "arguments", "model"}
    ),
    "socket": frozenset({"model"}),
    "hub": frozenset(),
    "interface": frozenset({"netns", "propagate"}),
    "tunnel": frozenset(
        {
            *("local", "remote", "vni", "mtu", "interval", "level", "ccm", "key", "key-file"),
            *("mep", "md", "ma"),
        }
    ),
}
"""The keys of each kind, beside `kind`."""

GUESTS: Final = ("uml", "qemu")
"""The kinds that `vnic lab up` boots."""
VMS: Final = (*GUESTS, "socket")
"""The kinds that have NICs."""


class EndpointKeys(Keys):
    """An end of a link in the long form; the short one is `NODE:INTERFACE`."""

    node: Text
    interface: Text
    mac: Mac | None = None
    ipv4: str | None = None
    ipv6: str | None = None


Ends: TypeAlias = Annotated[list[EndpointKeys | str], Meta(min_length=2, max_length=2)]


class Impairments(Keys):
    """What netem does to a link's frames, in both directions: tc-netem's and containerlab's words."""

    delay: Duration | None = None
    jitter: Duration | None = None
    delay_correlation: Percent | None = None
    distribution: Literal["uniform", "normal", "pareto", "paretonormal"] | None = None
    loss: Annotated[Percent | None, Meta(description="percent of the frames")] = None
    loss_correlation: Percent | None = None
    duplicate: Percent | None = None
    duplicate_correlation: Percent | None = None
    corrupt: Percent | None = None
    corrupt_correlation: Percent | None = None
    reorder: Percent | None = None
    reorder_correlation: Percent | None = None
    gap: Annotated[Count | None, Meta(description="each n-th frame is sent at once, the others later")] = None
    rate: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?[kmgt]?bit$")] | None, Meta(description="as 10mbit")
    ] = None
    limit: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="frames under way at most")] = None
    max_frame: Annotated[Count | None, Meta(description="frames of more bytes are lost; 0: none")] = None
    seed: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="of the random numbers; else one is drawn")
    ] = None

    def words(self) -> dict[str, str | int]:
        """As `-object netem` takes them."""
        given: dict[str, str | int | float] = msgspec.to_builtins(self)
        return {key: f"{value:g}%" if isinstance(value, float) else value for key, value in given.items()}


class LinkKeys(Keys):
    """A link: `endpoints` of two, or `endpoint` with a `type` of containerlab that has one."""

    endpoints: Annotated[Ends | None, Meta(description="both ends")] = None
    endpoint: EndpointKeys | str | None = None
    type: LinkType = "veth"
    follow: Annotated[
        list[FollowWord] | Literal["none"] | FollowWord | None,
        Meta(description="what of one end holds the other; by default operator, attached, driver"),
    ] = None
    state: Annotated[Literal["up", "down"], Meta(description="down: pulled from the start")] = "up"
    impairments: Impairments | None = None
    ipv4: Annotated[Pair | None, Meta(description="the addresses of the ends")] = None
    ipv6: Annotated[Pair | None, Meta(description="the addresses of the ends")] = None
    mtu: Annotated[Mtu | None, Meta(description="the MTU that the NICs of the link tell their guests")] = None
    host_interface: Annotated[Text | None, Meta(description="of `type: host`: the interface")] = None
    remote: Annotated[Text | None, Meta(description="of `type: vxlan`: the other end's address")] = None
    vni: Vni | None = None
    dst_port: Port | None = None
    udp_port: Annotated[Port | None, Meta(description="an older name of dst-port")] = None
    src_port: Port | None = None


class TopologyKeys(Keys):
    """Nodes and links, below `topology` or at the top of the file."""

    nodes: dict[str, NodeKeys | None]
    links: list[LinkKeys] | None = None
    kinds: dict[str, NodeKeys] | None = None
    defaults: NodeKeys | None = None
    groups: dict[str, NodeKeys] | None = None


class FileKeys(Keys):
    """A lab file, with nodes and links at its top. The form with `topology` is containerlab's."""

    name: Annotated[
        str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$", description="of the lab and its vnic")
    ]
    topology: TopologyKeys | None = None
    nodes: dict[str, NodeKeys | None] | None = None
    links: list[LinkKeys] | None = None
    kinds: dict[str, NodeKeys] | None = None
    defaults: NodeKeys | None = None
    groups: dict[str, NodeKeys] | None = None


# -- the checked lab --------------------------------------------------------------------------------------------------


class End(msgspec.Struct, frozen=True):
    """One end of a link: a NIC, or what an interface or tunnel node stands for."""

    node: str
    interface: str
    mac: str | None = None
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


class Link(msgspec.Struct, frozen=True):
    """A checked link. Its first end is a VM's."""

    a: End
    b: End
    follow: str | None = None
    down: bool = False
    impairments: Impairments | None = None
    mtu: int | None = None

    def __str__(self) -> str:
        return f"{self.a} ── {self.b}"


class Node(msgspec.Struct, frozen=True):
    """A checked node: `keys` has only what its kind has; `memory` is in MiB there."""

    name: str
    kind: str
    keys: NodeKeys
    foreign: str | None = None
    """The kind in the file, where it is one of containerlab's."""

    @property
    def built_in(self) -> bool:
        """Whether its guest is vnic's own: it gets names and addresses, and runs commands."""
        return self.kind == "uml" or (
            self.kind == "qemu" and self.keys.image is None and self.keys.kernel is None
        )


class Lab(msgspec.Struct, frozen=True):
    name: str
    nodes: dict[str, Node]
    links: list[Link]
