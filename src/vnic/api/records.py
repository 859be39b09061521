"""What the Python API returns: the records that QMP has, typed, and `Why`, which is a text, too."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vnic.cli.client import Entry
from vnic.cli.show import plain
from vnic.cli.why import Explained, explain
from vnic.lab.guest.console import Completed
from vnic.net.records import Cause, Hold, LinkChange, LinkInfo

__all__ = ["Cause", "Completed", "Hold", "LinkChange", "LinkInfo", "Why", "as_change", "as_link"]


def as_link(entry: Entry) -> LinkInfo:
    """An entry of query-links."""
    return msgspec.convert(entry, LinkInfo)


def as_change(entry: Entry) -> LinkChange:
    """An entry of query-link-log."""
    return msgspec.convert(entry, LinkChange)


@dataclass(frozen=True, slots=True)
class Why:
    """Why a link is as it is; `str()` is the text of `vnic why`."""

    link: LinkInfo
    changes: tuple[LinkChange, ...]
    """The last ones, the oldest first."""
    causes: dict[int, LinkChange]
    """By id, the changes of other links that those follow from."""
    text: str

    def __str__(self) -> str:
        return self.text


def as_why(link: Entry, found: Explained) -> Why:
    with plain():
        text = "\n".join(explain(found))
    return Why(
        as_link(link),
        tuple(map(as_change, found.changes)),
        {number: as_change(change) for number, change in found.causes.items()},
        text,
    )
