"""Paths of probes: in their order, and without the copies of a flood."""

from __future__ import annotations

from vnic.lab.file.load import load
from vnic.lab.rehearse.paths import UNKNOWN, Paths

LAB = """
name: square
nodes: {h1: {kind: uml}, r1: {kind: uml}, r2: {kind: uml}, h2: {kind: uml}, h3: {kind: uml}, s: {kind: hub}}
links:
  - endpoints: ["r1:eth1", "r2:eth1"]
  - endpoints: ["r2:eth3", "r1:eth3"]
  - endpoints: ["h2:eth1", "r2:eth2"]
  - endpoints: ["h1:eth1", "s:a"]
  - endpoints: ["r1:eth2", "s:b"]
  - endpoints: ["h3:eth1", "s:c"]
"""


def text(*links: int, source: str = "h1", target: str = "h2") -> str:
    return Paths(load(LAB)[0]).text(source, target, frozenset(links))


def test_a_path_is_told_from_its_source_on() -> None:
    assert text(0, 2, 3, 4) == "h1:eth1 ── s:a, s:b ── r1:eth2, r1:eth1 ── r2:eth1, r2:eth2 ── h2:eth1"
    back = text(0, 2, 3, 4, source="h2", target="h1")
    assert back == "h2:eth1 ── r2:eth2, r2:eth1 ── r1:eth1, r1:eth2 ── s:b, s:a ── h1:eth1"


def test_copies_of_a_hub_are_no_part_of_it() -> None:
    assert text(1, 2, 3, 4, 5) == text(1, 2, 3, 4)


def test_parallel_links_are_two_paths() -> None:
    assert text(0, 2, 3, 4) != text(1, 2, 3, 4)


def test_a_probe_that_was_nowhere() -> None:
    assert text() == UNKNOWN


def test_nics_of_machines_only_are_looked_at() -> None:
    paths = Paths(load(LAB)[0])
    assert "s.a" not in paths.nics
    assert paths.nics["h1.eth1"][1] == 3
