"""The screen of `vnic top`: a table that fills the terminal, and the keys that move and sort it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vnic.cli.show import LINK_STYLES
from vnic.cli.top_state import SORTS

KEYS: Final = {
    b"q": "end",
    b"\x03": "end",
    b"s": "sort",
    b"r": "reverse",
    b"j": "down",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"k": "up",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b" ": "page",
    b"\x1b[6~": "page",
    b"\x1b[5~": "back",
    b"g": "home",
}
KEY: Final = re.compile(rb"\x1b\[[0-9;]*[~A-Za-z]|\x1bO.|.", re.DOTALL)
"""One key of what a terminal sent."""
HEADER: Final = (
    *("NAME", "LINK", "SAW", "IN", "OUT", "FRAMES IN", "OUT", "DROPPED", "CHANGES", "LAST HOUR", "HELD BY"),
)
RIGHT: Final = (3, 4, 5, 6, 7, 8)
NARROW: Final = ((100, (5, 6, 7)), (80, (8,)), (70, (2,)), (60, (3, 4)))
"""Below so many columns of the terminal, these of the table are left out."""
FRAME_LINES: Final = 3
"""Those that are no rows."""

Rows = Callable[[str], list[tuple[str, ...]]]
"""Makes the rows, in an order of SORTS."""


class Screen:
    """A context manager: the terminal is as before when it ends."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.ended = False
        self._reverse = False
        self._first = 0
        self._rows: list[tuple[str, ...]] = []
        self._make: Rows | None = None
        self._said = "looking for a vnic…"
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._keys = asyncio.Event()
        self._settings: list[Any] | None = None

    def __enter__(self) -> Self:
        if sys.stdin.isatty():
            self._settings = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._key)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._settings is not None:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)

    def show(self, make: Rows) -> None:
        """Show the rows that `make` gives; it is called again when a key sorts them."""
        self._make, self._said = make, ""
        self._draw()

    def say(self, text: str) -> None:
        """What is wrong, below the last rows that were shown."""
        self._make, self._said = None, text
        self._draw()

    async def wait(self, seconds: float) -> None:
        """Until the time has passed, or a key ends it; keys that sort or move are drawn meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self.ended and (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._keys.wait()
            except TimeoutError:
                return
            self._keys.clear()
            self._draw()

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _key(self) -> None:
        data = os.read(sys.stdin.fileno(), 64)
        if not data:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.ended = True
        for key in KEY.findall(data):
            self.press(key)
        self._keys.set()

    def press(self, data: bytes) -> None:
        """Do what the bytes of one key ask for; others do nothing."""
        what, page = KEYS.get(data, ""), max(1, self._room())
        if what == "end":
            self.ended = True
        elif what == "sort":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif what == "reverse":
            self._reverse = not self._reverse
        else:
            self._first += {"down": 1, "up": -1, "page": page, "back": -page, "home": -self._first}.get(
                what, 0
            )

    # -- drawing ------------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        return max(1, self._console.height - FRAME_LINES)

    def _draw(self) -> None:
        if self._make is not None:
            self._rows = self._make(self.sort)
        rows = self._rows[::-1] if self._reverse else self._rows
        self._first = min(max(0, self._first), max(0, len(rows) - self._room()))
        shown = rows[self._first : self._first + self._room()]
        self._live.update(Group(self._head(rows, shown), self._table(shown)), refresh=True)

    def _head(self, rows: Sequence[tuple[str, ...]], shown: Sequence[tuple[str, ...]]) -> Text:
        down = sum(row[1] == "down" for row in rows)
        part = "" if len(shown) == len(rows) else f", {self._first + 1} to {self._first + len(shown)} shown"
        order = self.sort + (", reversed" if self._reverse else "")
        text = Text(
            f"{len(rows)} links, {down} down{part}; sorted by {order}", overflow="ellipsis", no_wrap=True
        )
        if self._said:
            text = Text(self._said, "bold red", overflow="ellipsis", no_wrap=True)
        return text

    def _table(self, shown: Sequence[tuple[str, ...]]) -> Table:
        left_out = {column for width, columns in NARROW if self._console.width < width for column in columns}
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=False)
        columns = [index for index in range(len(HEADER)) if index not in left_out]
        for index in columns:
            table.add_column(
                HEADER[index],
                justify="right" if index in RIGHT else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in shown:
            table.add_row(*(Text(row[index], LINK_STYLES.get(row[index], "")) for index in columns))
        return table
