"""`vnic why NAME --at TIME`: how a link was at a time in the past, why, and whether a vnic and a guest were there.

All of it follows from the journal's records before and after that time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from vnic.cli.changes import history
from vnic.cli.client import Entry, Refused
from vnic.cli.journal import Records, causes, records
from vnic.cli.show import (
    Now,
    change_text,
    duration,
    link_word,
    micros,
    print_json,
    style,
    wall_time,
)
from vnic.printable import printable
from vnic.state.place import is_written

LATER = 2
"""Changes after the time that are shown."""


@dataclass(frozen=True, slots=True)
class Then:
    """What the journal knows of one link at a time. Entries are query-journal's."""

    name: str
    at: float
    changes: list[Entry]
    """The last ones up to then, the oldest first."""
    later: list[Entry]
    causes: dict[int, Entry]
    guest: list[Entry]
    """The notes of the guest up to then, since vnic started."""
    start: Entry | None
    """The last start of vnic up to then."""
    end: Entry | None
    """Its end, if that was before."""
    next_start: Entry | None
    """The next start after that time."""
    last_record: float | None
    """The time of the last record of all, if no vnic is there to write another; None: one runs."""

    @property
    def died(self) -> float | None:
        """The last sign of life of the vnic, if it was killed or crashed and that was before then."""
        last = self.last_record
        if self.next_start is not None:
            details = self.next_start.get("details", {})
            last = details.get("previous-time") if details.get("previous-ended") is False else None
        return last if last is not None and last <= self.at else None

    @property
    def last(self) -> Entry | None:
        """The change by which the link was as it was; None: it had no link then, as far as is known."""
        if not self.changes or self.start is None or self.changes[-1]["id"] < self.start["id"]:
            return None
        return self.changes[-1]


async def run(args: argparse.Namespace) -> int:
    """The verb, with `--at`."""
    async with records(args) as journal:
        name = await journal.name_of(args.link)
        then = await look(journal, name, args.at, args.changes)
    if not then.changes and not then.later:
        raise Refused(f"the journal has no change of '{name}'")
    if args.json:
        print_json(as_json(then))
    else:
        print("\n".join(describe(then, Now())))
    return 0


async def look(journal: Records, name: str, at: float, count: int) -> Then:
    """Gather what is known."""

    async def last(**conditions: object) -> Entry | None:
        return next(iter(await journal.query(until=at, limit=1, **conditions)), None)

    start, end = await last(cause="start"), await last(cause="end")
    if start is not None and end is not None and end["id"] < start["id"]:
        end = None
    begin = start["id"] if start is not None else 0
    changes = [
        each
        for each in await journal.query(name=name, until=at, limit=4 * count + 8)
        if each["kind"] == "link"
    ][-max(count, 1) :]
    after = changes[-1]["id"] if changes else 0
    later = await journal.query(name=name, after_id=after, since=at, limit=4 * LATER)
    guest = await journal.query(name=name, cause="guest", until=at, limit=4)
    following = await journal.query(cause="start", after_id=begin, since=at, limit=1)
    newest = await journal.query(limit=1) if journal.file is not None and not is_written(journal.file) else []
    return Then(
        name,
        at,
        changes,
        [each for each in later if each["kind"] == "link"][:LATER],
        await causes(journal, changes),
        [note for note in guest if note["id"] > begin],
        start,
        end,
        following[0] if following else None,
        newest[0]["time"] if newest else None,
    )


def as_json(then: Then) -> Entry:
    """The answer for programs."""
    last = then.last
    ran = then.start is not None and then.end is None and then.died is None
    return {
        "name": then.name,
        "at": then.at,
        "vnic-ran": ran,
        "link": last["link"] if last is not None and ran else "unknown",
        "changes": then.changes,
        "later": then.later,
        "causes": list(then.causes.values()),
    }


def describe(then: Then, now: Now) -> Iterator[str]:
    """The answer for a person."""
    name, at = style(printable(then.name), "bold"), wall_time(then.at, now.wall)
    changes, later = printable(then.changes), printable(then.later)
    gap = gap_text(then, now)
    last = printable(then.last)
    if gap is not None:
        yield f"{name} at {at}: {gap}"
        if last is not None:
            yield f"  before, it was {link_word(last['link'])}: {change_text(last['link'], last['cause'])}"
    elif last is None:
        yield f"{name} at {at}: it was not there, as far as the journal knows"
    else:
        since = (
            f"since {wall_time(last['time'], now.wall)}, {duration(max(0.0, then.at - last['time']))} before"
        )
        yield f"{name} was {link_word(last['link'])} at {at} ({since})"
        yield f"  {change_text(last['link'], last['cause'])}"
        if last["type"] == "nic":
            yield f"  guest: {guest_text(then, last)}"
    for change in later:
        passed = duration(max(0.0, change["time"] - then.at))
        text = change_text(change["link"], change["cause"])
        yield f"  {passed} later, at {wall_time(change['time'], now.wall)}: {link_word(change['link'])}, {text}"
    yield from history(changes, printable(then.causes), now, "changes up to then, newest first:")


def gap_text(then: Then, now: Now) -> str | None:
    """Why nothing is known of that time; None: a vnic ran."""
    if then.start is None:
        return "the journal has no start of a vnic from before"
    if then.end is not None:
        return f"no vnic ran: it had ended at {wall_time(then.end['time'], now.wall)}"
    if then.died is not None:
        last = wall_time(then.died, now.wall)
        if then.next_start is None:
            return f"vnic was killed or crashed after {last}, and has not started again"
        again = wall_time(then.next_start["time"], now.wall)
        booted = ", after a boot of the machine" if then.next_start["details"].get("rebooted") else ""
        return f"vnic was killed or crashed after {last}, and started again at {again}{booted}"
    return None


def guest_text(then: Then, last: Entry) -> str:
    """What is known of the guest at that time."""
    events = [note["event"] for note in then.guest]
    attached = next(
        (event == "attached" for event in reversed(events) if event in ("attached", "detached")), None
    )
    came = max((index for index, event in enumerate(events) if event in ("attached", "detached")), default=-1)
    driver = next((event for event in reversed(events[came + 1 :]) if event.startswith("driver-")), None)
    if not attached:
        return "none was attached"
    running = "its driver ran" if driver == "driver-ready" else "its driver did not run"
    if "seen-us" in last and last["time"] + last["seen-us"] / 1e6 <= then.at:
        return (
            f"a VM was attached, {running}; it saw {link_word(last['link'])} after {micros(last['seen-us'])}"
        )
    seen = f"; it saw this {micros(last['seen-us'])} after the change" if "seen-us" in last else ""
    return f"a VM was attached, {running}{seen or '; it has not seen this change'}"
