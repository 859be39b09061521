"""Flaps: schedules in a simulated time, what ends them, and their state."""

from __future__ import annotations

import itertools

import pytest
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint
from vnic.net.clock import Clock
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.flaps import MAX_FLAPS, Pattern
from vnic.net.network import Network

MAC = bytes.fromhex("525400123456")


def pattern(down_ms: int = 200, up_ms: int = 2000, count: int | None = None, jitter: int = 0) -> Pattern:
    return Pattern(down_ms=down_ms, up_ms=up_ms, count=count, jitter=jitter, seed=7)


class Bench:
    """A NIC on a netdev, and the times at which its link changed."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler, Clock(self._now_ns, itertools.count(1).__next__))
        self.network.add_netdev("net0", "stream", Endpoint())
        self.nic = self.network.add_nic("nic0", "virtio-net", Endpoint(), mac=MAC, netdev_id="net0")
        self.events = record_events(self.network)
        self.flaps = self.network.flaps

    def _now_ns(self) -> int:
        return round(self.scheduler.now * 1e9)

    def changes(self) -> list[tuple[float, str]]:
        """When nic0 changed, by the journal, in seconds."""
        return [(each.monotonic_us / 1e6, each.link) for each in self.network.journal.select("nic0")[1:]]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_link_goes_down_and_up_and_is_up_at_the_end(bench: Bench) -> None:
    assert bench.flaps.start("nic0", pattern(count=2), "QMP client") == "flap-1"
    bench.scheduler.advance(100)
    assert bench.changes() == [(0.0, "down"), (0.2, "up"), (2.2, "down"), (2.4, "up")]
    causes = [each.cause for each in bench.network.journal.select("nic0")[1:]]
    assert {(cause.kind, cause.by) for cause in causes} == {("operator", "flap-1")}
    texts = ["flap-1: down, 1 of 2", "flap-1: up, 1 of 2", "flap-1: down, 2 of 2", "flap-1: up, 2 of 2"]
    assert [cause.text for cause in causes] == texts
    assert not bench.flaps.query()
    assert not bench.nic.holds


def test_down_for_a_time(bench: Bench) -> None:
    bench.flaps.start("nic0", pattern(5000, count=1), "QMP client")
    assert not bench.nic.link_up
    bench.scheduler.advance(4.999)
    assert not bench.nic.link_up
    bench.scheduler.advance(0.002)
    assert bench.changes() == [(0.0, "down"), (5.0, "up")]


def test_netdev_takes_both_ends_down(bench: Bench) -> None:
    bench.flaps.start("net0", pattern(count=1), "test")
    assert bench.nic.holds
    assert bench.nic.peer is not None
    assert bench.nic.peer.holds
    bench.scheduler.advance(1)
    assert not bench.nic.holds
    assert not bench.nic.peer.holds


def test_stop_leaves_link_up(bench: Bench) -> None:
    flap_id = bench.flaps.start("nic0", pattern(), "test")
    bench.scheduler.advance(0.1)
    bench.flaps.stop(flap_id, "someone")
    assert bench.nic.link_up
    [change] = bench.network.journal.select("nic0")[-1:]
    assert (change.cause.by, change.cause.text) == ("someone", "flap-1 was stopped")
    bench.scheduler.advance(100)
    assert len(bench.changes()) == 2
    with pytest.raises(NetError, match=r"^flap 'flap-1' not found$"):
        bench.flaps.stop(flap_id, "someone")


@pytest.mark.parametrize("up", [True, False])
def test_set_link_ends_flap(bench: Bench, up: bool) -> None:
    bench.flaps.start("nic0", pattern(), "test")
    bench.network.set_link("nic0", up, "operator")
    assert not bench.flaps.query()
    bench.scheduler.advance(100)
    assert bench.nic.link_up is up


def test_newer_flap_replaces_older(bench: Bench) -> None:
    bench.flaps.start("nic0", pattern(1000, count=1), "test")
    bench.scheduler.advance(0.9)
    assert bench.flaps.start("nic0", pattern(1000, count=1), "test") == "flap-2"
    bench.scheduler.advance(100)
    assert bench.changes() == [(0.0, "down"), (1.9, "up")]


def test_deleted_nic_ends_flap(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bench.flaps.start("nic0", pattern(), "test")
    bench.network.delete_nic("nic0")
    bench.scheduler.advance(100)
    assert caplog.messages[-1] == "nic0: flap-1 ended: there is no NIC or netdev of that name any more"
    assert not bench.flaps.query()
    with pytest.raises(DeviceNotFound):
        bench.flaps.start("nic0", pattern(), "test")


def test_jitter_is_bounded_and_repeats_with_its_seed() -> None:
    def times() -> list[float]:
        bench = Bench()
        bench.flaps.start("nic0", pattern(100, 100, count=50, jitter=20), "test")
        bench.scheduler.advance(100)
        return [time for time, _ in bench.changes()]

    first = times()
    assert first == times()
    steps = [after - before for before, after in itertools.pairwise(first)]
    assert len(steps) == 99
    assert all(0.0799 < step < 0.1201 for step in steps)
    assert max(steps) - min(steps) > 0.02


def test_late_loop_does_not_make_steps_shorter(bench: Bench) -> None:
    bench.flaps.start("nic0", pattern(100, 100), "test")
    bench.scheduler.now += 10  # the loop was busy
    bench.scheduler.advance(0.45)
    steps = [after - before for (before, _), (after, _) in itertools.pairwise(bench.changes())]
    assert steps[0] == pytest.approx(10)
    assert steps[1:] == [pytest.approx(0.1)] * 4


def test_query(bench: Bench) -> None:
    bench.flaps.start("nic0", pattern(jitter=0, count=3), "QMP client")
    bench.scheduler.advance(2.3)
    [info] = bench.flaps.query()
    assert (info.id, info.name, info.by) == ("flap-1", "nic0", "QMP client")
    assert (info.downs, info.count, info.remaining_ms) == (2, 3, 100)


def test_number_is_bounded(bench: Bench) -> None:
    for index in range(MAX_FLAPS):
        bench.network.add_netdev(f"n{index}", "stream", Endpoint())
        bench.flaps.start(f"n{index}", pattern(), "test")
    with pytest.raises(NetError, match=r"^there are 4096 flaps already$"):
        bench.flaps.start("nic0", pattern(), "test")
    assert bench.flaps.start("n0", pattern(), "test")
    bench.network.close()
    assert not bench.flaps.query()


def test_restored_flap_goes_on_with_the_rest_of_its_step() -> None:
    before, after = Bench(), Bench()
    before.flaps.start("nic0", pattern(count=2, jitter=50), "test")
    before.scheduler.advance(0.05)
    record = before.flaps.save()
    assert before.nic.peer is not None
    after.scheduler.now = 1000.05
    after.nic.restore(before.nic.save())
    after.flaps.restore(record)
    for bench in (before, after):
        bench.scheduler.advance(100)
    expected, gone_on = before.changes()[1:], after.changes()
    assert [link for _, link in gone_on] == [link for _, link in expected]
    assert [time for time, _ in gone_on] == pytest.approx([time + 1000 for time, _ in expected])
    assert after.flaps.start("nic0", pattern(), "test") == "flap-2"
