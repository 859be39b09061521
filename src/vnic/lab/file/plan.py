"""What a running vnic needs for a lab, as plain data, and the steps from one such plan to another. Pure.

`live.up` carries the steps out, also those back to the old plan when one fails.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import Any, Final

import msgspec

from vnic.lab.file.names import cable_name, natural, netdev_id, netdev_of, nic_id
from vnic.lab.file.problems import BadLab, Problem
from vnic.lab.file.types import GUESTS, VMS, End, Lab, Link, Node, NodeKeys

SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (unix(7))."""

DEFAULT_MODELS: Final = {"uml": "virtio-net", "qemu": "virtio-net-pci", "socket": "virtio-net"}

Options = dict[str, Any]


class GuestNic(msgspec.Struct, frozen=True):
    """A NIC of a guest: its socket and, in a uml guest, the name and the addresses that it gets."""

    nic: str
    interface: str
    socket: str
    model: str
    mac: str
    addresses: tuple[str, ...] = ()


class Guest(msgspec.Struct, frozen=True):
    """A guest that is to run. Any difference means that it is booted again."""

    name: str
    kind: str
    keys: NodeKeys
    nics: tuple[GuestNic, ...]


class Plan(msgspec.Struct):
    """All that a lab's vnic has: options as QMP takes them, by id. `impaired` has the words of netem by the NIC at a
    link's first end, `down` the netdevs that an operator holds."""

    netdevs: dict[str, Options] = msgspec.field(default_factory=dict)
    nics: dict[str, Options] = msgspec.field(default_factory=dict)
    impaired: dict[str, Options] = msgspec.field(default_factory=dict)
    down: list[str] = msgspec.field(default_factory=list)
    guests: dict[str, Guest] = msgspec.field(default_factory=dict)


class Step(msgspec.Struct, frozen=True):
    """One thing to do: `stop` or `boot` a guest, or a QMP command with its arguments."""

    do: str
    name: str
    arguments: Options = msgspec.field(default_factory=dict)


def make_plan(lab: Lab, folder: str) -> Plan:
    """The plan of a lab whose sockets are in `folder`. BadLab if a socket's path would be too long."""
    plan = Plan()
    ends: dict[str, list[GuestNic]] = {name: [] for name, node in lab.nodes.items() if node.kind in VMS}
    for link in lab.links:
        _add_link(plan, lab, link)
        for end in (link.a, link.b):
            node = lab.nodes[end.node]
            if node.kind in VMS:
                nic = _guest_nic(lab, end, folder)
                ends[end.node].append(nic)
                plan.nics[nic.nic] = _device(link, end, nic)
    for name, nics in ends.items():
        node = lab.nodes[name]
        if node.kind in GUESTS:
            ordered = sorted(nics, key=lambda nic: natural(nic.interface))
            plan.guests[name] = Guest(name, node.kind, node.keys, tuple(ordered))
    return plan


def _add_link(plan: Plan, lab: Lab, link: Link) -> None:
    far = lab.nodes[link.b.node]
    if far.kind in VMS:
        cable = {"type": "cable", "cable": cable_name(link.a, link.b)}
        if link.follow is not None:
            cable["follow"] = link.follow
        netdevs = [{**cable, "id": netdev_id(end)} for end in (link.a, link.b)]
    else:
        netdevs = [{**_far_netdev(far, link), "id": netdev_id(link.a)}]
    for options in netdevs:
        plan.netdevs[options["id"]] = options
        if link.down:
            plan.down.append(options["id"])
    if link.impairments is not None:
        plan.impaired[nic_id(link.a)] = dict(link.impairments.words())


def _far_netdev(node: Node, link: Link) -> Options:
    """The netdev that a hub, interface or tunnel node is."""
    if node.kind == "hub":
        return {"type": "hubport", "hubid": zlib.crc32(node.name.encode()) >> 1}
    keys: Options = {key: value for key, value in msgspec.to_builtins(node.keys).items() if key != "kind"}
    if link.follow is not None:
        keys["follow"] = link.follow
    if node.kind == "interface":
        if "netns" in keys:
            keys["netns"] = str(keys["netns"])
        return {"type": "interface", "ifname": link.b.interface, **keys}
    return {"type": "tunnel", **keys}


def _guest_nic(lab: Lab, end: End, folder: str) -> GuestNic:
    name = nic_id(end)
    path = os.path.join(folder, f"{name}.sock")
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        text = f"the path of the socket of '{end}' would be longer than {SOCKET_PATH_MAX} bytes: {path}"
        raise BadLab([Problem(1, 1, f"nodes.{end.node}", text)])
    node = lab.nodes[end.node]
    model = node.keys.model or DEFAULT_MODELS[node.kind]
    return GuestNic(name, end.interface, path, model, end.mac or default_mac(lab.name, name), end.addresses)


def _device(link: Link, end: End, nic: GuestNic) -> Options:
    attach = "vhost-user" if nic.model == "virtio-net" else "vfio-user"
    options: Options = {
        "driver": nic.model,
        "id": nic.nic,
        "netdev": netdev_id(end),
        "mac": nic.mac,
        "attach": {"type": attach, "path": nic.socket},
    }
    if link.mtu is not None and nic.model.startswith("virtio-net"):
        options["mtu"] = link.mtu
    return options


def default_mac(lab: str, nic: str) -> str:
    """A local MAC address that follows from the names: labs that tunnels join differ in them."""
    digest = hashlib.blake2b(f"{lab}/{nic}".encode(), digest_size=5).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x02" + digest)


# -- from one plan to another -----------------------------------------------------------------------------------------


def steps(old: Plan, new: Plan) -> list[Step]:
    """What leads from a running plan to another. What is equal in both is left alone."""
    gone_netdevs = _gone(old.netdevs, new.netdevs)
    gone_nics = _gone(old.nics, new.nics)
    found = [Step("stop", name) for name in _gone(old.guests, new.guests)]
    found += [Step("device_del", name, {"id": name}) for name in gone_nics]
    found += [Step("netdev_del", name, {"id": name}) for name in gone_netdevs]
    for name, options in new.netdevs.items():
        if name not in old.netdevs or name in gone_netdevs:
            off = {"link": False} if name in new.down else {}
            found.append(Step("netdev_add", name, {**options, **off}))
    found += [
        Step("device_add", name, options)
        for name, options in new.nics.items()
        if name not in old.nics or name in gone_nics
    ]
    for name in dict.fromkeys((*old.impaired, *new.impaired)):  # impairments go with their netdev
        words = new.impaired.get(name)
        before = None if netdev_of(name) in gone_netdevs else old.impaired.get(name)
        if words != before:
            found.append(Step("link-impair", name, {"name": name, "clear": True, **(words or {})}))
    for name in new.netdevs:
        kept = name in old.netdevs and name not in gone_netdevs
        if kept and (name in old.down) != (name in new.down):
            found.append(Step("set_link", name, {"name": name, "up": name not in new.down}))
    stopped = set(_gone(old.guests, new.guests))
    found += [Step("boot", name) for name in new.guests if name not in old.guests or name in stopped]
    return found


def _gone(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The names of what is no more, or differs."""
    return [name for name, each in old.items() if new.get(name) != each]


def types(plan: Plan) -> tuple[set[str], set[str]]:
    """The types of netdevs and of objects that the plan needs."""
    return (
        {options["type"] for options in plan.netdevs.values()},
        {"netem"} if plan.impaired else set(),
    )


def take(plan: Plan, step: Step, new: Plan) -> None:
    """Change `plan` as a step towards `new` that was done changed the lab."""
    name = step.name
    if step.do == "stop":
        plan.guests.pop(name, None)
    elif step.do == "boot":
        plan.guests[name] = new.guests[name]
    elif step.do == "device_del":
        plan.nics.pop(name, None)
    elif step.do == "device_add":
        plan.nics[name] = new.nics[name]
    elif step.do == "link-impair":
        plan.impaired.pop(name, None)
        if name in new.impaired:
            plan.impaired[name] = new.impaired[name]
    elif step.do == "netdev_del":
        plan.netdevs.pop(name, None)
        plan.down = [each for each in plan.down if each != name]
        plan.impaired = {nic: words for nic, words in plan.impaired.items() if netdev_of(nic) != name}
    else:
        if step.do == "netdev_add":
            plan.netdevs[name] = new.netdevs[name]
        plan.down = [each for each in plan.down if each != name] + [name] * (name in new.down)
