"""What the tools of `vnic mcp` answer: links, changes, and what the guest saw, with times that a person reads."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from vnic.cli.log import iso, what
from vnic.cli.show import plain
from vnic.cli.why import guest_text

State = Literal["up", "down"]


class Cause(BaseModel):
    kind: str = Field(
        description="operator, disconnected, uplink, far-end, no-peer, slow-up, dampened or created"
    )
    by: str = Field(description="who or what asked for it")
    text: str


class Change(BaseModel):
    """A change of a link."""

    id: int = Field(description="of the record in the journal")
    name: str
    link: State
    at: str = Field(description="when, ISO 8601")
    cause: Cause
    caused_by: int | None = Field(description="the id of the change that it follows from")
    seen: bool = Field(
        description="whether the guest's driver read this state after the change. False: not, or not known"
    )
    seen_after_us: int | None = Field(description="microseconds from the change to that read")
    seen_at: str | None = Field(description="when it read, ISO 8601")


class Hold(BaseModel):
    """A reason that keeps a link down."""

    end: str = Field(description="the NIC or netdev that has it")
    kind: str
    by: str
    text: str
    since: str


class Guest(BaseModel):
    """What is known of the guest of a NIC."""

    attached: bool
    driver_running: bool
    last_read: Literal["up", "down", "unknown"] = Field(description="the link as its driver read it last")
    text: str


class Link(BaseModel):
    """A NIC or a netdev."""

    name: str
    type: Literal["nic", "netdev"]
    model: str
    link: State
    peer: str | None
    mac: str | None
    holds: list[Hold] = Field(description="all that keeps it down; it is up if there is none")
    impairments: list[str]
    guest: Guest | None = Field(description="of a NIC")
    last_change: Change


class Links(BaseModel):
    links: list[Link]


class Why(BaseModel):
    text: str = Field(description="the answer for a person")
    link: Link
    changes: list[Change] = Field(description="the last ones, the oldest first")
    causes: list[Change] = Field(description="changes of other links that those follow from")


class Record(BaseModel):
    """A record of the journal."""

    id: int
    at: str
    name: str | None = Field(description="the NIC or netdev; none: vnic itself")
    what: str = Field(description="up, down, or what else happened: attached, driver-ready, started …")
    text: str
    change: Change | None = Field(description="of a change of a link")


class Log(BaseModel):
    records: list[Record] = Field(description="the oldest first")


class Set(BaseModel):
    """What became of set_link."""

    change: Change = Field(
        description="the change, or the last one if the link was in that state, or is held by others"
    )
    link: Link
    is_in_state: bool = Field(description="whether the link is in the state that was asked for")
    seen: bool = Field(
        description="whether the guest's driver has read that state, after the last change of the link"
    )
    text: str


class Impaired(BaseModel):
    id: int | None = Field(description="of the record in the journal; none: nothing changed")
    at: str | None
    impairments: list[str] = Field(description="what is in effect now")
    link: Link


class FlapState(BaseModel):
    id: str = Field(description="of the flap; the journal's changes have it as `by`")
    name: str
    down_ms: int
    up_ms: int
    seed: int
    downs: int = Field(description="how often it went down until now")
    count: int | None
    by: str


class Flaps(BaseModel):
    flaps: list[FlapState]


class Flapped(BaseModel):
    flap: FlapState | None = Field(description="none: it has ended")
    change: Change = Field(description="the link's last change")
    link: Link


def change(entry: dict[str, Any]) -> Change:
    """Of an entry of query-link-log."""
    seen = entry.get("seen-us")
    return Change(
        id=entry["id"],
        name=entry["name"],
        link=entry["link"],
        at=iso(entry["time"]),
        cause=Cause(**entry["cause"]),
        caused_by=entry.get("caused-by"),
        seen=seen is not None,
        seen_after_us=seen,
        seen_at=None if seen is None else iso(entry["time"] + seen / 1e6),
    )


def link(entry: dict[str, Any]) -> Link:
    """Of an entry of query-links."""
    last = entry["last-change"]
    guest = None
    if entry["type"] == "nic":
        found = entry["guest"]
        with plain():
            text = guest_text(found, entry["link"], read_since="seen-us" in last)
        guest = Guest(
            attached=found["attached"], driver_running=found["driver-ok"], last_read=found["seen"], text=text
        )
    return Link(
        name=entry["name"],
        type=entry["type"],
        model=entry["model"],
        link=entry["link"],
        peer=entry.get("peer"),
        mac=entry.get("mac"),
        holds=[
            Hold(
                end=each["client"],
                kind=each["kind"],
                by=each["by"],
                text=each["text"],
                since=iso(each["since"]),
            )
            for each in entry["holds"]
        ],
        impairments=[each["text"] for each in entry.get("impairments", ())],
        guest=guest,
        last_change=change(last),
    )


def record(entry: dict[str, Any]) -> Record:
    """Of an entry of query-journal."""
    is_change = entry["kind"] == "link"
    return Record(
        id=entry["id"],
        at=iso(entry["time"]),
        name=entry.get("name"),
        what=entry["link"] if is_change else entry["event"],
        text=what(entry, datetime.now().timestamp()),
        change=change(entry) if is_change else None,
    )


def flap(entry: dict[str, Any]) -> FlapState:
    """Of an entry of query-flaps."""
    return FlapState(
        id=entry["id"],
        name=entry["name"],
        down_ms=entry["down-ms"],
        up_ms=entry["up-ms"],
        seed=entry["seed"],
        downs=entry["downs"],
        count=entry.get("count"),
        by=entry["by"],
    )
