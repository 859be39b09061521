"""The types of what the verbs print with --json, where no type of the monitor or of a lab is it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from vnic.lab.file.problems import Problem
from vnic.monitor.interfaces import VnicInfo
from vnic.net.records import LinkChange, LinkInfo


class FlapId(msgspec.Struct):
    """The flap that was ended."""

    id: str


class LoggedChange(LinkChange, rename="kebab", omit_defaults=True, kw_only=True):
    """A record of the journal: a link went up or down. The steps are microseconds after the change."""

    kind: Literal["link"]


Record: TypeAlias = Annotated[
    Any,
    msgspec.Meta(extra_json_schema={"anyOf": [{"$ref": "#/$defs/LoggedChange"}, {"$ref": "#/$defs/Note"}]}),
]
"""A record of the journal, which `kind` tells apart. msgspec knows no union of types without tags."""


class Why(msgspec.Struct):
    """A link as it is now."""

    links: list[LinkInfo]
    """The NIC, the netdev, or both of that name; none if it was deleted."""
    changes: list[LinkChange]
    """Its last changes, the oldest first."""
    causes: list[LinkChange]
    """The changes of other links that those follow from, and that these follow from."""


class WhyAt(msgspec.Struct, rename="kebab"):
    """A link as it was at a time in the past."""

    name: str
    at: float
    """Seconds of wall-clock time."""
    vnic_ran: bool
    """Whether a vnic was there then."""
    link: Literal["up", "down", "unknown"]
    changes: list[LoggedChange]
    """The last changes up to then, the oldest first."""
    later: list[LoggedChange]
    """The next ones after it."""
    causes: list[Record]
    """The records that those follow from."""


class Instance(VnicInfo, rename="kebab", frozen=True, omit_defaults=True, kw_only=True):
    """One running vnic."""

    name: str
    """By which the verbs find it."""


class Timestamp(msgspec.Struct):
    """The wall-clock time."""

    seconds: int
    microseconds: int


class Event(msgspec.Struct, omit_defaults=True):
    """An event of QMP, one a line. `data` depends on the event, and is absent where it has none."""

    event: str
    timestamp: Timestamp
    data: dict[str, Any] = {}


class Nothing(msgspec.Struct):
    """An empty object: it is done."""


class Check(msgspec.Struct):
    """What is wrong in a lab file, and what is ignored."""

    errors: list[Problem]
    notes: list[Problem]
