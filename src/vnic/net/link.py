"""One link change: holds are placed or released, the journal is written, and the device models are told.

All causes come through here: `set_link` (QEMU's qmp_set_link and net_client_set_link) and the `hold`/`release` of
back-ends. `Nic.link_up` says how the device model finds the link when its `link_status_changed` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.clock import Clock
from vnic.net.holds import (
    CREATED,
    Cause,
    Hold,
    HoldKind,
)
from vnic.net.journal import Journal, LinkChange

Emit = Callable[[str, dict[str, object]], None]


class Links:
    """The link state of all wires of a Network; every change passes `_transition`."""

    def __init__(self, clock: Clock, journal: Journal, emit: Emit) -> None:
        self._clock = clock
        self._journal = journal
        self._emit = emit

    # -- causes -------------------------------------------------------------------------------------------------

    def set_link(self, matches: Sequence[NetClient], up: bool, by: str, text: str) -> None:
        """Write the operator's hold where QEMU's net_client_set_link writes `link_down`.

        `matches` are the clients of one name, never empty. Their own flags are written, and those of their peers
        if the first one's peer is a NIC: naming a netdev changes both ends, naming a NIC only the NIC. The
        callbacks of the first match and of its peer run even where nothing changed, as in QEMU.
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
        self._transition(written, HoldKind.OPERATOR, not up, cause, told=clients_of_wire(first))

    def hold(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None:
        """Place a hold of `kind` on `client`; one that is there keeps its time and takes the new text."""
        self._transition([client], kind, True, Cause(kind, by, text), told=clients_of_wire(client))

    def release(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None:
        """End the hold of `kind` on `client`; nothing happens where there is none."""
        if kind in client.holds:
            self._transition([client], kind, False, Cause(kind, by, text), told=clients_of_wire(client))

    def born(self, client: NetClient, by: str) -> None:
        """Write the record of the state that `client` is created in, at the wish of `by`.

        A NIC may be born down by what holds the other end of its wire; the record then follows from that.
        """
        holder = next((end for end in clients_of_wire(client) if end.holds), None)
        cause, caused_by = Cause(CREATED, by, f"{client.name} created"), None
        if holder is not None and not client.link_up:
            hold = next(iter(holder.holds.values()))
            cause = Cause(hold.kind, hold.by, hold.text)
            if holder.last_change is not None:
                caused_by = holder.last_change.id
        client.born = True
        client.last_change = self._journal.record(
            client.name, client.is_nic, client.link_up, cause, caused_by, birth=True
        )
        client.last_change.announced = True

    def replugged(
        self, nic: Nic, edit: Callable[[], None], cause: Cause, caused_by: int | None = None
    ) -> None:
        """Run `edit`, which changes the NIC's peer and its no-peer hold, and tell the NIC what came of it."""
        before = nic.link_up
        edit()
        nic.endpoint.peer_changed()
        change = self._record_if_changed(nic, before, cause, caused_by)
        nic.endpoint.link_status_changed()
        if change is not None:
            self._announce(change)

    # -- the one way --------------------------------------------------------------------------------------------

    def _transition(
        self,
        written: Sequence[NetClient],
        kind: HoldKind,
        down: bool,
        cause: Cause,
        told: Sequence[NetClient],
    ) -> None:
        """Write or clear the hold of `kind` on all of `written`, record what changed, run the callbacks.

        The holds of all clients are written before the first callback runs, as QEMU writes all `link_down` flags
        first, so that no device model sees a half-made change.
        """
        affected = list(dict.fromkeys(end for client in written for end in clients_of_wire(client)))
        before = [end.link_up for end in affected]
        for client in written:
            if down:
                _place(client, kind, cause, self._clock)
            else:
                client.holds.pop(kind, None)
        changes: list[LinkChange] = []
        changed_ends = []
        for end, was_up in zip(affected, before, strict=True):
            change = self._record_if_changed(end, was_up, cause, changes[0].id if changes else None)
            if change is not None:
                changes.append(change)
                changed_ends.append(end)
        for end in dict.fromkeys([*told, *changed_ends]):
            if end.born:
                end.endpoint.link_status_changed()
        for client in written:
            if client.holds:
                client.purge()  # what waits at a downed end is lost, and nobody may wait for it to be taken
        for change in changes:
            self._announce(change)

    def _record_if_changed(
        self, client: NetClient, was_up: bool, cause: Cause, caused_by: int | None
    ) -> LinkChange | None:
        up = client.link_up
        if up == was_up or not client.born:
            return None
        change = self._journal.record(client.name, client.is_nic, up, cause, caused_by)
        client.last_change = change
        if isinstance(client, Nic):
            client.guest.seen_latency_us = None  # it was that of the change before
        if up:
            client.carrier_up_changes += 1
        else:
            client.carrier_down_changes += 1
        return change

    # -- events -------------------------------------------------------------------------------------------------

    def _announce(self, change: LinkChange) -> None:
        """Emit LINK_CHANGED, once for each change."""
        if change.announced:
            return
        change.announced = True
        self._emit(
            "LINK_CHANGED",
            {"name": change.name, "link": change.link, "id": change.id, "cause": change.cause.to_dict()},
        )

    def announce_seen(self, change: LinkChange) -> None:
        """Emit LINK_SEEN; a guest that reads from within its interrupt must not be told of before the change."""
        if change.birth:
            return
        self._announce(change)
        self._emit(
            "LINK_SEEN",
            {"name": change.name, "link": change.link, "id": change.id, "latency-us": change.latency_us},
        )


def _place(client: NetClient, kind: HoldKind, cause: Cause, clock: Clock) -> None:
    there = client.holds.get(kind)
    since_ns, monotonic_ns = (
        (there.since_ns, there.monotonic_ns) if there is not None else (clock.wall_ns(), clock.monotonic_ns())
    )
    client.holds[kind] = Hold(kind, cause.by, cause.text, since_ns, monotonic_ns)
