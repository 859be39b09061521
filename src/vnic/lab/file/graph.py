"""Draws a lab: as SVG, laid out in rows by distance from the best connected node, or as Mermaid's text.

`vnic lab graph` prints either. Colours and strokes follow the kinds; a link that is pulled is dashed.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from xml.sax.saxutils import escape

from vnic.lab.file.names import natural
from vnic.lab.file.types import Lab, Link

WIDTH, HEIGHT = 120, 44
GAP_X, GAP_Y = 90, 110
MARGIN = 40
LABEL_AT = 26
"""How far from a node's edge the name of an interface stands."""
SWEEPS = 4

FILLS = {
    "uml": "#d7e9f7",
    "qemu": "#dcefdc",
    "socket": "#f4f4f4",
    "hub": "#ece4f5",
    "interface": "#fbeecb",
    "tunnel": "#fde0d2",
}

Point = tuple[float, float]


def svg(lab: Lab) -> str:
    """An SVG document."""
    places = _places(lab)
    width = max(x for x, _ in places.values()) + WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT / 2 + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(lab.name)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    seen: dict[frozenset[str], int] = defaultdict(int)
    for link in lab.links:
        pair = frozenset((link.a.node, link.b.node))
        lines += _edge(link, places, seen[pair])
        seen[pair] += 1
    for name, (x, y) in places.items():
        kind = lab.nodes[name].kind
        lines += [
            f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
            f' fill="{FILLS[kind]}" stroke="#555"/>',
            f'<text x="{x:g}" y="{y - 2:g}" text-anchor="middle" font-weight="bold">{escape(_short(name))}</text>',
            f'<text x="{x:g}" y="{y + 14:g}" text-anchor="middle" fill="#666">{kind}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _edge(link: Link, places: dict[str, Point], nth: int) -> list[str]:
    """A link, bent where it is not the first of its nodes, or lies in their row."""
    (x1, y1), (x2, y2) = places[link.a.node], places[link.b.node]
    length = math.hypot(x2 - x1, y2 - y1)
    if length == 0:
        bend_x, bend_y = x1 + WIDTH, y1 - HEIGHT * (1.5 + nth)
    else:
        bend = (nth + 1) // 2 * 36 * (-1) ** nth
        if y1 == y2 and length > WIDTH + GAP_X + 1:
            bend += HEIGHT * 1.4
        bend_x = (x1 + x2) / 2 - (y2 - y1) / length * bend * 2
        bend_y = (y1 + y2) / 2 + abs(x2 - x1) / length * bend * 2
    dashes = ' stroke-dasharray="5 4"' if link.down else ""
    path = f"M{x1:.1f} {y1:.1f}Q{bend_x:.1f} {bend_y:.1f} {x2:.1f} {y2:.1f}"
    lines = [f'<path d="{path}" fill="none" stroke="#555"{dashes}/>']
    for end, (x, y) in ((link.a, (x1, y1)), (link.b, (x2, y2))):
        label_x, label_y = _label((x, y), (bend_x, bend_y))
        text = escape(_short(end.interface))
        lines.append(
            f'<text x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="middle" font-size="10">{text}</text>'
        )
    return lines


def _label(node: Point, bend: Point) -> Point:
    """A point on the way from a node to where its link bends, outside of the node's box."""
    dx, dy = bend[0] - node[0], bend[1] - node[1]
    to_edge = min(WIDTH / 2 / abs(dx) if dx else math.inf, HEIGHT / 2 / abs(dy) if dy else math.inf)
    length = math.hypot(dx, dy)
    at = min(to_edge + LABEL_AT / length, 1.0)
    return node[0] + dx * at, node[1] + dy * at - 3


def _short(text: str) -> str:
    return text if len(text) <= 17 else f"{text[:16]}…"


def _places(lab: Lab) -> dict[str, Point]:
    """The middle of each node: rows are distances, and a row's order follows its neighbours'."""
    neighbours: dict[str, list[str]] = {name: [] for name in lab.nodes}
    for link in lab.links:
        if link.a.node != link.b.node:
            neighbours[link.a.node].append(link.b.node)
            neighbours[link.b.node].append(link.a.node)
    rows = _rows(neighbours)
    column = {name: float(at) for row in rows for at, name in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else reversed(rows):
            middle = {
                name: sum(column[each] for each in neighbours[name]) / len(neighbours[name])
                if neighbours[name]
                else column[name]
                for name in row
            }
            row.sort(key=lambda name: middle[name])
            column.update({name: float(at) for at, name in enumerate(row)})
    widest = max(len(row) for row in rows)
    places = {}
    for depth, row in enumerate(rows):
        left = (widest - len(row)) / 2
        for at, name in enumerate(row):
            x = MARGIN + WIDTH / 2 + (left + at) * (WIDTH + GAP_X)
            places[name] = x, MARGIN + HEIGHT / 2 + depth * (HEIGHT + GAP_Y)
    return places


def _rows(neighbours: dict[str, list[str]]) -> list[list[str]]:
    rows: list[list[str]] = []
    left = dict.fromkeys(sorted(neighbours, key=lambda name: (-len(neighbours[name]), natural(name))))
    while left:
        queue = deque([(next(iter(left)), 0)])
        del left[queue[0][0]]
        while queue:
            name, depth = queue.popleft()
            if depth == len(rows):
                rows.append([])
            rows[depth].append(name)
            for each in neighbours[name]:
                if each in left:
                    del left[each]
                    queue.append((each, depth + 1))
    return rows


def mermaid(lab: Lab) -> str:
    """A flowchart in Mermaid's text, which GitHub and GitLab draw."""
    ids = {name: f"n{index}" for index, name in enumerate(lab.nodes)}
    lines = ["graph TD"]
    for name, node in lab.nodes.items():
        lines.append(f'  {ids[name]}["{name}<br/>{node.kind}"]')
    for link in lab.links:
        line = "-.-" if link.down else "---"
        text = f"{_mermaid(link.a.interface)} · {_mermaid(link.b.interface)}"
        lines.append(f'  {ids[link.a.node]} {line}|"{text}"| {ids[link.b.node]}')
    return "\n".join([*lines, ""])


def _mermaid(text: str) -> str:
    return "".join(char if char.isalnum() or char in "/._-" else f"#{ord(char)};" for char in text)
