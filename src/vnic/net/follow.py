"""Holds that follow from another wire: `far-end` at a cable's end, `uplink` by a link-follow.

A cable's end and a link-follow are Followers. After each change of a wire, `Links` has its followers decide anew; a
follower never follows a hold that came from its own wire, so that no circle of followers keeps itself down.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, Literal, NamedTuple

from vnic.net.client import NetClient, clients_of_wire
from vnic.net.records import SOFT, ClientType, Hold, HoldKind


class Reason(NamedTuple):
    """Why a follower holds its client down."""

    by: str
    text: str
    via: tuple[str, ...] = ()
    """The netdevs of the wires through which the hold came, the nearest first."""
    root: HoldKind | None = None
    """The kind of the first hold that it follows from, if it follows from one."""


class Undecided(enum.Enum):
    """What is followed is changing, and it is not known yet to what: the follower's hold stays as it is."""

    UNDECIDED = enum.auto()


UNDECIDED: Final = Undecided.UNDECIDED

Shown = Literal["shown"]
SHOWN: Final[Shown] = "shown"


class Follower:
    """Keeps a client's end of its wire down while something that it follows is down. The default methods do nothing."""

    kind: ClassVar[HoldKind]
    """The kind of its hold. No other follower and no back-end places this kind on that client."""

    @property
    def follower_name(self) -> str:
        """Its id: the `by` of the end of its hold."""
        return ""

    def decide(self) -> Reason | Undecided | None:
        """Whether its client is to be held now, and why."""
        return None

    def released_text(self) -> str:
        """Why its hold ends."""
        return ""

    def client_came(self, client: NetClient) -> None:
        """A client for which it waits by name is being created (see `Followers.wait_for`)."""

    def client_gone(self, client: NetClient) -> None:
        """Its target, or a source of it, was removed."""

    def rewired(self) -> None:
        """Among the wires that depend on each other here, one has other ends or other followers than before."""


def netdevs(wire: Iterable[NetClient]) -> tuple[str, ...]:
    """What a wire is called in `Reason.via`."""
    return tuple(end.name for end in wire if not end.is_nic)


def hold_to_follow(
    wire: Sequence[NetClient], own: Sequence[NetClient], but: HoldKind | None = None
) -> Hold | None:
    """The hold on `wire` that a follower at the wire `own` has to follow: the one that came through the fewest wires,
    and none that came through `own`, or is of the kind `but`.

    So a hold spreads along the shortest ways, as routes do in a path-vector protocol, and when its first cause ends it
    ends everywhere.
    """
    found: Hold | None = None
    for end in wire:
        for hold in end.holds.values():
            if hold.kind is but or (hold.via and any(name in hold.via for name in netdevs(own))):
                continue
            if found is None or _rank(hold) < _rank(found):
                found = hold
    return found


def _rank(hold: Hold) -> tuple[int, bool]:
    """A hold that only puts off the end of others tells less than those."""
    return len(hold.via), hold.first_kind in SOFT


class Followers:
    """Who follows which wires, and which client each holds."""

    def __init__(self) -> None:
        self._targets: dict[Follower, NetClient] = {}
        self._sources: dict[Follower, Sequence[NetClient]] = {}
        self._of: dict[NetClient, dict[Follower, None]] = {}
        """By client, those that follow its wire."""
        self._at: dict[NetClient, dict[Follower, None]] = {}
        """By client, those that hold it."""
        self._waiting: dict[tuple[str, str], dict[Follower, None]] = {}
        """By type and name of a client."""
        self._shown: dict[str, list[NetClient]] = {}
        """By the name of an interface of the host, the netdevs that show the link of their wire there."""

    def set(self, follower: Follower, target: NetClient | None, sources: Sequence[NetClient] = ()) -> None:
        """`follower` holds `target` (None: nothing), and follows the wires of the clients `sources`."""
        old = self._targets.pop(follower, None)
        if old is not None:
            _drop(self._at, old, follower)
        for each in self._sources.pop(follower, ()):
            _drop(self._of, each, follower)
        if target is not None:
            self._targets[follower] = target
            self._at.setdefault(target, {})[follower] = None
        if sources:
            self._sources[follower] = sources
            for each in sources:
                self._of.setdefault(each, {})[follower] = None

    def wait_for(self, follower: Follower, client_type: ClientType | Shown, name: str) -> None:
        """Call its `client_came` for each new client of that type and name; or, with SHOWN, for each netdev that shows
        the link of its wire on the interface `name` of the host."""
        self._waiting.setdefault((client_type, name), {})[follower] = None

    def remove(self, follower: Follower) -> None:
        """It holds, follows and waits for nothing any more."""
        self.set(follower, None)
        for key in [key for key, followers in self._waiting.items() if follower in followers]:
            del self._waiting[key][follower]
            if not self._waiting[key]:
                del self._waiting[key]

    def waiting_for(self, client: NetClient) -> list[Follower]:
        return list(self._waiting.get((client.record_type, client.name), ()))

    def add_shown(self, client: NetClient, ifname: str) -> list[Follower]:
        """`client` shows the link of its wire on `ifname`; returns those that wait for that."""
        there = self._shown.setdefault(ifname, [])
        if client in there:
            return []
        there.append(client)
        return list(self._waiting.get((SHOWN, ifname), ()))

    def shown(self, ifname: str) -> Sequence[NetClient]:
        return tuple(self._shown.get(ifname, ()))

    def forget_shown(self, client: NetClient) -> None:
        """`client` was removed."""
        for ifname in [ifname for ifname, clients in self._shown.items() if client in clients]:
            self._shown[ifname].remove(client)
            if not self._shown[ifname]:
                del self._shown[ifname]

    def concerned(self, client: NetClient) -> list[Follower]:
        """Those that hold `client` or follow its wire by this end."""
        return [*self._at.get(client, ()), *self._of.get(client, ())]

    def target(self, follower: Follower) -> NetClient | None:
        """The client that it holds while it has to."""
        return self._targets.get(follower)

    def of(self, client: NetClient) -> Iterable[Follower]:
        """Those that follow the wire of `client`, where they name this end."""
        return self._of.get(client, ())

    # -- circles ------------------------------------------------------------------------------------------------

    def find_circle(self, follower: Follower) -> list[str] | None:
        """The names of the followers on a way from `follower` back to itself: its client's link depends on itself.

        The two ends of one cable, which follow each other, are not a circle.
        """
        ways = [(each, [follower.follower_name]) for each in self._sources.get(follower, ())]
        seen: set[Follower] = set()
        while ways:
            client, way = ways.pop()
            for end in clients_of_wire(client):
                for each in self._at.get(end, ()):
                    if each is follower:
                        return way
                    if each not in seen:
                        seen.add(each)
                        beyond = [*way, each.follower_name]
                        ways += [(source, beyond) for source in self._sources.get(each, ())]
        return None

    def joined(self, clients: Iterable[NetClient]) -> list[Follower]:
        """All followers whose clients depend on one of `clients`, or on which one of those depends, over any number of
        wires."""
        todo = list(clients)
        seen: set[NetClient] = set()
        found: dict[Follower, None] = {}
        while todo:
            for end in clients_of_wire(todo.pop()):
                if end in seen:
                    continue
                seen.add(end)
                for each in (*self._at.get(end, ()), *self._of.get(end, ())):
                    if each not in found:
                        found[each] = None
                        todo += self._sources.get(each, ())
                        if each in self._targets:
                            todo.append(self._targets[each])
        return list(found)


def _drop(index: dict[NetClient, dict[Follower, None]], client: NetClient, follower: Follower) -> None:
    found = index[client]
    found.pop(follower, None)
    if not found:
        del index[client]
