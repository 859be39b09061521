"""How the verbs print: tables for people, tab-separated lines for pipes, JSON for programs; times and latencies.

rich is imported only where a table goes to a terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vnic.printable import one_line

if TYPE_CHECKING:
    from rich.console import Console

COLUMN_GAP = 2
BELOW_MARGIN = 4
"""The indent of a cell that is printed below its row."""
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

    The last column wraps; where the terminal leaves it little room, the `expendable` columns, the last first, stand
    below their row with their names, and where that does not do, the last column does too.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, rows, expendable)
        return
    for row in (columns, *rows):
        sys.stdout.write("\t".join(row) + "\n")
    sys.stdout.flush()


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    shown = list(range(len(columns)))
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in shown]
    text_width = min(widths[-1], WRAPPED_WIDTH)
    below: list[int] = []
    for index in reversed([shown_index for shown_index in shown if columns[shown_index] in expendable]):
        if sum(widths[each] + COLUMN_GAP for each in shown[:-1]) + text_width <= console.width:
            break
        shown.remove(index)
        below.insert(0, index)
    lines = Lines(console, [("<", widths[index]) for index in shown[:-1]], text_width)
    lines.print([columns[index] for index in shown], ["bold"] * len(shown))
    lines.rule()
    for row in rows:
        lines.print([row[index] for index in shown], [LINK_STYLES.get(row[index], "") for index in shown])
        lines.below(
            "  ".join(f"{columns[index].lower()} {row[index]}" for index in below if row[index] != "-")
        )


class Lines:
    """A table that is printed line by line: columns of fixed widths (and `<`, `^` or `>`), then one of running text.

    Where the terminal leaves the text less than `text_width`, it stands below its line, behind a `margin`; a lone `-`
    is left out there.
    """

    def __init__(
        self,
        console: Console,
        columns: Sequence[tuple[str, int]],
        text_width: int,
        margin: int = BELOW_MARGIN,
    ) -> None:
        self._console = console
        self._columns = columns
        taken = sum(width + COLUMN_GAP for _, width in columns)
        self._beside = console.width - taken >= text_width
        self._margin = taken if self._beside else margin

    def print(self, cells: Sequence[str], styles: Sequence[str]) -> None:
        from rich.text import Text

        cells = [one_line(cell) for cell in cells]
        line = Text()
        for cell, name, (align, width) in zip(cells, styles, self._columns, strict=False):
            line.append(f"{cell:{align}{width}}", name).append(" " * COLUMN_GAP)
        room = max(self._console.width - self._margin, 1)
        said = cells[-1] if self._beside or cells[-1] != "-" else ""
        text = textwrap.wrap(said, room, break_on_hyphens=False)
        if self._beside and text:
            line.append(text.pop(0), styles[-1])
        line.rstrip()
        self._console.print(line)
        for part in text:
            self._console.print(Text(" " * self._margin).append(part, styles[-1]))

    def below(self, text: str) -> None:
        """More of the line that was just printed, if any."""
        from rich.text import Text

        for part in textwrap.wrap(text, max(self._console.width - BELOW_MARGIN, 1), break_on_hyphens=False):
            self._console.print(Text(" " * BELOW_MARGIN).append(part, "dim"))

    def rule(self) -> None:
        self._console.print("─" * self._console.width)


def style(text: str, name: str) -> str:
    """`text` in an ANSI style on a terminal that takes them, plain elsewhere."""
    codes = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
    return f"\x1b[{codes[name]}m{text}\x1b[0m" if _takes_styles() else text


_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Texts that are made within have no styles, also on a terminal: they are for a program, or a file."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def _takes_styles() -> bool:
    """The rule that rich follows for tables; any value of NO_COLOR (no-color.org) turns colours off."""
    return (
        not _plain.get()
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


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
    try:
        then = datetime.fromtimestamp(seconds)
    except (OverflowError, ValueError, OSError):  # of a file that anyone may have written
        return f"{seconds:g} s"
    if then.date() == datetime.fromtimestamp(now).date():
        return then.strftime("%H:%M:%S.") + f"{then.microsecond // 1000:03d}"
    return then.strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Now:
    """The time of a report, by both clocks, in seconds."""

    wall: float = field(default_factory=time.time)
    monotonic: float = field(default_factory=time.monotonic)


def when(seconds: float, monotonic_us: int, now: Now, boot_id: str | None = None) -> str:
    """A time both ways: `14:03:22.101, 4 min ago`. The wall clock may have been set since: it tells no duration, nor
    does the other one for a time of another boot of the machine."""
    if boot_id is not None:
        return wall_time(seconds, now.wall)
    return f"{wall_time(seconds, now.wall)}, {duration(max(0.0, now.monotonic - monotonic_us / 1e6))} ago"


def cause_text(cause: dict[str, Any]) -> str:
    """The text of a LinkChange's cause or of a hold, for a person, with who did it, unless that was vnic itself."""
    by = cause.get("by")
    text = str(cause.get("text") or cause.get("kind", ""))
    return text if by in (None, "", "vnic", cause.get("client")) else f"{text} (by {by})"


def change_text(link: str, cause: dict[str, Any]) -> str:
    """Why a link changed: `disconnected: peer closed the connection`; of a hold that ended only what ended it, for
    "up, disconnected: peer connected" would contradict itself."""
    kind = cause["kind"]
    ended = link == "up" and kind in ("disconnected", "no-peer", "far-end", "uplink", "slow-up", "dampened")
    return one_line(cause_text(cause) if ended else f"{kind}: {cause_text(cause)}")


def impairment_text(impairment: dict[str, Any]) -> str:
    """`nic0-netem: delay 10ms, loss 0.5%`, with `tx` or `rx` where it is of one direction."""
    queue = impairment.get("queue", "all")
    where = "" if queue == "all" else f" {queue}"
    return f"{impairment['id']}{where}: {impairment['text']}"
