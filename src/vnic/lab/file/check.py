"""Checks what a lab file's types cannot say: kinds and their keys, interfaces used twice, names that collide.

`load` calls it; errors go into its `Findings`.
"""

from __future__ import annotations

import re
from typing import Final

from vnic.backend.options import TunnelOptions
from vnic.backend.tunnel import config as tunnel
from vnic.lab.file import clab
from vnic.lab.file.links import is_ip
from vnic.lab.file.marks import Path
from vnic.lab.file.names import nic_id
from vnic.lab.file.problems import Findings, meant, words
from vnic.lab.file.types import KEYS_OF, VMS, Lab, Node, NodeKeys
from vnic.net.errors import NetError

MIN_MEMORY_MIB: Final = 48
MAX_MEMORY_MIB: Final = 1 << 20
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._|-]{0,47}")
"""`|` is in the names of containerlab's bridges within a container: `BRIDGE|NODE`."""
_LINUX_NAME = re.compile(r"[^\s/:]{1,15}")
_MEMORY = re.compile(r"(\d+) ?([kmg]?)(i?b)?", re.I)
_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")
MAX_PORT: Final = 65535
_QEMU_BOOT: Final = ("initrd", "append")


def check_node(name: str, keys: NodeKeys, own: set[str], path: Path, found: Findings) -> Node | None:
    """The node of these keys, `own` of which are not inherited; None, and errors, if it is wrong."""
    if not _NODE_NAME.fullmatch(name):
        found.error(
            path,
            "a node's name has letters, digits, '.', '_', '-' and '|', 48 at most, a letter or digit first",
        )
        return None
    if keys.kind is None:
        found.error(path, f"the key 'kind' is missing: {', '.join(KEYS_OF)}")
        return None
    if keys.kind in KEYS_OF:
        return _own_kind(name, keys, own, path, found)
    if keys.kind in clab.HUBS:
        found.note((*path, "kind"), f"'{keys.kind}' is a kind of containerlab: taken as hub, one of this lab")
        return Node(name, "hub", NodeKeys(kind="hub"), keys.kind)
    if keys.kind == clab.HOST:
        return Node(name, "interface", NodeKeys(kind="interface"))
    if not clab.is_kind(keys.kind):
        found.error(
            (*path, "kind"), f"'{keys.kind}' is no kind: {', '.join(KEYS_OF)}" + meant(keys.kind, KEYS_OF)
        )
        return None
    found.note((*path, "kind"), f"'{keys.kind}' is a kind of containerlab: taken as socket, you start its VM")
    return Node(name, "socket", NodeKeys(kind="socket", model=keys.model), keys.kind)


def _own_kind(name: str, keys: NodeKeys, own: set[str], path: Path, found: Findings) -> Node | None:
    kind = keys.kind or ""
    kept: dict[str, object] = {"kind": kind}
    right = True
    for key in NodeKeys.__struct_encode_fields__:
        value = getattr(keys, key.replace("-", "_"))
        if value is None or key == "kind":
            continue
        if key in KEYS_OF[kind]:
            kept[key.replace("-", "_")] = value
        elif key in own:  # what is inherited was meant for other kinds
            right = False
            found.error((*path, key), f"a node of kind {kind} does not have it")
    for key in {"tunnel": ("remote", "vni")}.get(kind, ()):
        if key not in kept:
            right = False
            found.error(path, f"a node of kind {kind} needs '{key}'")
    for key in ("local", "remote"):
        if key in kept and not _is_place(str(kept[key])):
            right = False
            found.error((*path, key), f"'{kept[key]}' is no HOST or HOST:PORT")
    if kind == "tunnel" and right:
        right = _check_tunnel(name, kept, path, found)
    if "memory" in kept:
        memory = memory_mib(kept["memory"])
        if not MIN_MEMORY_MIB <= memory <= MAX_MEMORY_MIB:
            right = False
            found.error(
                (*path, "memory"), f"between {MIN_MEMORY_MIB} MiB and {MAX_MEMORY_MIB} MiB are expected"
            )
        kept["memory"] = memory
    if kind == "qemu":
        right = _check_qemu(kept, path, found) and right
    return Node(name, kind, NodeKeys(**kept)) if right else None  # type: ignore[arg-type]  # checked above


def _check_qemu(kept: dict[str, object], path: Path, found: Findings) -> bool:
    before = len(found.errors)
    for key in _QEMU_BOOT:
        if key in kept and "kernel" not in kept:
            found.error((*path, key), "it goes with 'kernel'")
    if "exec" in kept and ("image" in kept or "kernel" in kept):
        found.error((*path, "exec"), "it needs the built-in guest: without 'image' and 'kernel'")
    if "program" in kept and not ("image" in kept or "kernel" in kept):
        found.error((*path, "program"), "it goes with 'image' or 'kernel'")
    return len(found.errors) == before


def memory_mib(given: object) -> int:
    """`512`, `512MB` or `1 GiB` in MiB, units being powers of 1024, as QEMU's `-m` has them."""
    if isinstance(given, int):
        return given
    match = _MEMORY.fullmatch(str(given))
    if match is None:
        return 0
    if not match[2]:
        return int(match[1]) if not match[3] else int(match[1]) >> 20
    return int(match[1]) * _UNITS[match[2].lower()] >> 20


def _is_place(text: str) -> bool:
    """Whether it is a host's name or address, with or without a port: an IPv6 address before a port is in brackets."""
    host, port = text, "1"
    if (bracketed := _BRACKETED.fullmatch(text)) is not None:
        host, port = bracketed[1], bracketed[2] or "1"
        return is_ip(host) and ":" in host and 0 < int(port) <= MAX_PORT
    if text.count(":") == 1:
        host, _, port = text.partition(":")
    right_port = port.isascii() and port.isdecimal() and len(port) <= len(str(MAX_PORT))
    return right_port and 0 < int(port) <= MAX_PORT and (is_ip(host) or bool(_HOST.fullmatch(host)))


# -- the whole lab ----------------------------------------------------------------------------------------------------


def check_links(lab: Lab, paths: list[Path], found: Findings) -> None:
    """Each interface is at one link; a tunnel has one; names are such that the guest can have them."""
    used: dict[tuple[str, str], Path] = {}
    tunnels: dict[str, Path] = {}
    macs: dict[str, str] = {}
    for link, path in zip(lab.links, paths, strict=True):
        for end in (link.a, link.b):
            node = lab.nodes[end.node]
            if (before := used.get((end.node, end.interface))) is not None:
                again = "it is both ends" if before == path else f"it is at {words(before)} already"
                found.error((*path, "endpoints"), f"'{end}' has one link only: {again}")
            used[end.node, end.interface] = path
            if node.kind == "tunnel":
                if end.node in tunnels:
                    found.error(
                        path, f"tunnel '{end.node}' has one link only: {words(tunnels[end.node])} is another"
                    )
                tunnels[end.node] = path
            if (node.built_in or node.kind == "interface") and not _LINUX_NAME.fullmatch(end.interface):
                found.error(
                    path, f"'{end.interface}' is no name that Linux gives an interface (15 bytes at most)"
                )
            if end.mac is not None and node.kind not in VMS:
                found.error(path, f"'{end}' is no NIC: it has no MAC address to choose")
            if end.mac is not None and macs.setdefault(end.mac, str(end)) != str(end):
                found.error(path, f"{end.mac} is the MAC address of {macs[end.mac]}, too")
            if end.addresses and not node.built_in:
                found.note(path, f"the addresses of '{end}' are ignored: only vnic's own guests get them")


def _check_tunnel(name: str, kept: dict[str, object], path: Path, found: Findings) -> bool:
    """What vnic would refuse when the lab is started."""
    given = {key: value for key, value in kept.items() if key != "kind"}
    try:
        tunnel.check(TunnelOptions(id=name, **given))  # type: ignore[arg-type]  # of NodeKeys' types
    except NetError as error:
        found.error(path, str(error))
        return False
    return True


def check_ids(lab: Lab, path: Path, found: Findings) -> None:
    """No two interfaces get one NIC's id, in which only some characters may be."""
    seen: dict[str, str] = {}
    for link in lab.links:
        for end in (link.a, link.b):
            if lab.nodes[end.node].kind in VMS:
                other = seen.setdefault(nic_id(end), str(end))
                if other != str(end):
                    found.error(
                        (*path, end.node), f"'{end}' and '{other}' would both be the NIC {nic_id(end)}"
                    )
