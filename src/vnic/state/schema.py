"""The layout of the journal's database: its tables and indexes, and the check that a file has exactly these.

`database.py` and `reader.py` open files through it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from vnic.state.place import Unusable

APPLICATION_ID: Final = 0x766E6963
"""`vnic`, in the file's header: file(1) shows it."""
VERSION: Final = 1
"""Of the layout; in the file's header as user_version."""

TABLES: Final = (
    # A stretch of records of one start of vnic whose times do not go backwards: another begins where the clock was set
    # back. Ids and times grow together within it, so that a time is found by bisection and needs no index.
    """CREATE TABLE stretches (
    stretch INTEGER PRIMARY KEY,
    boot TEXT NOT NULL,
    first_id INTEGER NOT NULL,
    first_time REAL NOT NULL,
    last_time REAL NOT NULL
)""",
    # `note` is 0 for a LinkChange and 1 for a Note; `cause` is the cause's kind or the note's; `body` is the record as
    # JSON, as QMP has it.
    """CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    stretch INTEGER NOT NULL,
    note INTEGER NOT NULL,
    name TEXT,
    cause TEXT NOT NULL,
    body TEXT NOT NULL
)""",
    "CREATE INDEX by_name ON records (name)",
    "CREATE INDEX by_cause ON records (cause)",
    "CREATE INDEX by_name_and_cause ON records (name, cause)",
)
"""Each index ends with the id, as SQLite's do: a query by name or cause is in the order of ids."""


def connect(path: Path, mode: str, timeout_s: float) -> sqlite3.Connection:
    """A connection without implicit transactions; `mode` is `mode=rw`, or `mode=ro`, also with `immutable=1`. Raises
    sqlite3.Error."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{mode}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # The file may have been made by anyone: no function of its schema is run, and pages are checked.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, all or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file has no tables, and was not made by another program."""
    return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] and not _number(
        connection, "application_id"
    )


def check(connection: sqlite3.Connection) -> None:
    """Raise Unusable unless the file is a journal of this layout."""
    if _number(connection, "application_id") != APPLICATION_ID:
        raise Unusable("it is a database of another program")
    version = _number(connection, "user_version")
    if version > VERSION:
        raise Unusable(f"a newer vnic wrote it (format {version}; this one knows {VERSION})")
    found = connection.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    if version < VERSION or [row[0] for row in found] != list(TABLES):
        raise Unusable("its tables are not those of a journal")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
