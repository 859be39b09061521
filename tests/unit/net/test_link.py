"""Link changes: what QEMU's set_link does, what vnic does otherwise on purpose, and what the journal keeps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.fakes.events import as_sent, record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.clock import Clock
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.journal import Entry, Journal
from vnic.net.network import Network
from vnic.net.records import Cause, HoldKind, LinkChanged, LinkSeen

MAC = bytes.fromhex("525400123456")


class Recorder(Endpoint):
    """An endpoint that records its calls."""

    def __init__(self, fail: str | None = None) -> None:
        self.told: list[bool] = []
        self.peers: list[str | None] = []
        self.cleaned = 0
        self.fail = fail

    def start(self) -> None:
        if self.fail:
            raise NetError(self.fail)

    def link_status_changed(self) -> None:
        self.told.append(self.client.link_up)

    def peer_changed(self) -> None:
        self.peers.append(self.client.peer.name if self.client.peer else None)

    def cleanup(self) -> None:
        self.cleaned += 1


class Bench:
    """A network with a clock that ticks 1 µs a look, and the events it emitted."""

    def __init__(self, journal: Journal | None = None) -> None:
        ticks = itertools.count(1_000_000, 1000)
        clock = Clock(lambda: next(ticks), lambda: next(ticks))
        self.network = Network(FakeScheduler(), clock, journal)
        self.events = record_events(self.network)

    def netdev(self, name: str = "net0", link: bool = True) -> tuple[NetClient, Recorder]:
        endpoint = Recorder()
        return self.network.add_netdev(name, "stream", endpoint, link=link, by="qmp"), endpoint

    def nic(
        self, name: str | None = "nic0", netdev: str | None = "net0", link: bool = True
    ) -> tuple[Nic, Recorder]:
        endpoint = Recorder()
        nic = self.network.add_nic(name, "virtio-net", endpoint, mac=MAC, netdev_id=netdev, link=link)
        return nic, endpoint

    def links(self) -> list[tuple[object, object]]:
        return [(data["name"], data["link"]) for name, data in self.events if name == "LINK_CHANGED"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_set_link_of_netdev_changes_both_ends(bench: Bench) -> None:
    netdev, backend = bench.netdev()
    nic, device = bench.nic()
    bench.network.set_link("net0", False, "qmp")
    assert netdev.link_down
    assert nic.link_down
    assert (backend.told, device.told) == ([False], [False])
    bench.network.set_link("net0", True, "qmp")
    assert not netdev.holds
    assert not nic.holds
    assert bench.links() == [("net0", "down"), ("nic0", "down"), ("net0", "up"), ("nic0", "up")]


def test_second_hold_emits_holds_changed(bench: Bench) -> None:
    netdev, _backend = bench.netdev()
    bench.nic()
    netdev.hold(HoldKind.DISCONNECTED, "net0", "no peer yet")
    bench.events.clear()
    bench.network.set_link("nic0", False, "qmp")
    netdev.hold(HoldKind.DISCONNECTED, "net0", "still no peer")
    netdev.release(HoldKind.DISCONNECTED, "net0", "peer connected")
    told = [
        (name, data["name"], data["link"], [hold["kind"] for hold in data.get("holds", ())])
        for name, data in bench.events
    ]
    assert told == [
        ("LINK_HOLDS_CHANGED", "nic0", "down", ["operator", "disconnected"]),
        ("LINK_CHANGED", "net0", "up", []),
        ("LINK_HOLDS_CHANGED", "nic0", "down", ["operator"]),
    ]


def test_set_link_of_nic_changes_only_nic(bench: Bench) -> None:
    netdev, backend = bench.netdev()
    nic, device = bench.nic()
    bench.network.set_link("nic0", False, "qmp")
    assert nic.link_down
    assert not netdev.link_down
    # QEMU runs the callbacks of both ends.
    assert (device.told, backend.told) == ([False], [True])
    assert bench.links() == [("nic0", "down")]


def test_repeated_set_link_runs_callbacks_without_record(bench: Bench) -> None:
    bench.netdev()
    _nic, device = bench.nic()
    bench.network.set_link("nic0", True, "qmp")
    bench.network.set_link("nic0", True, "qmp")
    assert device.told == [True, True]
    assert bench.links() == []


def test_nic_on_does_not_release_hold_of_netdev(bench: Bench) -> None:
    bench.netdev()
    nic, _device = bench.nic()
    bench.network.set_link("net0", False, "qmp")
    bench.network.set_link("nic0", True, "qmp")
    assert not nic.link_up
    [entry] = bench.network.query_links("nic0")
    assert [(hold.client, hold.kind) for hold in entry.holds] == [("net0", "operator")]
    assert entry.operstate == "lowerlayerdown"


def test_operator_hold_survives_reconnect(bench: Bench) -> None:
    netdev, _backend = bench.netdev()
    nic, _device = bench.nic()
    netdev.hold(HoldKind.DISCONNECTED, "net0", "peer closed the connection")
    bench.network.set_link("nic0", False, "qmp")
    netdev.release(HoldKind.DISCONNECTED, "net0", "peer connected")
    assert not nic.link_up
    bench.network.set_link("nic0", True, "qmp")
    assert nic.link_up


def test_backend_hold_brings_nic_down_with_caused_by(bench: Bench) -> None:
    netdev, _backend = bench.netdev()
    _nic, device = bench.nic()
    netdev.hold(HoldKind.DISCONNECTED, "net0", "peer closed the connection")
    assert device.told == [False]
    mine, nics = [entry for entry in bench.network.journal.select() if entry.link == "down"]
    assert nics.caused_by == mine.id
    assert nics.cause == Cause("disconnected", "net0", "peer closed the connection")


def test_set_link_of_unknown_name_is_device_not_found(bench: Bench) -> None:
    with pytest.raises(DeviceNotFound, match="Device 'nope' not found"):
        bench.network.set_link("nope", True, "qmp")


def test_set_link_changes_netdev_and_unpeered_nic_of_same_id(bench: Bench) -> None:
    """QEMU dies of this one (a NULL peer); here both change."""
    netdev, _ = bench.netdev("x")
    nic, _ = bench.nic("nic0", "x")
    lone, lone_device = bench.nic("x", None)
    bench.network.set_link("x", False, "qmp")
    assert netdev.link_down
    assert nic.link_down
    assert lone.link_down
    bench.network.set_link("x", True, "qmp")
    assert nic.link_up
    assert not lone.link_up, "it still has no peer"
    assert lone_device.told == []


def test_nic_without_netdev_has_no_peer_hold(bench: Bench) -> None:
    nic, _ = bench.nic(netdev=None)
    assert list(nic.holds) == [HoldKind.NO_PEER]
    assert str(nic.operstate) == "lowerlayerdown"
    bench.network.set_link("nic0", True, "qmp")
    assert not nic.link_up
    bench.network.set_link("nic0", False, "qmp")
    assert str(nic.operstate) == "down"


def test_netdev_del_keeps_nic_and_new_netdev_plugs_in(bench: Bench) -> None:
    _netdev, backend = bench.netdev()
    nic, device = bench.nic()
    bench.network.delete_netdev("net0", "qmp")
    assert backend.cleaned == 1
    assert nic.peer is None
    assert device.told == [False]
    assert device.peers[-1] is None
    with pytest.raises(DeviceNotFound):
        bench.network.set_link("net0", True, "qmp")
    again, _ = bench.netdev()
    assert bench.network.nics[0].peer is again
    assert device.told == [False, True]
    assert bench.links() == [("nic0", "down"), ("nic0", "up")]
    assert bench.network.journal.select("nic0", limit=1)[0].cause == Cause(
        "no-peer", "qmp", "netdev net0 is back"
    )


def test_link_off_option_is_operator_hold(bench: Bench) -> None:
    bench.netdev(link=False)
    nic, device = bench.nic()
    assert not nic.link_up
    assert device.told == []
    bench.network.set_link("net0", True, "qmp")
    assert bench.network.nics[0].link_up
    assert nic.carrier_up_changes == 1


def test_nic_created_on_held_wire_has_cause_of_hold(bench: Bench) -> None:
    netdev, _ = bench.netdev()
    netdev.hold(HoldKind.DISCONNECTED, "net0", "no peer yet")
    bench.nic()
    (change,) = bench.network.journal.select("nic0")
    assert change.link == "down"
    assert change.cause == Cause("disconnected", "net0", "no peer yet")
    assert netdev.last_change is not None
    assert change.caused_by == netdev.last_change.id


def test_failed_start_leaves_no_client(bench: Bench) -> None:
    broken = Recorder(fail="could not open")
    with pytest.raises(NetError, match="could not open"):
        bench.network.add_netdev("net0", "tap", broken)
    assert broken.cleaned == 1
    assert not list(bench.network.clients)
    bench.netdev()
    endpoint = Recorder(fail="no room")
    with pytest.raises(NetError, match="no room"):
        bench.network.add_nic("nic0", "virtio-net", endpoint, mac=MAC, netdev_id="net0")
    bench.nic()


def test_invalid_or_duplicate_identifier_is_refused(bench: Bench) -> None:
    bench.netdev()
    for bad in ("", "0net", "net 0", "net,0"):
        with pytest.raises(NetError, match="Parameter 'id' expects an identifier"):
            bench.netdev(bad)
    with pytest.raises(NetError, match="Duplicate ID 'net0'"):
        bench.netdev()
    bench.nic()
    with pytest.raises(
        NetError, match=r"Property 'virtio-net-device.netdev' can't take value 'net0', it's in use"
    ):
        bench.network.add_nic(
            "nic1", "virtio-net", Recorder(), mac=MAC, netdev_id="net0", driver="virtio-net-device"
        )
    with pytest.raises(NetError, match="can't find value 'zz'"):
        bench.nic("nic1", "zz")
    unnamed, _ = bench.nic(None, None)
    assert unnamed.name == "virtio-net.1"


def test_seen_is_recorded_at_guests_read_of_new_state(bench: Bench) -> None:
    bench.netdev()
    nic, _ = bench.nic()
    nic.report.guest_attached()
    nic.report.seen(True)
    assert bench.events == [], "the state it was created in is no change"
    bench.network.set_link("nic0", False, "qmp")
    nic.report.notified(False)
    nic.report.interrupted()
    nic.report.seen(True)
    assert [name for name, _ in bench.events] == ["LINK_CHANGED"], "an old state read late proves nothing"
    nic.report.seen(False)
    nic.report.seen(False)
    name, data = bench.events[-1]
    assert name == "LINK_SEEN"
    assert data["link"] == "down"
    assert data["latency-us"] == nic.guest.seen_latency_us
    assert len(bench.events) == 2
    last = bench.network.journal.select("nic0", limit=1)[0]
    steps = (last.notified_us, last.interrupt_us, last.seen_us)
    assert None not in steps
    assert list(steps) == sorted(steps)  # type: ignore[type-var]  # none is None


def test_seen_latency_is_of_the_last_change_only(bench: Bench) -> None:
    bench.netdev()
    nic, _ = bench.nic()
    nic.report.guest_attached()
    bench.network.set_link("nic0", False, "qmp")
    nic.report.seen(False)
    assert nic.guest.seen_latency_us is not None
    bench.network.set_link("nic0", True, "qmp")
    bench.network.set_link("nic0", False, "qmp")
    assert nic.guest.seen == "down"
    assert nic.guest.seen_latency_us is None


def test_guest_of_netdev_is_that_of_peer_nic(bench: Bench) -> None:
    bench.netdev()
    (lone,) = bench.network.query_links("net0")
    assert as_sent(lone)["guest"] == {"attached": False, "driver-ok": False, "seen": "unknown"}
    nic, _ = bench.nic()
    nic.report.guest_attached()
    nic.report.seen(True)
    netdev, seen = bench.network.query_links()
    assert netdev.guest == seen.guest
    assert netdev.guest != lone.guest


def test_link_seen_follows_link_changed_for_immediate_read(bench: Bench) -> None:
    bench.netdev()
    nic, device = bench.nic()
    device.link_status_changed = lambda: nic.report.seen(nic.link_up)  # type: ignore[method-assign]  # a fast guest
    bench.network.set_link("nic0", False, "qmp")
    assert [name for name, _ in bench.events] == ["LINK_CHANGED", "LINK_SEEN"]


def test_consequence_of_change_is_recorded_and_notified_after_it(bench: Bench) -> None:
    """A follower: nic0's link holds net1, from within the change."""
    bench.netdev()
    _nic0, device = bench.nic()
    net1, _ = bench.netdev("net1")
    nic1, far = bench.nic("nic1", "net1")
    seen_by_device: list[bool] = []

    def follow() -> None:
        if device.client.link_up:
            net1.release(HoldKind.FAR_END, "cable", "nic0 is up")
        else:
            net1.hold(HoldKind.FAR_END, "cable", "nic0 is down")
        seen_by_device.append(nic1.link_up)

    device.link_status_changed = follow  # type: ignore[method-assign]  # stands for a cable
    bench.network.set_link("nic0", False, "qmp")
    assert seen_by_device == [True], "the consequence waits until its cause was told"
    assert far.told == [False]
    assert bench.links() == [("nic0", "down"), ("net1", "down"), ("nic1", "down")]
    cause, at_netdev, at_nic = bench.network.journal.select()[-3:]
    assert (cause.caused_by, at_netdev.caused_by, at_nic.caused_by) == (None, cause.id, at_netdev.id)


def test_netdev_is_notified_of_guest_changes(bench: Bench) -> None:
    _, backend = bench.netdev()
    nic, _ = bench.nic()
    heard: list[tuple[bool, bool]] = []
    backend.guest_changed = lambda: heard.append((nic.guest.attached, nic.guest.driver_ok))  # type: ignore[method-assign]  # recorded
    nic.report.guest_attached()
    nic.report.driver_ok(True)
    nic.report.driver_ok(True)
    nic.report.guest_detached()
    assert heard == [(True, False), (True, True), (False, False)]


def test_watcher_is_called_for_its_client_only(bench: Bench) -> None:
    bench.netdev()
    nic, _ = bench.nic()
    bench.nic("nic1", None)
    heard: list[object] = []
    unwatch = nic.watch(heard.append)
    bench.network.set_link("nic1", False, "qmp")
    bench.network.set_link("nic0", False, "qmp")
    nic.report.seen(False)
    unwatch()
    bench.network.set_link("nic0", True, "qmp")
    assert [type(event) for event in heard] == [LinkChanged, LinkSeen]


def test_journal_store_gets_every_record_and_step() -> None:
    class Store:
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def recorded(self, change: Entry) -> None:
            self.told.append(("recorded", change.id))

        def updated(self, change: Entry) -> None:
            self.told.append(("updated", change.id))

    store = Store()
    bench = Bench(Journal(Clock(), store=store, first_id=41))
    bench.netdev()
    nic, _ = bench.nic()
    bench.network.set_link("nic0", False, "qmp")
    nic.report.notified(False)
    nic.report.interrupted()
    nic.report.seen(False)
    assert store.told == [("recorded", 41), ("recorded", 42), ("recorded", 43), *[("updated", 43)] * 3]


def test_link_log_is_paged_and_bounded(bench: Bench) -> None:
    bench.netdev()
    bench.nic()
    for _ in range(5000):
        bench.network.set_link("nic0", False, "qmp")
        bench.network.set_link("nic0", True, "qmp")
    log = bench.network.journal.select("nic0")
    assert len(log) == 4096
    newest = bench.network.journal.select("nic0", limit=2)
    assert newest == log[-2:]
    assert bench.network.journal.select(after_id=log[0].id, limit=1) == [log[1]]
    assert bench.network.journal.select(limit=0) == []


def test_close_notifies_nics_and_closes_backends_first(bench: Bench) -> None:
    order: list[str] = []
    _netdev, backend = bench.netdev()
    _nic, device = bench.nic()
    backend.cleanup = lambda: order.append("backend")  # type: ignore[method-assign]  # watches the order
    device.cleanup = lambda: order.append("nic")  # type: ignore[method-assign]  # watches the order
    bench.network.close()
    assert device.told == [False]
    assert order == ["backend", "nic"]
    assert not list(bench.network.clients)


class AnyOrder(RuleBasedStateMachine):
    """Causes in any order: a NIC's link is up exactly when neither end has a hold, and counters match the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bench.netdev()
        self.nic, self.device = self.bench.nic()

    @rule(name=st.sampled_from(["nic0", "net0"]), up=st.booleans())
    def set_link(self, name: str, up: bool) -> None:
        if self.bench.network.find_all(name):
            self.bench.network.set_link(name, up, "qmp")

    @rule(kind=st.sampled_from([HoldKind.DISCONNECTED, HoldKind.UPLINK]), held=st.booleans())
    def backend(self, kind: HoldKind, held: bool) -> None:
        netdev = self.bench.network.find_netdev("net0")
        if netdev is not None and held:
            netdev.hold(kind, "net0", "lost")
        elif netdev is not None:
            netdev.release(kind, "net0", "found")

    @rule()
    def replace_netdev(self) -> None:
        if self.bench.network.find_netdev("net0") is None:
            self.bench.netdev()
        else:
            self.bench.network.delete_netdev("net0", "qmp")

    @invariant()
    def the_link_is_up_exactly_without_holds(self) -> None:
        holds = next(self.bench.network.query_links("nic0")).holds
        assert self.nic.link_up == (not holds)
        assert (self.nic.peer is None) == (HoldKind.NO_PEER in self.nic.holds)

    @invariant()
    def the_device_was_told_the_truth(self) -> None:
        if self.device.told:
            assert self.device.told[-1] == self.nic.link_up

    @invariant()
    def every_change_is_recorded_once(self) -> None:
        states = [change.link == "up" for change in self.bench.network.journal.select("nic0")]
        assert all(a != b for a, b in itertools.pairwise(states))
        assert states[-1] == self.nic.link_up
        assert len(states) - 1 == self.nic.carrier_up_changes + self.nic.carrier_down_changes


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30)
