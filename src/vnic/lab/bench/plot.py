"""Plots and a table of what `vnic bench … --json` printed: growth with the number of NICs, ratios beside their aims.

`python -m vnic.lab.bench.plot RESULTS.json FOLDER` writes the SVGs and the Markdown of docs/performance.md.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 50, 50
ROW: Final = 26
"""The height of a bar with its distance."""
LABELS: Final = 330
"""The width of the bars' names."""
LONGEST: Final = 2.0
"""A bar ends at this multiple of its aim."""
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
MET, MISSED = "#2ca02c", "#d62728"
_GROWTH: Final = re.compile(r"([\d_]+) NICs(?: of \d+ vnics)?: (.+)")
_AIM: Final = re.compile(r"at (least|most) ([\d.]+)")


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join((head, background, _text(width / 2, 24, title, "middle", 15), *parts, "</svg>\n"))


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "black") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {where}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd", width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"/>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose all values; at least one decade."""
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def growth(title: str, unit: str, series: Mapping[str, Points]) -> str:
    """Lines over the number of NICs, both axes logarithmic. All values are above zero."""
    points = [point for line in series.values() for point in line]
    x_low, x_high = _decades([x for x, _ in points])
    y_low, y_high = _decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in range(x_low, x_high + 1):
        x, _ = at(10.0**power, 10.0**y_low)
        parts += [
            _line(x, TOP, x, HEIGHT - BOTTOM),
            _text(x, HEIGHT - BOTTOM + 18, f"{10**power:,}", "middle"),
        ]
    for power in range(y_low, y_high + 1):
        _, y = at(10.0**x_low, 10.0**power)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{10.0**power:,g}", "end")]
    parts += [_text(WIDTH / 2, HEIGHT - 12, "NICs", "middle"), _text(12, TOP - 12, unit)]
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [at(x, y) for x, y in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(_text(LEFT + 12, TOP + 18 + 16 * index, name, colour=colour))
    return _svg(WIDTH, HEIGHT, title, parts)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """One bar for each (name, ratio, aim), as a multiple of its aim; green where the ratio is on its right side."""
    height = TOP + ROW * len(rows) + 16
    scale = (WIDTH - LABELS - RIGHT - 90) / LONGEST
    parts = []
    for index, (name, value, aim) in enumerate(rows):
        found = _AIM.search(aim)
        limit = float(found[2]) if found else 1.0
        y = TOP + ROW * index
        met = value <= limit if "most" in aim else value >= limit
        length = min(value / limit, LONGEST) * scale
        bar = f'x="{LABELS}" y="{y}" width="{length:.1f}" height="{ROW - 8}"'
        parts += [
            _text(LABELS - 8, y + 13, name, "end"),
            f'<rect {bar} fill="{MET if met else MISSED}"/>',
            _text(LABELS + max(length, scale) + 6, y + 13, f"{value:g} ({aim})"),
        ]
    parts.append(_line(LABELS + scale, TOP - 6, LABELS + scale, height - 14, "black", 2))
    return _svg(WIDTH, height, title, parts)


def plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The plots that these rows of `vnic bench --json` allow, by file name."""
    grown: dict[str, list[tuple[float, float]]] = {}
    for each in rows:
        found = _GROWTH.fullmatch(each["what"])
        if found and each["median"] > 0:
            grown.setdefault(found[2], []).append((float(found[1]), float(each["median"])))
    made = {}
    memory: dict[str, Points] = {name: grown[name] for name in ("memory of each",) if name in grown}
    times: dict[str, Points] = {
        name: grown[name] for name in ("start", "attach", "start and attach") if name in grown
    }
    if memory:
        made["wire-scale-memory.svg"] = growth("Memory of an attached NIC", "KiB", memory)
    if times:
        made["wire-scale-time.svg"] = growth("Time until all NICs are attached", "s", times)
    ratios = [
        (each["what"], float(each["median"]), each["target"])
        for each in rows
        if each["unit"] == "x" and _AIM.search(each["target"])
    ]
    if ratios:
        made["ratios.svg"] = bars("Ratios beside their aims (the line)", ratios)
    return made


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table: median, range, number of samples, aim."""
    lines = ["| what | median | range | samples | aim |", "|---|---|---|---|---|"]
    for each in rows:
        median = f"{each['median']:g} {each['unit']}"
        spread = f"{each['low']:g} … {each['high']:g}"
        lines.append(f"| {each['what']} | {median} | {spread} | {each['samples']} | {each['target']} |")
    return "\n".join(lines) + "\n"


def main(results: str, folder: str) -> None:
    rows = json.loads(Path(results).read_text())
    for name, text in {**plots(rows), "results.md": table(rows)}.items():
        path = Path(folder) / name
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:3])
