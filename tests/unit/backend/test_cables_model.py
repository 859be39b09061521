"""A thousand cables flapped at random against a model: holds, counters, journal and what the guests were told agree."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

from tests.fakes.scheduler import FakeScheduler
from tests.unit.backend.helpers import Guest

from vnic.backend import BackendContext, netdev_add
from vnic.backend.options import CableOptions
from vnic.net.client import NetClient, Nic
from vnic.net.clock import Clock
from vnic.net.flaps import Pattern
from vnic.net.journal import Journal
from vnic.net.network import Network
from vnic.net.records import HoldKind, LinkChange, ShownBy

CABLES = 1000
STEPS = 4000
SIDES = ("a", "b")


class Side:
    """What the model knows of one end."""

    def __init__(self) -> None:
        self.netdev = self.nic = False
        """The operator's holds."""
        self.attached = self.driver = False

    @property
    def own(self) -> bool:
        """Whether it is down by itself."""
        return self.netdev or self.nic

    @property
    def shown(self) -> bool:
        """Whether the other end is held for it."""
        return self.own or not (self.attached and self.driver)


@dataclass
class Flap:
    pattern: Pattern
    due: float
    """When its step ends."""
    step: int = 0


class Model:
    """Cables in a network with a simulated clock, and beside it what should be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scheduler = FakeScheduler()
        clock = Clock(lambda: round(self.scheduler.now * 1e9), lambda: round(self.scheduler.now * 1e9))
        self.network = Network(self.scheduler, clock, Journal(clock, 1 << 20))
        self.context = BackendContext(cast(Any, self.scheduler), self.network)
        self.sides: dict[str, Side] = {}
        self.changes: defaultdict[str, int] = defaultdict(int)
        self.was_up: dict[str, bool] = {}
        self.flaps: dict[str, Flap] = {}
        """By the end whose NIC flaps."""
        for cable in range(CABLES):
            for side in SIDES:
                name = f"{side}{cable}"
                assert netdev_add(self.context, CableOptions(id=name, cable=f"c{cable}")) is None
                self.network.add_nic(f"nic-{name}", "virtio-net", Guest(), mac=bytes(6), netdev_id=name)
                self.sides[name] = Side()
        for name in self.sides:
            self.was_up[f"nic-{name}"] = self.nic_up(name)

    def other(self, name: str) -> Side:
        return self.sides[("b" if name[0] == "a" else "a") + name[1:]]

    def nic_up(self, name: str) -> bool:
        return not self.sides[name].own and not self.other(name).shown

    def nic(self, name: str) -> Nic:
        found = self.network.find_nic(f"nic-{name}")
        assert found is not None
        return found

    def note(self, changed: str) -> None:
        """Count the changes that one at this end made to the two NICs of its cable."""
        for side in SIDES:
            name = side + changed[1:]
            key, up = f"nic-{name}", self.nic_up(name)
            if up is not self.was_up[key]:
                self.was_up[key] = up
                self.changes[key] += 1

    def step(self) -> None:
        """Do something at one end, at random."""
        name = self.random.choice(list(self.sides))
        side, nic = self.sides[name], self.nic(name)
        what = self.random.randrange(8)
        if what == 0:
            side.nic = self.random.random() < 0.5
            self.flaps.pop(name, None)
            self.network.set_link(nic.name, not side.nic, "test")
        elif what == 1:
            side.netdev = side.nic = self.random.random() < 0.5
            self.network.set_link(name, not side.netdev, "test")
        elif what in (2, 3):
            side.attached, side.driver = True, False
            nic.report.guest_attached(ShownBy.DEVICE)
            self.note(name)
            side.driver = True
            nic.report.driver_ok(True)
        elif what == 4:
            side.attached = side.driver = False
            nic.report.guest_detached()
        elif what == 5 and side.attached:
            side.driver = not side.driver
            nic.report.driver_ok(side.driver)
        elif what == 6:
            self.start_flap(name, side)
        self.note(name)
        self.pass_time(self.random.random() * 0.01)

    def start_flap(self, name: str, side: Side) -> None:
        """Down and up a few times, beside those of other NICs."""
        count, seed = self.random.randrange(1, 6), self.random.randrange(1000)
        pattern = Pattern(down_ms=50, up_ms=70, count=count, jitter=30, seed=seed)
        self.network.flaps.start(f"nic-{name}", pattern, "test")
        self.flaps[name] = Flap(pattern, self.scheduler.now + pattern.seconds(0))
        side.nic = True

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the network, and in the model."""
        self.scheduler.advance(seconds)
        due = [(flap.due, name) for name, flap in self.flaps.items() if flap.due <= self.scheduler.now]
        heapq.heapify(due)
        while due:
            _, name = heapq.heappop(due)
            flap, side = self.flaps[name], self.sides[name]
            flap.step += 1
            flap.due += flap.pattern.seconds(flap.step)
            side.nic = flap.step % 2 == 0
            self.note(name)
            assert flap.pattern.count is not None
            if flap.step == 2 * flap.pattern.count - 1:
                del self.flaps[name]
            elif flap.due <= self.scheduler.now:
                heapq.heappush(due, (flap.due, name))

    def check(self) -> None:
        """Compare everything."""
        journal: defaultdict[str, list[LinkChange]] = defaultdict(list)
        for change in self.network.journal.select():
            journal[change.name].append(change)
        for name, side in self.sides.items():
            nic, netdev = self.nic(name), self.network.find_netdev(name)
            assert netdev is not None
            operator, far = HoldKind.OPERATOR, HoldKind.FAR_END
            assert set(nic.holds) == ({operator} if side.nic else set())
            expected = ({operator} if side.netdev else set()) | ({far} if self.other(name).shown else set())
            assert set(netdev.holds) == expected, name
            assert nic.link_up is self.nic_up(name)
            told = cast(Guest, nic.endpoint).link
            assert not told or told[-1] is nic.link_up
            changes = journal[nic.name][1:]
            assert len(changes) == self.changes[nic.name], name
            self.check_client(nic, changes)
            self.check_client(netdev, journal[name][1:])
        assert all(
            change.caused_by is None or change.caused_by < change.id
            for each in journal.values()
            for change in each
        )

    def check_client(self, client: NetClient, changes: list[LinkChange]) -> None:
        words = [change.link for change in changes]
        assert client.carrier_up_changes == words.count("up")
        assert client.carrier_down_changes == words.count("down")
        assert all(before != after for before, after in itertools.pairwise(words))
        if words:
            assert (words[-1] == "up") is client.link_up


def test_thousand_cables_agree_with_model() -> None:
    model = Model(seed=1)
    for step in range(STEPS):
        model.step()
        if step % (STEPS // 4) == 0:
            model.check()
    model.pass_time(10)
    model.check()
    assert not model.network.flaps.query()
    for name in model.sides:
        model.network.set_link(name, True, "test")
        model.sides[name].netdev = model.sides[name].nic = False
        nic = model.nic(name)
        nic.report.guest_attached(ShownBy.DEVICE)
        nic.report.driver_ok(True)
    assert all(nic.link_up for nic in model.network.nics)
    assert not any(client.holds for client in model.network.clients)
    model.network.close()
