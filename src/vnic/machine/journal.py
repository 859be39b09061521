"""The journal of a running vnic beyond its memory: its database, its start and its end, and queries over all of it.

`vnic run` opens and closes it; `Machine` passes the monitor's queries on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vnic import __version__
from vnic.keep import NO_KEEP, Keep
from vnic.monitor.interfaces import Restarted, ShutdownCause
from vnic.net.journal import Entry, Journal, JournalQuery
from vnic.net.records import NoteKind
from vnic.state.history import History
from vnic.state.place import Unusable, default_path
from vnic.state.reader import boot_id

if TYPE_CHECKING:
    from vnic.state.writer import JournalWriter

log = logging.getLogger(__name__)

KEY = "journal"
"""Of the next id among what outlives the process."""

OPEN_TIMEOUT_S = 1.0
"""How long the start waits for the ids of earlier records; a disk that takes longer is used when it answers."""
CLOSE_TIMEOUT_S = 2.0

_ENDS = {
    None: "vnic ended: its start was refused",
    ShutdownCause.HOST_SIGNAL: "vnic ended, by a signal",
    ShutdownCause.HOST_QMP_QUIT: "vnic ended, by a monitor's quit",
}


@dataclass(frozen=True, slots=True)
class JournalChoice:
    """-journal: where the records are kept after the end, and how many of them."""

    on: bool = True
    path: str | None = None
    """None: NAME.db in the folder for state."""
    max_count: int = 100_000
    max_age_s: float = 90 * 86400.0


class MachineJournal:
    """The one of a machine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal
        self._history = History(loop, journal)
        self._writer: JournalWriter | None = None
        self._started = False

    async def open(self, choice: JournalChoice, name: str, keep: Keep = NO_KEEP) -> None:
        """Have the records written. Nothing is refused: a file that cannot be used is one line in the log, and tried
        again."""
        next_id = keep.cells(KEY, 1)
        if next_id[0] < 1 << 63:
            self._journal.skip_to(next_id[0])
        first_id = next_id[0]
        self._journal.count_in(next_id)
        if choice.on:
            try:
                path = _path(choice, name)
            except Unusable as error:
                log.warning("journal: %s; it is kept in memory", error)
            else:
                await self._open(path, choice, first_id)

    def started(self) -> None:
        """Record the start."""
        self._started = True
        self._journal.note(
            NoteKind.START,
            "started",
            f"vnic {__version__} started, process {os.getpid()}",
            details={"version": __version__, "pid": os.getpid()},
        )

    def restarted(self, restarted: Restarted) -> None:
        """Record that this process took the place of another."""
        self._started = True
        details = msgspec.to_builtins(restarted)
        text = f"vnic {__version__} goes on as process {os.getpid()}: process {restarted.pid} {restarted.how}"
        if restarted.away_ms is not None:
            text += f" {restarted.away_ms} ms before"
        if restarted.version != __version__:
            text += f"; it was vnic {restarted.version}"
        self._journal.note(
            NoteKind.RESTART,
            "restarted",
            text,
            details={**details, "previous-pid": details.pop("pid"), "pid": os.getpid()},
        )

    async def _open(self, path: Path, choice: JournalChoice, first_id: int) -> None:
        """`first_id`: that of the next record, where the process before told it; else 0."""
        # Imported late: the import of sqlite3 takes milliseconds.
        from vnic.state.database import Bounds
        from vnic.state.writer import JournalWriter

        boot = boot_id()
        self._writer = JournalWriter(
            self._loop,
            path,
            Bounds(choice.max_count, choice.max_age_s),
            boot,
            make_parent=choice.path is None,
            overtaken=self._journal.skip_to,
        )
        next_id: int | None
        if first_id:
            self._writer.expect(first_id)
            self._writer.begin()
            next_id = first_id
        else:
            next_id = await self._writer.start(OPEN_TIMEOUT_S)
        if next_id is None:
            # The ids in the file are not known. Those of a thousand records a second since 1970 are not in use there.
            next_id = int(time.time() * 1000)
        self._writer.expect(next_id)
        self._journal.keep_in(self._writer, next_id)
        writer = self._writer
        self._history.read_from(path, boot, lambda: writer.is_open)

    def query(self, query: JournalQuery) -> list[Entry] | asyncio.Future[list[Entry]]:
        """The records that `query` wants. Raises NetError."""
        return self._history.query(query)

    async def close(self, cause: ShutdownCause | None) -> None:
        """Record the end, and write what waits."""
        if self._started:
            self._started = False
            self._journal.note(NoteKind.END, "ended", _ENDS[cause])
        if self._writer is not None:
            await self._writer.close(CLOSE_TIMEOUT_S)

    async def leave(self) -> None:
        """Write what waits; the process that takes this one's place goes on."""
        if self._writer is not None:
            await self._writer.close(CLOSE_TIMEOUT_S)


def _path(choice: JournalChoice, name: str) -> Path:
    return default_path(name) if choice.path is None else Path(choice.path).absolute()
