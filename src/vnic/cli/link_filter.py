"""The filters and the order of `vnic link show`, in the manner of ip-link(8): `up`, `type nic`, `dev nic0`.

Words in, a Filter out; it chooses entries of query-links. No I/O.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

from vnic.cli.client import Entry
from vnic.cli.spelling import did_you_mean
from vnic.net.records import ClientType, DataPathWord, HoldKind, SeenWord

VALUES: Final = {
    "type": get_args(ClientType),
    "model": (),
    "seen": get_args(SeenWord),
    "path": get_args(DataPathWord),
}
"""Filters that need a value, and the values; none here: any."""
FILTERS: Final = (
    ("dev NAME", "that NIC or netdev, as the bare NAME does: for those that are called like a filter"),
    ("up, down", "links that are up, or down"),
    ("type nic|netdev", "only NICs, or only netdevs"),
    ("model MODEL", "of that model: virtio-net, e1000, tap, …"),
    ("held [KIND]", "held down at all, or by a hold of that kind: operator, disconnected, no-peer, …"),
    ("seen STATE", "NICs whose guest has last read up or down; or unknown"),
    ("path PATH", f"whose packets are moved by one of {', '.join(VALUES['path'])}"),
    ("attached", "NICs with a VM"),
    ("impaired", "with impairments of their frames"),
)
"""Each as the help shows it, and what it chooses."""

_FLAGS: Final = ("up", "down", "attached", "impaired", "held")
WORDS: Final = ("dev", *_FLAGS, *VALUES)
KINDS: Final = tuple(str(kind) for kind in HoldKind)

_SORT_KEYS: Final[dict[str, Callable[[Entry], object]]] = {
    "name": lambda link: natural(link["name"]),
    "type": lambda link: link["type"],
    "model": lambda link: link["model"],
    "link": lambda link: link["link"],
    "peer": lambda link: natural(link.get("peer", "")),
    "seen": lambda link: link["guest"]["seen"] if link["type"] == "nic" else "",
    "changes": lambda link: -link["carrier-changes"],
    "last": lambda link: -link["last-change"]["time"],
    "latency": lambda link: -link["guest"].get("seen-latency-us", -1),
}
SORTED_BY: Final = tuple(_SORT_KEYS)
"""Columns to sort by. `changes`, `last` and `latency` have the largest, or the newest, first."""


@dataclass(slots=True)
class Filter:
    """What `vnic link show` was asked for."""

    name: str | None = None
    """A NIC, a netdev or a MAC address; that and its peer are shown."""
    conditions: list[tuple[str, str]] = field(default_factory=list)
    """Filter and value; the value of a flag is empty."""

    def meets(self, link: Entry) -> bool:
        return all(_meets(link, word, value) for word, value in self.conditions)


def parse_filter(words: Sequence[str]) -> Filter:
    """ValueError, with a text for a person, for words that make no filter."""
    found = Filter()
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word in VALUES:
            found.conditions.append((word, _value(word, rest)))
        elif word == "held":
            found.conditions.append((word, rest.popleft() if rest and rest[0] in KINDS else ""))
        elif word in _FLAGS:
            found.conditions.append((word, ""))
        else:
            _add_name(found, word, rest)
    return found


def _value(word: str, rest: deque[str]) -> str:
    values, value = VALUES[word], rest.popleft() if rest else None
    if value is None or (values and value not in values):
        wanted = f"one of {', '.join(values)}" if values else "a name"
        got = "" if value is None else f", not '{value}'{did_you_mean(value, values)}"
        raise ValueError(f"{word}: {wanted} is expected{got}")
    return value


def _add_name(found: Filter, word: str, rest: deque[str]) -> None:
    """Take a bare name, or `dev NAME`."""
    if word == "dev" and not rest:
        raise ValueError("dev: a NAME is expected")
    name = rest.popleft() if word == "dev" else word
    if found.name is not None:
        meant = did_you_mean(word, WORDS) or did_you_mean(found.name, WORDS)
        raise ValueError(f"'{found.name}' and '{name}' are two names; one can be shown{meant}")
    found.name = name


def _meets(link: Entry, word: str, value: str) -> bool:
    if word in ("up", "down"):
        return bool(link["link"] == word)
    if word == "held":
        return any(value in ("", hold["kind"]) for hold in link["holds"])
    if word == "impaired":
        return bool(link.get("impairments"))
    if word in ("seen", "attached"):
        guest = link["guest"]
        return link["type"] == "nic" and bool(
            guest["attached"] if word == "attached" else guest["seen"] == value
        )
    return bool(link.get("datapath" if word == "path" else word) == value)


def sort_links(links: list[Entry], by: str | None) -> list[Entry]:
    """In the order of a column; equal ones, and all without one, stay as they are."""
    return links if by is None else sorted(links, key=_SORT_KEYS[by])  # type: ignore[arg-type]  # of one type each


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which nic2 comes before nic10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
