"""Flaps: links that are put down and up again by a schedule, without a client that waits.

`Network` has one `Flaps`; QMP's flap-start, flap-stop and query-flaps use it. A flap writes the operator's hold, as
set_link does, and its id is the `by` of the changes. The last command wins: a set_link of the name, or another flap of
it, ends the flap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from vnic.keep import NO_HANDLES, NO_KEPT, NoHandles
from vnic.net.clock import Scheduler, Timer
from vnic.net.errors import DeviceNotFound, NetError
from vnic.record import Record, left_us, require

log = logging.getLogger(__name__)

MAX_FLAPS = 4096
MS_MAX = 24 * 3600 * 1000
COUNT_MAX = (1 << 31) - 1
SEED_MAX = (1 << 63) - 1

Ms = Annotated[int, msgspec.Meta(ge=1, le=MS_MAX)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=SEED_MAX)]


class Pattern(Record, frozen=True):
    """How a link flaps. Each time down or up is `down_ms` or `up_ms`, made shorter or longer by a random part of at
    most `jitter` percent; the same `seed` gives the same times."""

    down_ms: Ms
    up_ms: Ms
    count: Count | None
    """How often it goes down; None: until it is stopped."""
    jitter: Percent
    seed: Seed

    def seconds(self, step: int) -> float:
        """How long step `step` lasts: 0 is the first time down, 1 the first time up, …"""
        base = (self.up_ms if step % 2 else self.down_ms) / 1000
        if not self.jitter:
            return base
        import random  # here, since most runs have no flap

        chance = random.Random(f"{self.seed} {step}").uniform(-1, 1)
        return max(0.001, base * (1 + chance * self.jitter / 100))


class FlapRecord(Record, frozen=True):
    """A flap under way."""

    id: Annotated[int, msgspec.Meta(ge=1, le=SEED_MAX)]
    name: str
    by: str
    pattern: Pattern
    step: Annotated[int, msgspec.Meta(ge=0, le=SEED_MAX)]
    remaining_us: Annotated[int, msgspec.Meta(ge=0, le=2 * MS_MAX * 1000)]
    """The rest of the step."""

    def check_fields(self) -> None:
        count = self.pattern.count
        require(count is None or self.step < 2 * count - 1, "step", "is past the end")


class FlapsRecord(Record, frozen=True):
    next_id: Annotated[int, msgspec.Meta(ge=1, le=SEED_MAX)]
    flaps: list[FlapRecord]

    def check_fields(self) -> None:
        require(len(self.flaps) <= MAX_FLAPS, "flaps", f"are more than {MAX_FLAPS}")
        ids, names = [each.id for each in self.flaps], [each.name for each in self.flaps]
        require(len(set(ids)) == len(ids) and max(ids, default=0) < self.next_id, "flaps", "have wrong ids")
        require(len(set(names)) == len(names), "flaps", "have a name twice")


class FlapInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """An entry of query-flaps."""

    id: str
    name: str
    by: str
    """Who started it."""
    down_ms: int
    up_ms: int
    jitter: int
    seed: int
    downs: int
    """How often it went down so far."""
    remaining_ms: int
    """Until its next change."""
    count: int | None = None


class Setter(Protocol):
    """Finds clients, and sets their links (`Network`)."""

    def exists(self, name: str) -> bool: ...

    def put_link(self, name: str, up: bool, by: str, text: str) -> None:
        """As set_link; the text is for the journal."""


class _Flap:
    """One flap. Each step ends at a fixed time after the start, so that delays of the loop do not add up."""

    def __init__(self, number: int, name: str, by: str, pattern: Pattern) -> None:
        self.number = number
        self.name = name
        self.by = by
        self.pattern = pattern
        self.step = 0
        self.due = 0.0
        self.timer: Timer | None = None

    @property
    def id(self) -> str:
        return f"flap-{self.number}"

    @property
    def is_down(self) -> bool:
        return self.step % 2 == 0

    @property
    def downs(self) -> int:
        return self.step // 2 + 1

    @property
    def finished(self) -> bool:
        count = self.pattern.count
        return count is not None and self.step >= 2 * count - 1

    def text(self) -> str:
        """For the journal."""
        word = "down" if self.is_down else "up"
        count = self.pattern.count
        if count == 1:
            return (
                f"{self.id}: {word} for {self.pattern.down_ms} ms" if self.is_down else f"{self.id}: {word}"
            )
        return f"{self.id}: {word}, {self.downs}" + (f" of {count}" if count is not None else "")


class Flaps:
    """All flaps of a network, at most one of each name."""

    def __init__(self, scheduler: Scheduler, links: Setter) -> None:
        self._scheduler = scheduler
        self._links = links
        self._by_name: dict[str, _Flap] = {}
        self._next_number = 1
        self.kept = NO_KEPT
        """Its place among what outlives the process."""

    def start(self, name: str, pattern: Pattern, by: str) -> str:
        """Put the link of `name` down now, and on by the pattern; returns the id. The link is up at the end.

        Raises NetError where there are too many flaps, DeviceNotFound where there is no client of that name."""
        if not self._links.exists(name):
            raise DeviceNotFound(name)
        self.end(name, "a new one replaces it")
        if len(self._by_name) >= MAX_FLAPS:
            raise NetError(f"there are {MAX_FLAPS} flaps already")
        flap = _Flap(self._next_number, name, by, pattern)
        self._next_number += 1
        self._by_name[name] = flap
        log.info("%s: %s starts (by %s)", name, flap.id, by)
        flap.due = self._scheduler.time()
        self._enter(flap)
        return flap.id

    def stop(self, flap_id: str, by: str) -> None:
        """End a flap; the link is up then. Raises NetError."""
        flap = next((each for each in self._by_name.values() if each.id == flap_id), None)
        if flap is None:
            raise NetError(f"flap '{flap_id}' not found")
        self.end(flap.name, f"stopped by {by}")
        if flap.is_down:
            self._links.put_link(flap.name, True, by, f"{flap.id} was stopped")

    def end(self, name: str, why: str) -> None:
        """End the flap of `name`, if there is one, and leave the link as it is."""
        flap = self._by_name.pop(name, None)
        if flap is not None:
            self.kept.changed()
            if flap.timer is not None:
                flap.timer.cancel()
            log.info("%s: %s ended: %s", name, flap.id, why)

    def close(self) -> None:
        for name in list(self._by_name):
            self.end(name, "vnic is shutting down")

    def query(self) -> Sequence[FlapInfo]:
        """In the order of their start."""
        now = self._scheduler.time()
        return [
            FlapInfo(
                flap.id,
                flap.name,
                flap.by,
                flap.pattern.down_ms,
                flap.pattern.up_ms,
                flap.pattern.jitter,
                flap.pattern.seed,
                flap.downs,
                max(0, round((flap.due - now) * 1000)),
                flap.pattern.count,
            )
            for flap in self._by_name.values()
        ]

    def _enter(self, flap: _Flap) -> None:
        """Begin the flap's step: set the link, and wait for the end of the step."""
        self.kept.changed()
        if not self._links.exists(flap.name):
            self.end(flap.name, "there is no NIC or netdev of that name any more")
            return
        if flap.finished:
            self.end(flap.name, "it is complete")
            self._links.put_link(flap.name, True, flap.id, flap.text())
            return
        now = self._scheduler.time()
        flap.due += flap.pattern.seconds(flap.step)
        if (
            flap.due <= now
        ):  # the loop was late by more than this step: steps do not follow each other at once
            flap.due = now + flap.pattern.seconds(flap.step)
        self._wait(flap)
        self._links.put_link(flap.name, not flap.is_down, flap.id, flap.text())

    def _wait(self, flap: _Flap) -> None:
        delay = max(0.0, flap.due - self._scheduler.time())
        flap.timer = self._scheduler.call_later(delay, self._next, flap)

    def _next(self, flap: _Flap) -> None:
        flap.timer = None
        flap.step += 1
        self._enter(flap)

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> FlapsRecord:
        now = self._scheduler.time()
        return FlapsRecord(
            next_id=self._next_number,
            flaps=[
                FlapRecord(
                    id=flap.number,
                    name=flap.name,
                    by=flap.by,
                    pattern=flap.pattern,
                    step=flap.step,
                    remaining_us=left_us(flap.due, now),
                )
                for flap in self._by_name.values()
            ],
        )

    def save_kept(self) -> tuple[FlapsRecord, NoHandles]:
        """See Unit."""
        return self.save(), NO_HANDLES

    def restore(self, record: FlapsRecord, age_us: int = 0) -> None:
        """Go on with the rest of each step, `age_us` after it was saved. The clients' own records have the links as
        they are."""
        self._next_number = record.next_id
        now = self._scheduler.time()
        for each in record.flaps:
            flap = _Flap(each.id, each.name, each.by, each.pattern)
            flap.step, flap.due = each.step, now + (each.remaining_us - age_us) / 1e6
            self._by_name[flap.name] = flap
            self._wait(flap)
