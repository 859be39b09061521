"""Drawings of labs: goldens, and a document that is well-formed whatever the names are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vnic.lab.file.graph import mermaid, svg
from vnic.lab.file.load import load, load_file

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = Path(__file__).parents[4] / "examples"

ODD = """\
name: odd
nodes: {a: {kind: socket}, b: {kind: socket}, alone: {kind: hub}}
links:
  - endpoints: ["a:Gi0/0<1>", 'b:x"&y']
  - endpoints: ["a:2", "b:2"]
    state: down
  - endpoints: ["a:3", "a:4"]
"""


@pytest.mark.parametrize(("suffix", "draw"), [("svg", svg), ("mermaid", mermaid)])
def test_the_ring_is_drawn(suffix: str, draw: object) -> None:
    lab, _ = load_file(str(EXAMPLES / "ring.yml"))
    assert callable(draw)
    assert draw(lab) == (GOLDEN / f"ring.{suffix}").read_text()


def test_any_name_is_drawn() -> None:
    lab, _ = load(ODD)
    root = ElementTree.fromstring(svg(lab))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Gi0/0<1>" in texts
    assert 'x"&y' in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == 3
    assert '  n0 ---|"Gi0/0#60;1#62; · x#34;#38;y"| n1' in mermaid(lab)
    assert '  n0 -.-|"2 · 2"| n1' in mermaid(lab)


def test_a_thousand_nodes_are_read_and_drawn() -> None:
    nodes = "".join(f"  n{index}: {{kind: socket}}\n" for index in range(1000))
    links = "".join(f"  - endpoints: [n{index}:e1, n{(index + 1) % 1000}:e2]\n" for index in range(1000))
    lab, notes = load(f"name: many\nnodes:\n{nodes}links:\n{links}")
    assert not notes
    assert svg(lab).count("<path") == 1000
    assert mermaid(lab).count("---") == 1000
