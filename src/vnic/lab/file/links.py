"""Reads the links of a lab file, in all of containerlab's forms; `load` calls it for each.

The short form is `NODE:INTERFACE`; the long one has a mapping for each end. Types with one `endpoint` get their other
end here: a node of kind `interface` or `tunnel`.
"""

from __future__ import annotations

import ipaddress

from vnic.lab.file import clab
from vnic.lab.file.marks import Item, Path
from vnic.lab.file.problems import IGNORED, Findings, meant
from vnic.lab.file.types import VMS, End, EndpointKeys, Impairments, Link, LinkKeys, Node, NodeKeys
from vnic.net.errors import NetError
from vnic.net.netem import parameters

CONTAINERLABS_VXLAN_PORT = 14789
"""The port of its links of type vxlan."""


class Wiring:
    """The nodes of a lab, with those that links bring along, and the places of the links that were read."""

    def __init__(self, nodes: dict[str, Node], wrong: set[str], findings: Findings) -> None:
        self.nodes = nodes
        self._wrong = wrong
        """Nodes that have an error: their links need no further one."""
        self.paths: list[Path] = []
        """Where each link stands that `link` returned."""
        self._found = findings

    def link(self, item: Item, path: Path) -> Link | None:
        """One entry of `links`; None if it is wrong, or left out with a note."""
        endpoints = item.value.get("endpoints") if isinstance(item.value, dict) else None
        if endpoints is not None and isinstance(endpoints.value, list):
            endpoints = self._without_vars(endpoints, (*path, "endpoints"))
            item = Item({**item.value, "endpoints": endpoints}, item.line, item.column, item.keys)
        elif isinstance(item.value, dict) and isinstance((one := item.value.get("endpoint")), Item):
            item = Item(
                {**item.value, "endpoint": self._plain_end(one, (*path, "endpoint"))},
                item.line,
                item.column,
                item.keys,
            )
        keys = self._found.keys(item, path, LinkKeys, clab.LINK)
        if keys is None:
            return None
        if keys.type in clab.LINKLESS:
            self._found.note((*path, "type"), f"the link is left out: vnic has no '{keys.type}'")
            return None
        if keys.endpoints is not None and keys.endpoint is not None:
            self._found.error(path, "either 'endpoint' or 'endpoints' is expected")
            return None
        link = self._pair(keys, path) if keys.endpoints is not None else self._single(keys, path)
        if link is not None:
            self.paths.append(path)
        return link

    def _without_vars(self, endpoints: Item, path: Path) -> Item:
        values = [self._plain_end(each, (*path, index)) for index, each in enumerate(endpoints.value)]
        return Item(values, endpoints.line, endpoints.column)

    def _plain_end(self, item: Item, path: Path) -> Item:
        """An end without containerlab's keys."""
        if not isinstance(item.value, dict) or not clab.ENDPOINT & set(item.value):
            return item
        self._found.note(path, f"{IGNORED}: {', '.join(sorted(clab.ENDPOINT & set(item.value)))}")
        kept = {key: each for key, each in item.value.items() if key not in clab.ENDPOINT}
        return Item(kept, item.line, item.column, item.keys)

    # -- the two forms ------------------------------------------------------------------------------------------

    def _pair(self, keys: LinkKeys, path: Path) -> Link | None:
        for key in ("host-interface", "remote", "vni", "dst-port", "udp-port", "src-port"):
            if getattr(keys, key.replace("-", "_")) is not None:
                self._found.error((*path, key), "a link with 'endpoints' does not have it")
                return None
        ends = []
        assert keys.endpoints is not None
        for index, each in enumerate(keys.endpoints):
            where = (*path, "endpoints", index)
            name = each.partition(":")[0] if isinstance(each, str) else each.node
            if name in clab.LINKLESS and name not in self.nodes:
                self._found.note(where, f"the link is left out: vnic has no '{name}'")
                return None
            ends.append(self._end(each, where, keys, index))
        a, b = ends
        if a is None or b is None:
            return None
        if self.nodes[a.node].kind not in VMS:
            a, b = b, a
        if self.nodes[a.node].kind not in VMS:
            self._found.error(path, f"at least one end is to be a VM's: {a.node} and {b.node} are none")
            return None
        return self._made(a, b, keys, path)

    def _single(self, keys: LinkKeys, path: Path) -> Link | None:
        if keys.endpoint is None:
            self._found.error(path, "the key 'endpoints' is missing")
            return None
        if keys.type not in ("host", "vxlan", "vxlan-stitch"):
            self._found.error(path, f"a link of type {keys.type} has 'endpoints', not 'endpoint'")
            return None
        end = self._end(keys.endpoint, (*path, "endpoint"), keys, 0)
        if end is None:
            return None
        if self.nodes[end.node].kind not in VMS:
            self._found.error((*path, "endpoint"), f"node '{end.node}' is no VM")
            return None
        if keys.type == "host":
            if keys.host_interface is None:
                self._found.error(path, "the key 'host-interface' is missing")
                return None
            self._add(Node(clab.HOST, "interface", NodeKeys()))
            return self._made(end, End(clab.HOST, keys.host_interface), keys, path)
        missing = [key for key in ("remote", "vni") if getattr(keys, key) is None]
        if missing:
            self._found.error(path, f"the key '{missing[0]}' is missing")
            return None
        if not is_ip(str(keys.remote)):
            self._found.error((*path, "remote"), f"'{keys.remote}' is no IP address")
            return None
        host = f"[{keys.remote}]" if ":" in str(keys.remote) else keys.remote
        port = keys.dst_port or keys.udp_port or CONTAINERLABS_VXLAN_PORT
        if keys.src_port is not None:
            self._found.note((*path, "src-port"), f"{IGNORED}: a tunnel sends from a port of its own")
        tunnel = NodeKeys(remote=f"{host}:{port}", vni=keys.vni, mtu=keys.mtu, ccm="auto")
        name = f"vxlan-{keys.vni}"
        if name in self.nodes:
            self._found.error(
                path, f"a node '{name}' is there already; make a node of kind tunnel for this link"
            )
            return None
        self._add(Node(name, "tunnel", tunnel))
        return self._made(end, End(name, "vxlan"), keys, path)

    def _add(self, node: Node) -> None:
        self.nodes.setdefault(node.name, node)

    # -- ends ---------------------------------------------------------------------------------------------------

    def _end(self, given: EndpointKeys | str, path: Path, keys: LinkKeys, index: int) -> End | None:
        if isinstance(given, str):
            node, colon, interface = (part.strip() for part in given.partition(":"))
            if not (node and colon and interface):
                self._found.error(path, f"'{given}' is no NODE:INTERFACE")
                return None
            given = EndpointKeys(node=node, interface=interface)
        if given.node == clab.HOST:
            self._add(Node(clab.HOST, "interface", NodeKeys()))
        if given.node in self._wrong:
            return None
        if given.node not in self.nodes:
            self._found.error(path, f"there is no node '{given.node}'" + meant(given.node, self.nodes))
            return None
        addresses = [given.ipv4, given.ipv6]
        for column, both in enumerate((keys.ipv4, keys.ipv6)):
            if addresses[column] is None and both is not None and index < len(both):
                addresses[column] = both[index]
        for version, address in zip((4, 6), addresses, strict=True):
            if address and not _is_address(address, version):
                self._found.error(path, f"'{address}' is no IPv{version} address with its prefix's length")
                return None
        mac = given.mac.lower().replace("-", ":") if given.mac is not None else None
        if mac is not None and int(mac[:2], 16) & 1:
            self._found.error((*path, "mac"), f"{mac} is a multicast address")
            return None
        return End(given.node, given.interface, mac, tuple(each for each in addresses if each))

    def _made(self, a: End, b: End, keys: LinkKeys, path: Path) -> Link | None:
        far = self.nodes[b.node]
        words = None
        if keys.follow is not None:
            if far.kind not in (*VMS, "tunnel"):
                self._found.error((*path, "follow"), f"only cables and tunnels follow, and {b.node} is none")
                return None
            given = [keys.follow] if isinstance(keys.follow, str) else keys.follow
            words = "+".join(dict.fromkeys(given)) or "none"
        if keys.impairments == Impairments():
            self._found.error((*path, "impairments"), "there is none in it")
            return None
        if keys.impairments is not None:
            wanted = keys.impairments.words()
            wanted.pop("seed", None)
            try:
                parameters.changed(parameters.NOTHING, wanted)
            except NetError as error:
                self._found.error((*path, "impairments"), error.desc)
                return None
        return Link(a, b, words, keys.state == "down", keys.impairments, keys.mtu)


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_address(text: str, version: int) -> bool:
    try:
        return "/" in text and ipaddress.ip_interface(text).version == version
    except ValueError:
        return False
