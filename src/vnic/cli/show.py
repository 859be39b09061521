"""How the verbs print: tables for people, tab-separated lines for pipes, JSON for programs; times and latencies.

rich is imported only where a table goes to a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

COLUMN_GAP = 2
WRAPPED_WIDTH = 40
"""The room that a last column of running text should have."""

LINK_STYLES = {"up": "green", "down": "bold red", "unknown": "yellow"}


def print_json(value: object) -> None:
    """One line of JSON, as `ip -j` prints."""
    sys.stdout.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str] = ()
) -> None:
    """A table on a terminal; elsewhere one line a row, cells apart by tabs, after a line of column names.

    The last column wraps; where the terminal leaves it little room, the `expendable` columns are left out.
    """
    if sys.stdout.isatty():
        _print_rich(columns, rows, expendable)
        return
    for row in (columns, *rows):
        sys.stdout.write("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) + "\n")
    sys.stdout.flush()


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = list(range(len(columns)))
    widths = [max(len(row[index]) for row in (columns, *rows)) + COLUMN_GAP for index in shown]
    if sum(widths[:-1]) + min(widths[-1], WRAPPED_WIDTH) > console.width:
        shown = [index for index in shown if columns[index] not in expendable]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, COLUMN_GAP, 0, 0), pad_edge=False)
    for index in shown:
        last = index == len(columns) - 1
        table.add_column(columns[index], overflow="fold", no_wrap=not last)
    for row in rows:
        table.add_row(*(Text(row[index], LINK_STYLES.get(row[index], "")) for index in shown))
    console.print(table)


def style(text: str, name: str) -> str:
    """`text` in an ANSI style on a terminal, plain elsewhere."""
    codes = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
    return f"\x1b[{codes[name]}m{text}\x1b[0m" if sys.stdout.isatty() else text


def link_word(link: str) -> str:
    """up, down or unknown, in its colour."""
    return style(link, {"up": "green", "down": "red"}.get(link, "yellow"))


def duration(seconds: float) -> str:
    """A length of time with the unit that reads best: 412 µs, 3.2 ms, 4.0 s, 5 min, 3 h, 2 d."""
    if seconds < 0.001:
        return f"{max(0, round(seconds * 1e6))} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60), (86400, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if unit == "s" else f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86400)} d"


def micros(value: int) -> str:
    """A latency given in µs."""
    return duration(value / 1e6)


def wall_time(seconds: float, now: float) -> str:
    """A wall-clock time in the local zone; the date only where it is not today's."""
    then = datetime.fromtimestamp(seconds)
    if then.date() == datetime.fromtimestamp(now).date():
        return then.strftime("%H:%M:%S.") + f"{then.microsecond // 1000:03d}"
    return then.strftime("%Y-%m-%d %H:%M:%S")


def when(seconds: float, now: float) -> str:
    """A time both ways: `14:03:22.101, 4 min ago`."""
    return f"{wall_time(seconds, now)}, {duration(max(0.0, now - seconds))} ago"


def cause_text(cause: dict[str, Any]) -> str:
    """What a LinkChange's cause or a hold says, for a person; who did it, unless that goes without saying."""
    by = cause.get("by")
    text = str(cause.get("text") or cause.get("kind", ""))
    return text if by in (None, "", "vnic", cause.get("client")) else f"{text} (by {by})"


def one_line(text: str) -> str:
    """Text of a peer or a guest, made safe for a terminal's line."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
