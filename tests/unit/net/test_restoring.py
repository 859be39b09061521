"""Clients that are restored: nothing is recorded or emitted, followers decide once, and a late guest is notified."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint, NetClient
from vnic.net.client_record import NetClientRecord
from vnic.net.follow import Follower, Reason
from vnic.net.network import Network
from vnic.net.records import HoldKind
from vnic.record import decode, encode

MAC = b"\2" * 6


class Model(Endpoint):
    """A device model that shows the link at once; `told` are the states that it was notified of."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self.told: list[bool] = []

    def link_status_changed(self) -> None:
        self.shown = self.client.link_up
        self.told.append(self.shown)

    def link_shown(self) -> bool:
        return self.shown


class Follow(Follower):
    """Holds net0 while net1 is held."""

    kind = HoldKind.FAR_END

    def __init__(self, network: Network) -> None:
        self.network = network
        self.decided = 0

    def decide(self) -> Reason | None:
        self.decided += 1
        source = self.network.find_netdev("net1")
        return Reason("it", "net1 is held") if source is not None and source.holds else None


class Kept:
    """Counts what a unit tells."""

    def __init__(self) -> None:
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    def handles_changed(self) -> None: ...

    def commit(self) -> None:
        self.changes += 1

    def end(self) -> None: ...


def network() -> tuple[Network, list[str]]:
    net = Network(FakeScheduler())
    events: list[str] = []
    net.subscribe(lambda name, data: events.append(name))
    return net, events


def record(client: NetClient) -> bytes:
    return encode(client.save_kept()[0])


def restored(net: Network, netdev: bytes, nic: bytes, model: Model) -> None:
    backend = Endpoint()

    def start() -> None:
        backend.client.hold(HoldKind.DISCONNECTED, "net0", "waiting")
        backend.client.restore(decode(NetClientRecord, netdev))

    net.add_netdev("net0", "stream", backend, start=start)
    net.add_nic(
        "nic0",
        "x",
        model,
        mac=MAC,
        netdev_id="net0",
        start=lambda: model.client.restore(decode(NetClientRecord, nic)),
    )


def wire() -> Network:
    net, _ = network()
    net.add_netdev("net0", "stream", Endpoint())
    net.add_nic("nic0", "x", Model(), mac=MAC, netdev_id="net0")
    return net


def records_of(net: Network) -> tuple[bytes, bytes]:
    netdev, nic = net.find_netdev("net0"), net.find_nic("nic0")
    assert netdev is not None
    assert nic is not None
    return record(netdev), record(nic)


def test_nothing_is_recorded_or_emitted() -> None:
    before = wire()
    before.set_link("nic0", False, "test")
    before.set_link("nic0", True, "test")
    saved = records_of(before)
    after, events = network()
    model = Model()

    after.links.suspend()
    restored(after, *saved, model)
    after.links.resume(after.nics)

    assert not events
    assert not after.journal.select()
    assert not model.told
    nic = after.find_nic("nic0")
    assert nic is not None
    assert (nic.link_up, nic.carrier_down_changes, nic.last_change and nic.last_change.cause.by) == (
        True,
        1,
        "test",
    )


def test_model_that_does_not_show_the_last_change_is_notified() -> None:
    before = wire()
    before.set_link("nic0", False, "test")
    after, events = network()
    model = Model(shown=True)

    after.links.suspend()
    restored(after, *records_of(before), model)
    after.links.resume(after.nics)

    assert model.told == [False]
    assert not events


def test_followers_decide_once_when_all_are_there() -> None:
    before, _ = network()
    before.add_netdev("net1", "stream", Endpoint())
    before.set_link("net1", False, "test")
    net1 = before.find_netdev("net1")
    assert net1 is not None
    saved = record(net1)

    after, events = network()
    after.links.suspend()
    target = after.add_netdev("net0", "stream", Endpoint())
    follow = Follow(after)
    source = Endpoint()

    def start() -> None:
        after.links.followers.set(follow, target, [source.client])
        after.links.follow(follow)
        source.client.restore(decode(NetClientRecord, saved))

    after.add_netdev("net1", "stream", source, start=start)
    assert follow.decided == 0
    after.links.resume(after.nics)

    assert follow.decided == 1
    assert HoldKind.FAR_END in target.holds
    assert events == ["LINK_CHANGED"]


def test_each_change_of_the_record_is_told() -> None:
    net = wire()
    nic, netdev = net.find_nic("nic0"), net.find_netdev("net0")
    assert nic is not None
    assert netdev is not None
    for client in (nic, netdev):
        client.kept = kept = Kept()
        told = 0
        last = client.save_kept()[0]
        actions: list[Callable[[], object]] = [
            lambda: net.set_link("nic0", False, "test"),
            lambda: net.set_link("net0", False, "test"),
            lambda: net.set_link("net0", True, "test"),
            lambda: netdev.hold(HoldKind.DISCONNECTED, "net0", "gone"),
            lambda: netdev.hold(HoldKind.DISCONNECTED, "net0", "gone for good"),
            lambda: netdev.release(HoldKind.DISCONNECTED, "net0", "back"),
            lambda: nic.report.guest_attached(),
            lambda: nic.report.driver_ok(True),
            lambda: nic.report.notified(True),
            lambda: nic.report.interrupted(),
            lambda: nic.report.seen(True),
            lambda: nic.report.driver_ok(False),
            lambda: nic.report.guest_detached(),
            lambda: nic.rx_filter_changed(),
        ]
        for action in actions:
            action()
            now = client.save_kept()[0]
            same = _without_ages(now) == _without_ages(last)
            assert same or kept.changes > told, action
            told, last = kept.changes, now


def _without_ages(value: object) -> object:
    def strip(each: object) -> object:
        if isinstance(each, dict):
            return {
                key: strip(inner) for key, inner in each.items() if not key.endswith(("age_us", "saved_us"))
            }
        return [strip(inner) for inner in each] if isinstance(each, list) else each

    return strip(msgspec.to_builtins(value))
