"""Faults of a link's state in a simulated time: what holds the link, for how long, and what ends a fault."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.backend import BackendContext, netdev_add
from vnic.backend.options import CableOptions
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.clock import Clock
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import DampenedSettings, FaultShape, SlowUpSettings
from vnic.net.faults import MAX_FAULTS, Faults
from vnic.net.network import Network
from vnic.net.records import HoldKind, ShownBy

MAC = bytes.fromhex("525400123456")


class Bench:
    """A NIC on a netdev, and the times at which its link changed."""

    def __init__(self, at: float = 0.0) -> None:
        self.scheduler = FakeScheduler()
        self.scheduler.now = at
        self.network = Network(self.scheduler, Clock(lambda: round(self.scheduler.now * 1e9)))
        self.netdev = self.network.add_netdev("net0", "stream", Endpoint())
        self.nic = self.network.add_nic("nic0", "virtio-net", Endpoint(), mac=MAC, netdev_id="net0")
        self.faults = self.network.faults

    def changes(self) -> list[tuple[float, str, str]]:
        """When nic0 changed, by the journal, in seconds, and for what."""
        found = self.network.journal.select("nic0")[1:]
        return [(round(each.monotonic_us / 1e6, 3), each.link, each.cause.kind) for each in found]

    def flap(self, down_s: float, up_s: float) -> None:
        self.network.set_link("nic0", False, "test")
        self.scheduler.advance(down_s)
        self.network.set_link("nic0", True, "test")
        self.scheduler.advance(up_s)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def slow(seconds: float) -> SlowUpSettings:
    return SlowUpSettings(round(seconds * 1000))


# -- slow-up --------------------------------------------------------------------------------------------------------


def test_a_slow_link_comes_up_late(bench: Bench) -> None:
    bench.faults.start("nic0", slow(2), "test")
    assert bench.nic.link_up, "a link that is up is left alone"
    bench.flap(1, 10)
    assert bench.changes() == [(0.0, "down", "operator"), (3.0, "up", "slow-up")]
    [up] = bench.network.journal.select("nic0")[-1:]
    assert (up.cause.by, up.cause.text) == ("nic0-slow-up", "it came up 2 s late")


@pytest.mark.parametrize("held", ["nic0", "net0"])
def test_each_end_counts(bench: Bench, held: str) -> None:
    bench.faults.start("nic0", slow(2), "test")
    client: NetClient = bench.network.find_all(held)[0]
    client.hold(HoldKind.DISCONNECTED, "test", "gone")
    bench.scheduler.advance(1)
    client.release(HoldKind.DISCONNECTED, "test", "here")
    bench.scheduler.advance(1.999)
    assert not bench.nic.link_up
    bench.scheduler.advance(0.002)
    assert bench.nic.link_up


def test_a_hold_meanwhile_begins_the_time_anew(bench: Bench) -> None:
    bench.faults.start("nic0", slow(2), "test")
    bench.flap(1, 1.5)
    bench.flap(1, 10)
    assert bench.changes() == [(0.0, "down", "operator"), (5.5, "up", "slow-up")]


def test_a_link_that_is_down_already_comes_up_late(bench: Bench) -> None:
    bench.network.set_link("nic0", False, "test")
    bench.faults.start("net0", slow(2), "test")
    bench.network.set_link("nic0", True, "test")
    assert list(bench.netdev.holds) == [HoldKind.SLOW_UP]
    assert bench.netdev.holds[HoldKind.SLOW_UP].text == "it is coming up, which takes 2 s"
    bench.scheduler.advance(2)
    assert bench.nic.link_up


def test_two_slow_ends_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.faults.start("nic0", slow(2), "test")
    bench.faults.start("net0", slow(3), "test")
    bench.flap(1, 10)
    assert bench.changes() == [(0.0, "down", "operator"), (4.0, "up", "slow-up")]


def test_a_deleted_netdev_counts(bench: Bench) -> None:
    bench.faults.start("nic0", slow(2), "test")
    bench.network.delete_netdev("net0", "test")
    bench.scheduler.advance(5)
    bench.network.add_netdev("net0", "stream", Endpoint())
    bench.scheduler.advance(1.9)
    assert not bench.nic.link_up
    bench.scheduler.advance(0.2)
    assert bench.nic.link_up


# -- dampened -------------------------------------------------------------------------------------------------------


def test_many_flaps_hold_the_link_until_the_penalty_has_fallen(bench: Bench) -> None:
    """Three times down within a second: 3000, which falls below 1000 after log2(3) half-lives."""
    bench.faults.start("nic0", DampenedSettings(), "test")
    for _ in range(3):
        bench.flap(0.01, 0.01)
    assert not bench.nic.link_up
    [info] = bench.faults.query("nic0")
    assert (info.holds, info.downs) == (True, 3)
    assert info.penalty == pytest.approx(2990, abs=15)
    assert bench.nic.holds[HoldKind.DAMPENED].text.startswith(
        "it went down 3 times; held above a penalty of 2000"
    )
    bench.scheduler.advance(60)
    *_, last = bench.changes()
    assert last[1:] == ("up", "dampened")
    assert last[0] == pytest.approx(5 * 1.585, abs=0.1)


def test_few_flaps_do_not(bench: Bench) -> None:
    bench.faults.start("nic0", DampenedSettings(), "test")
    for _ in range(20):
        bench.flap(1, 5)
    assert len(bench.changes()) == 40
    assert bench.nic.link_up


def test_time_of_being_held_is_bounded(bench: Bench) -> None:
    bench.faults.start("nic0", DampenedSettings(half_life_ms=1000, max_ms=4000), "test")
    for _ in range(1000):
        bench.flap(0.001, 0.001)
    assert not bench.nic.link_up
    bench.scheduler.advance(3.9)
    assert not bench.nic.link_up
    bench.scheduler.advance(0.2)
    assert bench.nic.link_up


def test_flaps_while_it_is_held_add_to_the_penalty(bench: Bench) -> None:
    bench.faults.start("nic0", DampenedSettings(half_life_ms=1000), "test")
    for _ in range(3):
        bench.flap(0.01, 0)
    bench.scheduler.advance(1)
    before = next(iter(bench.faults.query())).left_ms
    bench.flap(0.01, 0)
    after = next(iter(bench.faults.query())).left_ms
    assert before is not None
    assert after is not None
    assert after > before


@pytest.mark.parametrize(
    ("given_", "desc"),
    [
        (DampenedSettings(reuse=3000), "Parameter 'reuse' expects at most 'suppress', 2000, not '3000'"),
        (
            DampenedSettings(max_ms=5000),
            "within 'max-ms', 5000, no penalty above 'suppress', 2000, falls to 'reuse', 1000: the link would never be"
            " held",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(bench: Bench, given_: DampenedSettings, desc: str) -> None:
    with pytest.raises(NetError) as refused:
        bench.faults.start("nic0", given_, "test")
    assert refused.value.desc == desc
    assert not list(bench.faults.query())


# -- the table ------------------------------------------------------------------------------------------------------


def test_clear_brings_the_link_up_at_once(bench: Bench) -> None:
    bench.faults.start("nic0", slow(100), "test")
    bench.flap(1, 1)
    assert bench.faults.clear("nic0", "someone", FaultShape.DAMPENED) is False
    assert bench.faults.clear("nic0", "someone")
    assert bench.nic.link_up
    [up] = bench.network.journal.select("nic0")[-1:]
    assert (up.cause.by, up.cause.text) == ("someone", "fault nic0-slow-up cleared")
    bench.scheduler.advance(1000)
    bench.flap(1, 0)
    assert bench.nic.link_up


def test_another_one_of_its_shape_replaces_it(bench: Bench) -> None:
    bench.faults.start("nic0", slow(100), "test")
    bench.faults.start("nic0", slow(1), "test")
    bench.faults.start("nic0", DampenedSettings(), "test")
    assert [each.shape for each in bench.faults.query()] == ["slow-up", "dampened"]
    bench.flap(1, 1)
    assert bench.nic.link_up


def test_it_ends_with_its_nic(bench: Bench) -> None:
    bench.faults.start("nic0", slow(1), "test")
    bench.faults.start("net0", slow(1), "test")
    bench.flap(1, 0)
    bench.network.delete_nic("nic0")
    assert [each.name for each in bench.faults.query()] == ["net0"]
    bench.network.delete_netdev("net0", "test")
    assert not list(bench.faults.query())
    bench.scheduler.advance(10)
    with pytest.raises(DeviceNotFound):
        bench.faults.start("nic0", slow(1), "test")


def test_number_is_bounded(bench: Bench) -> None:
    for index in range(MAX_FAULTS):
        bench.network.add_netdev(f"n{index}", "stream", Endpoint())
        bench.faults.start(f"n{index}", slow(1), "test")
    with pytest.raises(NetError, match=r"^there are 4096 faults already$"):
        bench.faults.start("nic0", slow(1), "test")
    bench.network.close()
    assert not list(bench.faults.query())


def test_journal_and_queries_tell_of_it(bench: Bench) -> None:
    events = record_events(bench.network)
    bench.faults.start("nic0", slow(0.2), "someone")
    bench.faults.clear("nic0", "someone else")
    told = [(name, data["name"], data["source"], data["by"], data["text"]) for name, data in events]
    text = "slow-up: comes up 0.2 s after nothing else holds it"
    assert told == [
        ("LINK_IMPAIRED", "nic0", "nic0-slow-up", "someone", text),
        ("LINK_IMPAIRED", "net0", "nic0-slow-up", "someone", text),
        ("LINK_IMPAIRED", "nic0", "nic0-slow-up", "someone else", "slow-up cleared"),
        ("LINK_IMPAIRED", "net0", "nic0-slow-up", "someone else", "slow-up cleared"),
    ]
    bench.faults.start("nic0", slow(0.2), "someone")
    for name in ("nic0", "net0"):
        [link] = bench.network.query_links(name)
        assert [(each.id, each.text) for each in link.impairments] == [
            ("nic0-slow-up", "comes up 0.2 s after nothing else holds it")
        ]


# -- cables ---------------------------------------------------------------------------------------------------------


class Cable:
    """Two NICs with their guests, joined by a cable."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler, Clock(lambda: round(self.scheduler.now * 1e9)))
        context = BackendContext(loop, self.network)
        self.nics: list[Nic] = []
        for name in ("a", "b"):
            netdev_add(context, CableOptions(id=f"{name}-end", cable="c"), "test")
        for number, name in enumerate(("a", "b")):
            mac = bytes([2, 0, 0, 0, 0, number])
            nic = self.network.add_nic(name, "virtio-net", Endpoint(), mac=mac, netdev_id=f"{name}-end")
            nic.report.guest_attached(ShownBy.DEVICE)
            nic.report.driver_ok(True)
            self.nics.append(nic)

    def up(self) -> list[bool]:
        return [nic.link_up for nic in self.nics]


@pytest.fixture
def cable() -> Iterator[Cable]:
    loop = asyncio.new_event_loop()
    made = Cable(loop)
    yield made
    made.network.close()
    loop.close()


def test_both_ends_of_a_cable_come_up_late_together(cable: Cable) -> None:
    assert cable.up() == [True, True]
    cable.network.faults.start("a", slow(2), "test")
    cable.network.set_link("b", False, "test")
    assert cable.up() == [False, False]
    cable.network.set_link("b", True, "test")
    cable.scheduler.advance(1.9)
    assert cable.up() == [False, False]
    netdev = cable.nics[1].peer
    assert netdev is not None
    assert netdev.holds[HoldKind.FAR_END].root is HoldKind.SLOW_UP
    cable.scheduler.advance(0.2)
    assert cable.up() == [True, True]


@pytest.mark.parametrize("pulled", ["a", "b", "a-end"])
def test_slow_ends_of_one_cable_do_not_wait_for_each_other(cable: Cable, pulled: str) -> None:
    cable.network.faults.start("a", slow(2), "test")
    cable.network.faults.start("b", slow(3), "test")
    cable.network.set_link(pulled, False, "test")
    cable.network.set_link(pulled, True, "test")
    cable.scheduler.advance(2.9)
    assert cable.up() == [False, False]
    cable.scheduler.advance(0.2)
    assert cable.up() == [True, True]


def test_dampening_holds_both_ends(cable: Cable) -> None:
    cable.network.faults.start("a", DampenedSettings(half_life_ms=1000), "test")
    for _ in range(3):
        cable.network.set_link("b", False, "test")
        cable.network.set_link("b", True, "test")
    assert cable.up() == [False, False]
    cable.scheduler.advance(10)
    assert cable.up() == [True, True]


# -- state ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), cut=st.integers(0, 30))
def test_restored_faults_go_on_as_the_saved_ones(seed: int, cut: int) -> None:
    """Random holds, and a restart anywhere among them: the link changes at the same times."""
    whole, parts = Bench(), Bench()
    chance = random.Random(seed)
    for bench in (whole, parts):
        bench.faults.start("nic0", slow(0.7), "test")
        bench.faults.start("nic0", DampenedSettings(half_life_ms=400, max_ms=2000), "test")
    seen: list[tuple[float, str, str]] = []
    for step in range(30):
        if step == cut:
            seen += parts.changes()
            fresh = Bench(parts.scheduler.now)
            fresh.nic.restore(parts.nic.save())
            fresh.netdev.restore(parts.netdev.save())
            fresh.faults.restore(parts.faults.save())
            assert fresh.faults.save() == parts.faults.save()
            parts = fresh
        up, wait = chance.random() < 0.6, chance.uniform(0, 0.5)
        for bench in (whole, parts):
            bench.network.set_link("nic0", up, "test")
            bench.scheduler.advance(wait)
        assert parts.nic.link_up is whole.nic.link_up
    for bench in (whole, parts):
        bench.network.set_link("nic0", True, "test")
        bench.scheduler.advance(100)
        assert bench.nic.link_up
    found = [*seen, *parts.changes()]
    assert [each[1:] for each in found] == [each[1:] for each in whole.changes()]
    assert [each[0] for each in found] == pytest.approx([each[0] for each in whole.changes()], abs=0.002)
    assert isinstance(parts.faults, Faults)
