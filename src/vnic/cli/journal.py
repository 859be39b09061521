"""Where `vnic log` and `vnic why --at` get records from: a running vnic over QMP, or the file where none runs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Protocol

from vnic.cli.client import Entry, Refused, Session, add_instance_options, session
from vnic.cli.spelling import did_you_mean
from vnic.net.errors import NetError
from vnic.net.journal import JournalQuery, as_entry
from vnic.sockets import rundir
from vnic.state.place import Unusable, default_path, journals
from vnic.state.reader import Reader, boot_id

LOOKUPS_MAX = 200
"""Causes of changes that are asked for one by one."""


def add_journal_options(parser: argparse.ArgumentParser) -> None:
    """Those of `add_instance_options`, and `--journal`."""
    add_instance_options(parser)
    parser.add_argument("--journal", metavar="PATH", help="read this file of a vnic's -journal")


class Records(Protocol):
    """The journal that is meant."""

    file: Path | None
    """The file, where no vnic was asked."""

    async def query(self, **conditions: object) -> list[Entry]:
        """The members of query-journal's records; the conditions are its arguments, with `_` for `-`."""

    async def name_of(self, link: str) -> str:
        """The name of a link that may be given as a MAC address."""


class _Running:
    """The journal of a running vnic."""

    file: Path | None = None

    def __init__(self, qmp: Session) -> None:
        self._qmp = qmp

    async def query(self, **conditions: object) -> list[Entry]:
        found: list[Entry] = await self._qmp.execute("query-journal", **conditions)
        return found

    async def name_of(self, link: str) -> str:
        return await self._qmp.name_of(link)


class _Stored:
    """A journal's file."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.file: Path | None = path
        self._reader = reader

    async def query(self, **conditions: object) -> list[Entry]:
        try:
            query = JournalQuery(**conditions)  # type: ignore[arg-type]  # the verbs give its fields
            query.check()
            return [as_entry(entry) for entry in self._reader.read(query)]
        except NetError as error:
            raise Refused(error.desc) from None
        except Unusable as error:
            raise Refused(f"{self.file}: {error}") from None

    async def name_of(self, link: str) -> str:
        """MAC addresses are not in the journal."""
        return link


@contextlib.asynccontextmanager
async def records(args: argparse.Namespace) -> AsyncIterator[Records]:
    """The journal that `args` (of `add_journal_options`) means. Refused where there is none, or several."""
    path = _file(args)
    if path is None:
        async with session(args) as qmp:
            yield _Running(qmp)
        return
    try:
        reader = Reader(path, boot_id())
    except Unusable as error:
        raise Refused(f"{path}: {error}") from None
    with reader:
        yield _Stored(path, reader)


def _file(args: argparse.Namespace) -> Path | None:
    """The file to read; None: a running vnic is asked, which also has what is not written yet."""
    if args.journal is not None:
        return Path(args.journal)
    if args.qmp is not None:
        return None
    running, stored = rundir.running(), journals()
    if args.name is not None:
        if args.name in running:
            return None
        if args.name not in stored:
            raise Refused(
                f"no vnic named '{args.name}' is running, and it has no journal{_place(args.name)}"
                f"{did_you_mean(args.name, {**running, **stored})}"
            )
        return stored[args.name]
    if running:
        return None
    if len(stored) == 1:
        return next(iter(stored.values()))
    if stored:
        raise Refused(f"no vnic is running; choose the journal of one with --name: {', '.join(stored)}")
    raise Refused("no vnic is running, and there is no journal in its usual place: give --journal PATH")


def _place(name: str) -> str:
    try:
        return f" at {default_path(name)}"
    except (OSError, Unusable):
        return ""


async def causes(found: Records, entries: Iterable[Entry]) -> dict[int, Entry]:
    """The records that those in `entries` follow from and that are not among them, by id, and theirs in turn."""
    known = {entry["id"] for entry in entries}
    missing: dict[int, Entry] = {}
    wanted = [entry["caused-by"] for entry in entries if "caused-by" in entry]
    for _ in range(LOOKUPS_MAX):
        wanted = [each for each in wanted if each not in known]
        if not wanted:
            break
        number = wanted.pop()
        known.add(number)
        for cause in await found.query(after_id=number - 1, before_id=number + 1, limit=1):
            missing[number] = cause
            if "caused-by" in cause:
                wanted.append(cause["caused-by"])
    return missing
