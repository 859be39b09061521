"""One link change: place or release holds, write the journal, and notify the device models and back-ends.

Every cause calls this module: `set_link` (QEMU's qmp_set_link and net_client_set_link), and `hold` and `release` for
back-ends. `Nic.link_up` is already the new state when the device model's `link_status_changed` runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.clock import Clock
from vnic.net.follow import Follower, Followers, Reason, Undecided
from vnic.net.holds import holders_of_link, holds_of_link
from vnic.net.journal import Journal
from vnic.net.records import (
    CREATED,
    Cause,
    Hold,
    HoldKind,
    LinkChange,
    LinkChanged,
    LinkHoldsChanged,
    LinkSeen,
    link_word,
)

Emit = Callable[[str, object], None]


def new_hold(
    client: str,
    kind: HoldKind,
    by: str,
    text: str,
    clock: Clock,
    via: tuple[str, ...] = (),
    root: HoldKind | None = None,
) -> Hold:
    """A hold that begins now."""
    return Hold(client, kind, by, text, clock.wall_ns() / 1e9, clock.monotonic_ns() // 1000, via, root)


Step = Callable[[int | None], None]
"""Carries out one change; the argument is the id of the change that caused it."""


class Links:
    """The link state of all wires of a Network. Every change uses `_transition` (or `replugged`, for a new peer).

    Changes are a worklist. A change that an endpoint makes from within its `link_status_changed` waits until all
    clients are notified of the present one; it is recorded with the present change's id as `caused_by`.
    """

    def __init__(self, clock: Clock, journal: Journal, emit: Emit) -> None:
        self._clock = clock
        self._journal = journal
        self._emit = emit
        self._waiting: deque[tuple[Step, int | None]] = deque()
        self._working = False
        self._notifying: int | None = None
        """The change that an endpoint is being notified of."""
        self._unannounced: set[int] = set()
        self._afterwards: deque[Callable[[], object]] = deque()
        """What does not have to be done before the last guest is interrupted: events, in the order of the changes."""
        self.followers = Followers()
        """Those that decide anew after each change of the wire that they follow."""
        self._undecided: dict[Follower, None] | None = None
        """While clients are restored: those that decide when all are there."""

    # -- causes -------------------------------------------------------------------------------------------------

    def set_link(self, matches: Sequence[NetClient], up: bool, by: str, text: str) -> None:
        """Set or clear the operator hold where QEMU's net_client_set_link writes `link_down`.

        `matches` are the clients of one name, at least one. Their holds change, and those of their peers if the first
        one's peer is a NIC: the name of a netdev changes both ends, the name of a NIC only the NIC. The callbacks of
        the first match and of its peer run even if nothing changed, as in QEMU.
        """
        first = matches[0]
        written = list(matches)
        if first.peer is not None and first.peer.is_nic:
            written += [
                match.peer for match in matches if match.peer is not None and match.peer not in written
            ]
        if up:
            written = [client for client in written if not (isinstance(client, Nic) and client.leaving)]
        cause = Cause(HoldKind.OPERATOR, by, text)
        self._do(partial(self._transition, written, HoldKind.OPERATOR, not up, cause, first))

    def hold(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None:
        """Place a hold of `kind` on `client`; one that exists keeps its time and gets the new text."""
        cause = Cause(kind, by, text)
        self._do(partial(self._transition, [client], kind, True, cause, client))

    def release(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None:
        """Release the hold of `kind` on `client`, if there is one."""
        cause = Cause(kind, by, text)

        def step(caused_by: int | None) -> None:
            if kind in client.holds:
                self._transition([client], kind, False, cause, client, caused_by)

        self._do(step)

    def created(self, client: NetClient, by: str) -> None:
        """Record the initial state of `client`, which `by` created.

        A hold at the other end of a new NIC's wire keeps its link down; that hold is then the cause of the record.
        A restored client has that record, and more.
        """
        if client.last_change is not None:
            client.created = True
            self.wire_changed(client)
            return
        holder = next((end for end in clients_of_wire(client) if end.holds), None)
        cause, caused_by = Cause(CREATED, by, f"{client.name} created"), None
        if holder is not None and not client.link_up:
            hold = next(iter(holder.holds.values()))
            cause = Cause(hold.kind, hold.by, hold.text)
            if holder.last_change is not None:
                caused_by = holder.last_change.id
        client.created = True
        client.last_change = self._record(client, client.link_up, cause, caused_by)
        if isinstance(client, Nic):
            client.report.changed(client.last_change, created=True)
        client.kept.changed()
        self.wire_changed(client)

    def replugged(
        self, nic: Nic, edit: Callable[[], None], cause: Cause, caused_by: int | None = None
    ) -> None:
        """Run `edit`, which changes the NIC's peer and its no-peer hold, and notify the NIC."""

        def step(follows: int | None) -> None:
            before, ends = nic.link_up, [*clients_of_wire(nic)]
            edit()
            nic.endpoint.peer_changed()
            nic.kept.changed()
            change = self._record_if_changed(nic, before, cause, follows if caused_by is None else caused_by)
            self._notify(nic, change)
            nic.path_changed()
            ends += clients_of_wire(nic)
            self._tell_followers(ends, change.id if change is not None else follows)
            self._rewired(ends)
            self._afterwards.append(partial(self._announce, nic, change))

        self._do(step)

    # -- restoration --------------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Clients are being restored: no follower decides before `resume`, when all that it looks at is there."""
        self._undecided = {}

    def resume(self, nics: Iterable[Nic]) -> None:
        """All are restored: have the followers decide, and notify the device models that do not show the last change
        yet."""
        undecided, self._undecided = self._undecided or {}, None
        for follower in undecided:
            self.follow(follower)
        for nic in nics:
            if nic.endpoint.link_shown() not in (None, nic.link_up):
                self._do(partial(self._show, nic))

    # -- followers ----------------------------------------------------------------------------------------------

    def follow(self, follower: Follower) -> None:
        """Have `follower` decide now or, if called during a change, after it."""
        self._do(partial(self._settle, follower))

    def coming(self, client: NetClient) -> None:
        """`client` is being created. What its followers decide belongs to its initial state."""
        for each in self.followers.waiting_for(client):
            each.client_came(client)
            self.follow(each)

    def gone(self, client: NetClient) -> None:
        """`client` was removed, and is no one's peer."""
        joined = self.followers.joined([client])
        self.followers.forget_shown(client)
        for each in self.followers.concerned(client):
            each.client_gone(client)
            self.follow(each)
        for each in joined:
            each.rewired()

    def shown_on(self, client: NetClient, ifname: str) -> None:
        """`client` shows the link of its wire on the interface `ifname` of the host, until it is removed: who follows
        that interface depends on that wire."""
        for each in self.followers.add_shown(client, ifname):
            each.client_came(client)
            self.follow(each)

    def shown_changed(self, client: NetClient) -> None:
        """`client.endpoint.shows_down` is another than before."""
        self._ask_followers(client)

    def wire_changed(self, client: NetClient) -> None:
        """The wire of `client` has other ends than before, or one that is new: have its followers decide."""
        self._ask_followers(client)
        self._rewired([client])

    def _ask_followers(self, client: NetClient) -> None:
        for each in [each for end in clients_of_wire(client) for each in self.followers.of(end)]:
            self.follow(each)

    def _rewired(self, clients: Iterable[NetClient]) -> None:
        for each in self.followers.joined(clients):
            each.rewired()

    def _tell_followers(self, ends: Iterable[NetClient], caused_by: int | None) -> None:
        """Have the followers of these ends decide after the present step, and record `caused_by` with what they
        change."""
        for follower in dict.fromkeys(each for end in ends for each in self.followers.of(end)):
            self._waiting.append((partial(self._settle, follower), caused_by))

    def _settle(self, follower: Follower, caused_by: int | None) -> None:
        """Place, change or release the hold of a follower, as it decides."""
        if self._undecided is not None:
            self._undecided[follower] = None
            return
        client, kind = self.followers.target(follower), follower.kind
        if client is None:
            return
        reason = follower.decide()
        if isinstance(reason, Undecided):
            return
        hold = client.holds.get(kind)
        if reason is None:
            if hold is not None:
                cause = Cause(kind, follower.follower_name, follower.released_text())
                self._transition([client], kind, False, cause, client, caused_by)
        elif hold is None:
            cause = Cause(kind, reason.by, reason.text)
            self._transition([client], kind, True, cause, client, caused_by, reason)
        elif Reason(hold.by, hold.text, hold.via, hold.root) != reason:
            self._place(client, kind, Cause(kind, reason.by, reason.text), reason)
            self._tell_followers(clients_of_wire(client), caused_by)

    # -- the worklist -------------------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        """Carry out `step` now or, if called from within another step, after that one."""
        self._waiting.append((step, self._notifying))
        if self._working:
            return
        self._working = True
        try:
            while self._waiting or self._afterwards:
                if self._waiting:
                    next_step, caused_by = self._waiting.popleft()
                    next_step(caused_by)
                else:
                    self._afterwards.popleft()()
        finally:
            self._working = False
            self._notifying = None
            self._waiting.clear()  # only after a step that raised, which is a bug
            self._afterwards.clear()

    def _transition(
        self,
        written: Sequence[NetClient],
        kind: HoldKind,
        down: bool,
        cause: Cause,
        named: NetClient,
        caused_by: int | None,
        reason: Reason | None = None,
    ) -> None:
        """Place or release the hold of `kind` on all of `written`, record the changes, and run the callbacks: always
        those of the wire of `named`, others if the link changed.

        All holds are written before the first callback runs, as QEMU writes all `link_down` flags first, so that no
        device model sees an incomplete change. Nothing is done before the callbacks that can be done after them, and
        after those of the followers: guests wait for their interrupts.
        """
        before = {end: end.link_up for client in written for end in clients_of_wire(client)}
        rewritten = {client for client in written if (kind in client.holds) is not down}
        for client in written:
            if down:
                self._place(client, kind, cause, reason)
            elif client.holds.pop(kind, None) is not None:
                client.kept.changed()
        changes: dict[NetClient, LinkChange] = {}
        for end, was_up in before.items():
            change = self._record_if_changed(end, was_up, cause, caused_by)
            if change is not None:
                changes[end] = change
                if len(changes) == 1:
                    caused_by = change.id  # the other ends follow from the first
        for end in dict.fromkeys([*clients_of_wire(named), *changes]):
            if end.created:
                self._notify(end, changes.get(end))
        self._tell_followers(before, caused_by)
        for end in before:
            self._afterwards.append(end.path_changed)
        for client in written:
            if client.holds:  # frames that wait there are dropped, so that their senders continue
                self._afterwards.append(client.purge)
        for end, change in changes.items():
            self._afterwards.append(partial(self._announce, end, change))
        for end in before:
            if end.created and end not in changes and not rewritten.isdisjoint(holders_of_link(end)):
                holds = LinkHoldsChanged(end.name, link_word(end.link_up), holds_of_link(end))
                self._afterwards.append(partial(self._emit, "LINK_HOLDS_CHANGED", holds))

    def _place(self, client: NetClient, kind: HoldKind, cause: Cause, reason: Reason | None) -> None:
        """`reason`: that of a follower."""
        client.kept.changed()
        via, root = ((), None) if reason is None else (reason.via, reason.root)
        there = client.holds.get(kind)
        if there is not None:
            client.holds[kind] = msgspec.structs.replace(
                there, by=cause.by, text=cause.text, via=via, root=root
            )
        else:
            client.holds[kind] = new_hold(client.name, kind, cause.by, cause.text, self._clock, via, root)

    def _record_if_changed(
        self, client: NetClient, was_up: bool, cause: Cause, caused_by: int | None
    ) -> LinkChange | None:
        up = client.link_up
        if up == was_up or not client.created:
            return None
        change = client.last_change = self._record(client, up, cause, caused_by)
        self._unannounced.add(change.id)
        if up:
            client.carrier_up_changes += 1
        else:
            client.carrier_down_changes += 1
        client.kept.changed()
        if isinstance(client, Nic):
            client.report.changed(change)
        return change

    def _record(self, client: NetClient, up: bool, cause: Cause, caused_by: int | None) -> LinkChange:
        return self._journal.record(client.name, client.record_type, link_word(up), cause, caused_by)

    def _notify(self, client: NetClient, change: LinkChange | None) -> None:
        self._notifying = change.id if change is not None else None
        client.endpoint.link_status_changed()
        self._notifying = None

    def _show(self, nic: Nic, caused_by: int | None) -> None:
        self._notify(nic, nic.last_change)

    # -- events -------------------------------------------------------------------------------------------------

    def _announce(self, client: NetClient, change: LinkChange | None) -> None:
        """Emit LINK_CHANGED, once per change."""
        if change is not None and change.id in self._unannounced:
            self._unannounced.remove(change.id)
            event = LinkChanged(change.name, change.link, change.id, change.cause)
            client.tell_watchers(event)
            self._emit("LINK_CHANGED", event)

    def seen(self, nic: Nic, change: LinkChange) -> None:
        """Emit LINK_SEEN, after LINK_CHANGED even if the guest reads the status from within its interrupt."""
        if change.id in self._unannounced:
            while self._afterwards:  # the events of earlier changes come first
                self._afterwards.popleft()()
            self._announce(nic, change)
        assert change.seen_latency_us is not None
        event = LinkSeen(change.name, change.link, change.id, change.seen_latency_us)
        nic.tell_watchers(event)
        self._emit("LINK_SEEN", event)

    def guest_changed(self, nic: Nic) -> None:
        """Notify the other end of the wire: the NIC's guest attached or detached, or its driver started or stopped."""
        if nic.peer is not None:
            nic.peer.endpoint.guest_changed()
            self._ask_followers(nic)
        nic.path_changed()
