"""Draws a rehearsal as SVG: a row for each run and direction, on an axis of milliseconds since the change.

A bar is the time in which probes came, in the colour of the path that they took; a gap is an outage. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from vnic.lab.rehearse.records import Direction, Event, Rehearsal, Run
from vnic.lab.rehearse.report import ms
from vnic.lab.rehearse.summary import EVENTS, directions, first_interrupt, last_seen

WIDTH: Final = 920
LEFT: Final = 150
RIGHT: Final = 110
ROW: Final = 16
HEAD: Final = 58
GAP: Final = 34
PATH_COLOURS: Final = ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22")
OUTAGE: Final = "#d62728"
INTERRUPT: Final = "#ff7f0e"
LEAD_PART: Final = 0.12
"""The part of the axis that lies before the change."""
SHORTEST_MS: Final = 5.0

Row = tuple[Run, Event, Direction]
At = Callable[[float], float]
"""The place of a time on the axis."""


def svg(found: Rehearsal) -> str:
    """An SVG document."""
    measured = directions(found)
    colours = _colours(measured)
    parts: list[str] = []
    y = HEAD
    for word in EVENTS:
        rows = [row for row in measured if row[1].event == word]
        parts += _panel(word, found, rows, colours, y)
        y += GAP + ROW * len(rows) + GAP
    parts += _legend(colours, y)
    height = y + ROW * (len(colours) + 2) + 10
    title = f"lab {found.lab}: {', '.join(found.fail)} {'dead' if found.how == 'dead' else 'pulled'}"
    between = " and ".join(f"{each.node} ({each.address})" for each in found.between)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 22, title, size=15),
        _text(LEFT, 40, f"probes every {found.interval_ms:g} ms between {between}", colour="#555"),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    paths: dict[str, None] = {}
    for _, _, each in rows:
        paths.update(dict.fromkeys(filter(None, (each.old_path, each.new_path))))
    return {path: PATH_COLOURS[index % len(PATH_COLOURS)] for index, path in enumerate(paths)}


def _panel(
    word: str, found: Rehearsal, rows: Sequence[Row], colours: dict[str, str], top: float
) -> list[str]:
    """An event's rows below their axis."""
    if not rows:
        return []
    longest = max((each.outage_to_ms or each.outage_ms for _, _, each in rows), default=0)
    steps = [step for _, event, _ in rows if (step := last_seen(event)) is not None]
    span = max(longest, SHORTEST_MS, *steps, found.max_outage_ms or 0) * 1.15
    begin = -span * LEAD_PART
    unit = _step(span)

    def at(value: float) -> float:
        part = (min(max(value, begin), span) - begin) / (span - begin)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    bottom = top + GAP + ROW * len(rows)
    word_text = "the link goes down" if word == "down" else "the link is up again"
    parts = [_text(LEFT, top + 6, f"{word_text} at 0 ms", size=12)]
    for tick in range(math.ceil(begin / unit), math.floor(span / unit) + 1):
        x = at(tick * unit)
        parts += [
            _line(x, top + GAP - 6, x, bottom, "#999" if tick == 0 else "#e4e4e4"),
            _text(x, top + GAP - 10, f"{tick * unit:g}", "middle", colour="#555"),
        ]
    if found.max_outage_ms is not None:
        x = at(found.max_outage_ms)
        parts.append(_line(x, top + GAP - 6, x, bottom, OUTAGE, dashes="4 3"))
    for index, row in enumerate(rows):
        parts += _row(row, colours, top + GAP + ROW * index, at, span)
    return parts


def _row(row: Row, colours: dict[str, str], y: float, at: At, span: float) -> list[str]:
    run, event, each = row
    parts = [_text(LEFT - 8, y + 11, f"run {run.number}  {each.source} → {each.target}", "end")]
    uses = each.paths
    for index, use in enumerate(uses):
        end = uses[index + 1].first_ms if index + 1 < len(uses) else use.last_ms
        first = -math.inf if index == 0 else use.first_ms
        parts.append(_bar(at(first), at(min(end, span)), y, colours.get(use.path, "#777")))
    if each.outage_ms and each.outage_from_ms is not None:
        to = each.outage_to_ms if each.outage_to_ms is not None else span
        x, end = at(each.outage_from_ms), at(to)
        parts += [_bar(x, end, y, "white"), _line(x, y + 8, end, y + 8, OUTAGE, 2)]
    interrupt, seen = first_interrupt(event), last_seen(event)
    if interrupt is not None:
        parts.append(_line(at(interrupt), y + 2, at(interrupt), y + 14, INTERRUPT, 2))
    if seen is not None:
        parts.append(f'<circle cx="{at(seen):.1f}" cy="{y + 8:.1f}" r="3" fill="black"/>')
    text = ms(each.outage_ms) if each.outage_ms else "none"
    parts.append(
        _text(WIDTH - RIGHT + 8, y + 11, text if each.converged else f"{text}, not over", colour=OUTAGE)
    )
    return parts


def _legend(colours: dict[str, str], y: float) -> list[str]:
    parts = []
    for index, (path, colour) in enumerate(colours.items()):
        line = y + ROW * index
        parts += [_bar(LEFT, LEFT + 24, line, colour), _text(LEFT + 32, line + 11, f"by {path}")]
    line = y + ROW * len(colours)
    parts += [
        _line(LEFT, line + 8, LEFT + 24, line + 8, OUTAGE, 2),
        _text(LEFT + 32, line + 11, "outage: no probe is delivered"),
        _line(LEFT + 260, line + 2, LEFT + 260, line + 14, INTERRUPT, 2),
        _text(LEFT + 268, line + 11, "first interrupt"),
        f'<circle cx="{LEFT + 380}" cy="{line + 8:.1f}" r="3" fill="black"/>',
        _text(LEFT + 390, line + 11, "all guests saw it"),
    ]
    return parts


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, some eight to the span."""
    power = 10.0 ** math.floor(math.log10(span / 8))
    return next(power * each for each in (1, 2, 5, 10) if span / (power * each) <= 10)


def _bar(x: float, end: float, y: float, colour: str) -> str:
    width = max(end - x, 0.5)
    return f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{width:.1f}" height="{ROW - 6}" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dashes: str = "") -> str:
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{dash}/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", *, size: int = 11, colour: str = "black"
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {where}>{escape(text)}</text>"
