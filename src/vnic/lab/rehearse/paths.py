"""Which way a probe took: the links at whose NICs it was seen, without those that only a flood reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vnic.lab.file.names import nic_id
from vnic.lab.file.types import VMS, End, Lab, Link

UNKNOWN: Final = "?"
"""The text of a path without links: none of the NICs on it belongs to the lab."""


class Paths:
    """The ways from node to node of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._links = lab.links
        self.nics: dict[str, tuple[End, int]] = {
            nic_id(end): (end, index)
            for index, link in enumerate(lab.links)
            for end in (link.a, link.b)
            if lab.nodes[end.node].kind in VMS
        }
        """All NICs by id: the end that each is, and the link's place in the lab."""
        self._known: dict[tuple[str, str, frozenset[int]], str] = {}

    def text(self, source: str, target: str, links: frozenset[int]) -> str:
        """The path of a probe that was seen on these links, as `h1:eth1 ── r1:eth1, r1:eth2 ── h2:eth1`."""
        key = source, target, links
        if key not in self._known:
            self._known[key] = self._walk(source, target, self._way(source, target, links))
        return self._known[key]

    def link_text(self, index: int) -> str:
        return str(self._links[index])

    def _way(self, source: str, target: str, links: Iterable[int]) -> list[Link]:
        """Without dead ends, into which a hub or a bridge sent copies."""
        left = [self._links[index] for index in sorted(links)]
        while True:
            nodes = [end.node for link in left for end in (link.a, link.b)]
            through = [
                link
                for link in left
                if all(end.node in (source, target) or nodes.count(end.node) > 1 for end in (link.a, link.b))
            ]
            if len(through) == len(left):
                return left
            left = through

    def _walk(self, source: str, target: str, links: list[Link]) -> str:
        """In the order of the way, as far as it can be followed."""
        node, left, parts = source, list(links), []
        while left:
            link = next((each for each in left if node in (each.a.node, each.b.node)), left[0])
            left.remove(link)
            near, far = (link.a, link.b) if link.a.node == node else (link.b, link.a)
            parts.append(f"{near} ── {far}")
            node = far.node
            if node == target:
                parts += [str(each) for each in left]
                break
        return ", ".join(parts) or UNKNOWN
