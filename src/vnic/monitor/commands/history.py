"""Commands that read the journal, vnic's own. What is no longer in memory is read from the database by a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.net.errors import DeviceNotFound
from vnic.net.journal import Entry, JournalQuery, as_entry, changes_of
from vnic.net.records import Cause, ClientType, LinkChange, UpDown

T = TypeVar("T")
Records = list[Entry] | asyncio.Future[list[Entry]]


class QueryLinkLog(msgspec.Struct, rename="kebab"):
    name: str | None = None
    limit: int | None = None
    after_id: int | None = None


@command("query-link-log", returns=list[LinkChange])
def query_link_log(caller: Caller, args: QueryLinkLog) -> list[LinkChange] | asyncio.Future[list[LinkChange]]:
    """The journal's link changes, oldest first; with `after-id`, those after that one. The log of a deleted client
    lasts as long as the journal keeps its records."""
    machine = caller.machine

    def changes(entries: list[Entry]) -> list[LinkChange]:
        if args.name is not None and not entries and not machine.network.exists(args.name):
            raise DeviceNotFound(args.name)
        return list(changes_of(entries))

    query = JournalQuery(name=args.name, limit=args.limit, after_id=args.after_id, changes_only=True)
    return _then(machine.history(query), changes)


class QueryJournal(msgspec.Struct, rename="kebab"):
    """`cause` is the kind of a change's cause, or the kind of another record; times are in seconds since 1970."""

    name: str | None = None
    cause: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int | None = None
    after_id: int | None = None
    before_id: int | None = None


class JournalEntry(msgspec.Struct, rename="kebab"):
    """A record of the journal: a LinkChange, of kind `link`, or a Note."""

    id: int
    kind: str
    time: float
    monotonic_us: int
    name: str | None = None
    type: ClientType | None = None
    link: UpDown | None = None
    cause: Cause | None = None
    caused_by: int | None = None
    notified_us: int | None = None
    interrupt_us: int | None = None
    seen_us: int | None = None
    seen_latency_us: int | None = None
    event: str | None = None
    text: str | None = None
    by: str | None = None
    details: Any = None
    boot_id: str | None = None


@command("query-journal", returns=list[JournalEntry])
def query_journal(
    caller: Caller, args: QueryJournal
) -> Iterator[dict[str, Any]] | asyncio.Future[Iterator[dict[str, Any]]]:
    """All records of the journal, oldest first: link changes, guests that come and go, starts and ends of vnic."""
    query = JournalQuery(**msgspec.structs.asdict(args))
    return _then(caller.machine.history(query), lambda entries: map(as_entry, entries))


def _then(records: Records, convert: Callable[[list[Entry]], T]) -> T | asyncio.Future[T]:
    """`convert` of the records, now or when they have been read."""
    if not isinstance(records, asyncio.Future):
        return convert(records)
    converted = records.get_loop().create_task(_later(records, convert))
    # The client may have gone: then nothing asks for what went wrong.
    converted.add_done_callback(lambda done: done.cancelled() or done.exception())
    return converted


async def _later(records: asyncio.Future[list[Entry]], convert: Callable[[list[Entry]], T]) -> T:
    return convert(await records)
