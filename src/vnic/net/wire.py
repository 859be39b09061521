"""Which path the packets of each wire take: a vhost-user back-end, vnic-wire, this process, or none; and why.

`Network` has one `Wires`. Whoever changes what the choice depends on (peers, links, filters, hubs, a guest's rings)
calls `changed`, and the choice is made again in the loop's next turn. Ends that are joined, by a wire or by hubs, take
one path together: a segment is on vnic-wire only if all its ends can be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.clock import Scheduler
from vnic.net.filters import Direction, DumpTarget, ImpairTarget
from vnic.net.lending import LentEnd, ResidentEnd
from vnic.net.records import DataPathWord

if TYPE_CHECKING:
    from vnic.net.netem.line import Line
    from vnic.net.netem.parameters import Parameters

MAX_MEMBERS = 256
"""The most clients of a segment on vnic-wire. It bounds the work of one change."""
SEGMENTS_PER_TURN = 128

MOVING = "about to move to vnic-wire"
ALONE = "no other end is there"


class PathInfo(NamedTuple):
    """The answer of a query."""

    path: DataPathWord
    reason: str | None = None
    """Why packets are moved by Python."""


class DumpAt(NamedTuple):
    """A pcap file that gets the frames of an end."""

    target: DumpTarget
    inward: bool
    """Frames that come from the end."""
    outward: bool


class ImpairAt(NamedTuple):
    """One direction of a netem, at an end."""

    target: ImpairTarget
    direction: Direction
    """As the netem's netdev sees it."""
    inward: bool
    """Frames that come from the end; otherwise those that go to it."""

    @property
    def parameters(self) -> Parameters:
        return self.target.parameters

    @property
    def line(self) -> Line:
        return self.target.lines[self.direction]


@dataclass(slots=True)
class Segment:
    """All clients that are joined with their links up."""

    members: list[NetClient]
    ends: list[tuple[NetClient, LentEnd]] = field(default_factory=list)
    """Those that frames come from and go to, without hub ports and ends that are idle."""
    refusal: str = ""
    """Why it cannot be on vnic-wire."""
    dumps: dict[NetClient, list[DumpAt]] = field(default_factory=dict)
    impairs: dict[NetClient, list[ImpairAt]] = field(default_factory=dict)
    carried: bool = False


class WireEngine(Protocol):
    """What moves packets in another process. No method blocks or raises."""

    @property
    def active(self) -> bool:
        """Whether it may carry anything, now or later."""

    @property
    def unavailable(self) -> str:
        """Why it carries nothing at all now; "" if it may."""

    def refusal(self, client: NetClient, end: LentEnd) -> str:
        """Why it cannot carry this end, `unavailable` included; "" if it can."""

    def carry(self, segment: Segment) -> bool:
        """Carry the frames of these ends among each other; those that it carried elsewhere move. False: not yet, and
        `Wires.changed` follows."""

    def release(self, client: NetClient) -> None:
        """Return this end to this process, if the engine has it."""

    def keep(self, client: NetClient, end: ResidentEnd) -> None:
        """Have the program carry out this end's part from now on, whenever it runs."""

    def drop(self, client: NetClient) -> None:
        """The end that was kept is closed; its descriptors are closed next."""


class NoEngine:
    """The engine of a network that has none."""

    active = False

    def __init__(self, reason: str = "vnic-wire is not used here") -> None:
        self.unavailable = reason

    def refusal(self, client: NetClient, end: LentEnd) -> str:
        return self.unavailable

    def carry(self, segment: Segment) -> bool:
        return False

    def release(self, client: NetClient) -> None:
        """It has none."""

    def keep(self, client: NetClient, end: ResidentEnd) -> None:
        """This process does it all."""

    def drop(self, client: NetClient) -> None:
        """It has none."""


class Wires:
    """The segments of a network."""

    def __init__(self, scheduler: Scheduler, clients: Container[NetClient]) -> None:
        self.engine: WireEngine = NoEngine()
        self._scheduler = scheduler
        self._clients = clients
        self._segments: dict[NetClient, Segment] = {}
        self._changed: dict[NetClient, None] = {}
        self._scheduled = False

    def changed(self, client: NetClient) -> None:
        """Something changed that the path of `client` may depend on."""
        if not self.engine.active:
            self._forget(client)  # queries find it anew
            return
        self._changed[client] = None
        if not self._scheduled:
            self._scheduled = True
            self._scheduler.call_soon(self._continue)

    def removed(self, client: NetClient) -> None:
        """`client` is removed from the network; its endpoint closes what it lent, after this."""
        segment = self._segments.get(client)
        self._forget(client)
        self._changed.pop(client, None)
        self.engine.release(client)
        for member in segment.members if segment is not None else ():
            if member in self._clients:
                self.changed(member)

    def drained(self, client: NetClient) -> None:
        """No frame waits at `client` any more. Only then another process may take over."""
        segment = self._segments.get(client)
        if segment is not None and not segment.carried and not segment.refusal:
            self.changed(client)

    def _forget(self, client: NetClient) -> None:
        segment = self._segments.pop(client, None)
        if segment is not None:
            for member in segment.members:
                if self._segments.get(member) is segment:
                    del self._segments[member]

    def use(self, engine: WireEngine) -> None:
        """Have `engine` carry what it can. Called once, before the first NIC or netdev."""
        self.engine = engine

    def _continue(self) -> None:
        self._scheduled = False
        self.settle(SEGMENTS_PER_TURN)
        if self._changed and not self._scheduled:
            self._scheduled = True
            self._scheduler.call_soon(self._continue)

    def settle(self, segments: int) -> None:
        """Choose anew for the clients that changed, and for at most so many segments."""
        todo: deque[NetClient] = deque()
        done: set[NetClient] = set()
        while (todo or self._changed) and segments > 0:
            client = todo.popleft() if todo else _pop(self._changed)
            if client in done:
                continue
            self._changed.pop(client, None)
            done.add(client)
            segments -= 1
            old = self._segments.pop(client, None)
            if old is not None:
                todo.extend(old.members)  # they may be in several segments now
            if client not in self._clients:
                continue  # see `removed`
            segment = self._explore(client)
            for member in segment.members:
                before = self._segments.get(member)
                if before is not None and before is not segment:
                    todo.extend(before.members)
                self._segments[member] = segment
                self._changed.pop(member, None)
            done.update(segment.members)
            self._apply(segment)
        for client in todo:
            if client not in done:
                self._changed[client] = None

    def _apply(self, segment: Segment) -> None:
        wanted = not segment.refusal and len(segment.ends) > 1
        ends = {client for client, _ in segment.ends} if wanted else set()
        for client in segment.members:
            if client not in ends:
                self.engine.release(client)
        segment.carried = wanted and self.engine.carry(segment)

    # -- segments -----------------------------------------------------------------------------------------------

    def _explore(self, start: NetClient) -> Segment:
        """The segment of a client."""
        segment = Segment([start])
        seen = {start}
        todo = [start]
        while todo:
            client = todo.pop()
            others = client.endpoint.joined()
            reached = list(others or ())
            if is_up(client):
                assert client.peer is not None
                reached.append(client.peer)
                self._note_filters(segment, client)
                if others is None:
                    self._note_end(segment, client)
            for each in reached:
                if each not in seen:
                    seen.add(each)
                    segment.members.append(each)
                    todo.append(each)
            if len(segment.members) > MAX_MEMBERS:
                segment.refusal = f"more than {MAX_MEMBERS} NICs and netdevs are joined here"
                break
        return segment

    def _note_end(self, segment: Segment, client: NetClient) -> None:
        endpoint = client.endpoint
        if segment.refusal or endpoint.idle():
            return
        end = endpoint.wire_end()
        refusal = end if isinstance(end, str) else self.engine.refusal(client, end)
        if refusal:
            of_all = _is_pair(segment) or refusal == self.engine.unavailable
            segment.refusal = refusal if of_all else f"{client.name}: {refusal}"
        if not isinstance(end, str):
            segment.ends.append((client, end))

    def _note_filters(self, segment: Segment, client: NetClient) -> None:
        """The filters of a client are those of its wire: dumps can be made by vnic-wire, others not."""
        peer = client.peer
        for each in client.filters:
            if not each.on:
                continue
            target, impairs = each.dump_target(), each.impair_target()
            at = client if client.endpoint.joined() is None else peer
            if target is None and impairs is None:
                segment.refusal = segment.refusal or each.wire_refusal()
                continue
            if at is None or at.endpoint.joined() is not None:
                segment.refusal = segment.refusal or f"{each.type} {each.id} is between two hubs"
                continue
            # What a netdev receives goes out at its end; where the netdev is a hub's port, it comes in at its peer.
            if impairs is not None:
                _note_impairments(segment, at, impairs, at is client)
            if target is None:
                continue
            received, sent = target.received, target.sent
            dump = DumpAt(target, sent, received) if at is client else DumpAt(target, received, sent)
            segment.dumps.setdefault(at, []).append(dump)

    # -- queries ------------------------------------------------------------------------------------------------

    def path(self, client: NetClient) -> PathInfo:
        """The path of the packets on this client's wire."""
        nic = next((end for end in clients_of_wire(client) if isinstance(end, Nic)), None)
        if nic is not None and nic.endpoint.elsewhere and client in self._clients:
            return PathInfo("elsewhere" if nic.link_up else "none")
        if not is_up(client) or client not in self._clients:
            return PathInfo("none")
        word = "python" if nic is None else nic.endpoint.datapath_word()
        if word in ("none", "vhost"):
            return PathInfo("none" if word == "none" else "vhost")
        segment = self._segments.get(client)
        if segment is None:
            segment = self._explore(client)
            if not self.engine.active:
                self._segments.update(dict.fromkeys(segment.members, segment))
        if segment.refusal:
            return PathInfo("python", segment.refusal)
        if (segment.carried and word != "python") or (nic is None and segment.carried):
            return PathInfo("wire")
        return PathInfo("python", MOVING if len(segment.ends) > 1 else ALONE)


def is_up(client: NetClient) -> bool:
    """Whether frames pass between a client and its peer: neither has a hold."""
    return client.peer is not None and not client.holds and not client.peer.holds


def _note_impairments(segment: Segment, at: NetClient, target: ImpairTarget, at_netdev: bool) -> None:
    """One impairment of the same frames can be at vnic-wire, and any faults that only lose them."""
    there = segment.impairs.setdefault(at, [])
    for direction in target.lines:
        inward = (direction is Direction.TX) is at_netdev
        others = (each for each in there if each.inward is inward and not each.parameters.is_gate)
        other = None if target.parameters.is_gate else next(others, None)
        if other is not None:
            text = f"netem {other.target.id} and netem {target.id} impair the same frames"
            segment.refusal = segment.refusal or text
        there.append(ImpairAt(target, direction, inward))


def _is_pair(segment: Segment) -> bool:
    return all(each.endpoint.joined() is None for each in segment.members)


def _pop(changed: dict[NetClient, None]) -> NetClient:
    client = next(iter(changed))
    del changed[client]
    return client
