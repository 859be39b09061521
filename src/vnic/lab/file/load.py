"""Reads a lab file: YAML in containerlab's words, as a checked `Lab`, with notes on what is ignored.

`vnic lab` calls `load_file`. All errors of a file are found in one pass, each with its line, its column and its key.
"""

from __future__ import annotations

from pathlib import Path as FilePath

from vnic.lab.file import clab
from vnic.lab.file.check import check_ids, check_links, check_node
from vnic.lab.file.links import Wiring
from vnic.lab.file.marks import MAX_BYTES, BadYaml, Item, Path, parse
from vnic.lab.file.problems import IGNORED, BadLab, Findings, Problem, meant
from vnic.lab.file.types import FileKeys, Lab, Link, Node, NodeKeys

_TOPOLOGY = ("nodes", "links", "kinds", "defaults", "groups")
_TOP = ("name", "topology", *_TOPOLOGY)


def load_file(path: str) -> tuple[Lab, list[Problem]]:
    """The lab of a file, and the notes. BadLab for a bad one; OSError if it cannot be read."""
    with FilePath(path).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return load(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadLab([Problem(line, 1, "", "the file is not UTF-8")], path) from None
    except BadLab as error:
        raise BadLab(error.problems, path) from None


def load(text: str) -> tuple[Lab, list[Problem]]:
    """The lab of a text, and the notes on what is ignored. BadLab with all that is wrong."""
    try:
        root = parse(text)
    except BadYaml as error:
        raise BadLab([Problem(error.line, error.column, "", error.text)]) from None
    findings = Findings(root)
    lab = _Reader(root, findings).lab()
    findings.raise_errors()
    assert lab is not None
    return lab, findings.notes


class _Reader:
    def __init__(self, root: Item, findings: Findings) -> None:
        self._root = root
        self._found = findings

    def lab(self) -> Lab | None:
        """None where errors leave nothing to look at."""
        found = self._found
        if not isinstance(self._root.value, dict):
            found.error((), "a lab is a mapping with the keys name, nodes and links")
            return None
        top = self._root.value
        name = self._name(top)
        topology, where = self._topology(top)
        if topology is None:
            return None
        parents = self._parents(topology, where)
        nodes = self._nodes(topology.value.get("nodes"), where, parents)
        if nodes is None:
            return None
        wiring = Wiring(nodes, topology.value["nodes"].value.keys() - nodes, found)
        links = self._links(topology.value.get("links"), where, wiring)
        lab = Lab(name or "lab", wiring.nodes, links)
        check_links(lab, wiring.paths, found)
        check_ids(lab, (*where, "nodes"), found)
        return lab

    def _name(self, top: dict[str, Item]) -> str | None:
        given = top.get("name")
        if given is None:
            self._found.error((), "the key 'name' is missing")
            return None
        made = self._found.convert({"name": given.plain()}, (), FileKeys)
        return made.name if made is not None else None

    def _topology(self, top: dict[str, Item]) -> tuple[Item | None, Path]:
        """What has nodes and links, and where: below `topology`, or the file itself."""
        nested = "topology" in top
        known = ("name", "topology") if nested else _TOP
        self._keys(top, (), known, clab.TOP)
        if not nested:
            return self._root, ()
        topology = top["topology"]
        if not isinstance(topology.value, dict):
            self._found.error(("topology",), "a mapping with nodes and links is expected")
            return None, ()
        self._keys(topology.value, ("topology",), _TOPOLOGY, ())
        return topology, ("topology",)

    def _keys(
        self, given: dict[str, Item], path: Path, known: tuple[str, ...], ignored: frozenset[str] | tuple[()]
    ) -> None:
        for key in given:
            if key in ignored:
                self._found.note((*path, key), IGNORED)
            elif key not in known:
                moved = "; with 'topology' it belongs below that" if key in _TOPOLOGY else meant(key, known)
                self._found.error((*path, key), f"unknown key{moved}")

    # -- nodes --------------------------------------------------------------------------------------------------

    def _parents(self, topology: Item, where: Path) -> dict[tuple[str, str], dict[str, Item]]:
        """What nodes inherit: by ("defaults", ""), ("kinds", KIND) and ("groups", GROUP)."""
        found: dict[tuple[str, str], dict[str, Item]] = {}
        for key in ("defaults", "kinds", "groups"):
            item = topology.value.get(key)
            if item is None or item.value is None:
                continue
            if not isinstance(item.value, dict):
                self._found.error((*where, key), "a mapping is expected")
                continue
            entries = {"": item} if key == "defaults" else item.value
            for name, each in entries.items():
                path = (*where, key, name) if name else (*where, key)
                if isinstance(each.value, dict):
                    found[key, name] = each.value
                    self._found.keys(each, path, NodeKeys, clab.NODE)
                elif each.value is not None:
                    self._found.error(path, "a mapping is expected")
        return found

    def _nodes(
        self, item: Item | None, where: Path, parents: dict[tuple[str, str], dict[str, Item]]
    ) -> dict[str, Node] | None:
        path = (*where, "nodes")
        if item is None or not isinstance(item.value, dict) or not item.value:
            self._found.error(
                path if item is not None else where, "a mapping 'nodes' with at least one node is expected"
            )
            return None
        nodes = {}
        for name, each in item.value.items():
            node = self._node(name, each, (*path, name), parents)
            if node is not None:
                nodes[name] = node
        return nodes

    def _node(
        self, name: str, item: Item, path: Path, parents: dict[tuple[str, str], dict[str, Item]]
    ) -> Node | None:
        if item.value is not None and not isinstance(item.value, dict):
            self._found.error(path, "a mapping is expected")
            return None
        own = item.value or {}
        inherited = [parents.get(("defaults", ""), {})]
        group = own.get("group") or inherited[0].get("group")
        by_group = parents.get(("groups", str(group.value)), {}) if group is not None else {}
        kind = own.get("kind") or by_group.get("kind") or inherited[0].get("kind")
        if kind is not None:
            inherited.append(parents.get(("kinds", str(kind.value)), {}))
        merged = {key: each for layer in (*inherited, by_group, own) for key, each in layer.items()}
        read = Item(merged, item.line, item.column, item.keys)
        keys = self._found.keys(read, path, NodeKeys, clab.NODE, set(own) - {"group"})
        return None if keys is None else check_node(name, keys, set(own), path, self._found)

    # -- links --------------------------------------------------------------------------------------------------

    def _links(self, item: Item | None, where: Path, wiring: Wiring) -> list[Link]:
        path = (*where, "links")
        if item is None or item.value is None:
            return []
        if not isinstance(item.value, list):
            self._found.error(path, "a list of links is expected")
            return []
        made = (wiring.link(each, (*path, index)) for index, each in enumerate(item.value))
        return [link for link in made if link is not None]
