"""Which path the packets of a wire take, and why: the choice, without any program."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint, NetClient
from vnic.net.filter_set import add_filter
from vnic.net.filters import Direction, Filter, Insert
from vnic.net.lending import Inject, Lender, Lent, LentEnd, LentKind, ResidentEnd
from vnic.net.network import Network
from vnic.net.records import HoldKind
from vnic.net.wire import ALONE, MOVING, PathInfo, Segment


class FakeLender(Lender):
    kind = LentKind.STREAM

    def can_lend(self, ready: object) -> bool:
        return True

    def lend(self, inject: Inject) -> Lent:
        return Lent(())

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        """Nothing is kept."""


class End(Endpoint):
    """An end that vnic-wire can carry, unless `refusal` says why not."""

    def __init__(self) -> None:
        self.refusal = ""
        self.is_idle = False
        self.lender = FakeLender()
        self.word = "wire"

    def idle(self) -> bool:
        return self.is_idle

    def wire_end(self) -> LentEnd | str:
        return self.refusal or self.lender

    def datapath_word(self) -> str:
        return "none" if self.is_idle else self.word


class Port(End):
    """A hub's port."""

    def __init__(self, hub: list[NetClient]) -> None:
        super().__init__()
        self.hub = hub

    def joined(self) -> Sequence[NetClient]:
        return [each for each in self.hub if each is not self.client]


class Engine:
    """Carries all that it is given, if `ready`."""

    active = True

    def __init__(self) -> None:
        self.ready = True
        self.carried: list[list[str]] = []
        self.released: list[str] = []
        self.unavailable = ""

    def refusal(self, client: NetClient, end: LentEnd) -> str:
        return self.unavailable

    def carry(self, segment: Segment) -> bool:
        self.carried.append(sorted(client.name for client, _ in segment.ends))
        return self.ready

    def keep(self, client: NetClient, end: ResidentEnd) -> None:
        """No netdev of these tests is one."""

    def drop(self, client: NetClient) -> None:
        """As `keep`."""

    def release(self, client: NetClient) -> None:
        self.released.append(client.name)


class PlainFilter(Filter):
    type = "filter-plain"


class Options:
    """The options of a filter."""

    def __init__(self, netdev: str, status: str = "on") -> None:
        self.id, self.netdev, self.status = f"f-{netdev}", netdev, status
        self.queue, self.position, self.insert = Direction.ALL, "tail", Insert.BEHIND


class Rig:
    def __init__(self, engine: Engine | None = None) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.engine = engine or Engine()
        if engine is None or engine.active:
            self.network.wires.use(self.engine)
        self.hub: list[NetClient] = []

    def pair(self, name: str) -> tuple[NetClient, NetClient]:
        netdev = self.network.add_netdev(f"{name}-net", "stream", End())
        nic = self.network.add_nic(name, "virtio-net", End(), mac=bytes(6), netdev_id=netdev.name)
        return nic, netdev

    def on_hub(self, name: str) -> NetClient:
        port = self.network.add_netdev(f"{name}-port", "hubport", Port(self.hub))
        self.hub.append(port)
        return self.network.add_nic(name, "virtio-net", End(), mac=bytes(6), netdev_id=port.name)

    def settle(self) -> None:
        self.scheduler.run_soon()
        self.engine.released.clear()

    def path(self, client: NetClient) -> PathInfo:
        return self.network.wires.path(client)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def end(client: NetClient) -> End:
    assert isinstance(client.endpoint, End)
    return client.endpoint


def test_a_pair_is_carried(rig: Rig) -> None:
    nic, netdev = rig.pair("nic0")
    rig.settle()
    assert rig.engine.carried == [["nic0", "nic0-net"]]
    assert rig.path(nic) == rig.path(netdev) == PathInfo("wire")


def test_a_link_that_is_down_has_no_path_and_is_released(rig: Rig) -> None:
    nic, netdev = rig.pair("nic0")
    rig.settle()
    rig.network.set_link("nic0", False, "test")
    assert rig.path(nic) == rig.path(netdev) == PathInfo("none")
    rig.scheduler.run_soon()
    assert set(rig.engine.released) == {"nic0", "nic0-net"}
    rig.network.set_link("nic0", True, "test")
    rig.settle()
    assert rig.path(nic) == PathInfo("wire")


def test_an_end_that_cannot_be_carried_says_why(rig: Rig) -> None:
    nic, netdev = rig.pair("nic0")
    end(nic).refusal = "e1000 rings are processed in Python"
    end(nic).word = "python"
    nic.path_changed()
    rig.scheduler.run_soon()
    assert rig.path(netdev) == PathInfo("python", "e1000 rings are processed in Python")
    assert set(rig.engine.released) == {"nic0", "nic0-net"}


def test_the_end_of_a_hub_that_cannot_be_carried_is_named(rig: Rig) -> None:
    first, second = rig.on_hub("nic0"), rig.on_hub("nic1")
    end(second).refusal = "e1000 rings are processed in Python"
    rig.settle()
    assert rig.path(first) == PathInfo("python", "nic1: e1000 rings are processed in Python")


def test_a_reason_that_all_have_names_no_end(rig: Rig) -> None:
    rig.engine.unavailable = "vnic-wire was restarted too often"
    first, _ = rig.on_hub("nic0"), rig.on_hub("nic1")
    rig.settle()
    assert rig.path(first) == PathInfo("python", "vnic-wire was restarted too often")


def test_a_hub_is_one_segment(rig: Rig) -> None:
    nics = [rig.on_hub(f"nic{number}") for number in range(3)]
    rig.settle()
    assert rig.engine.carried[-1] == ["nic0", "nic1", "nic2"]
    rig.network.set_link("nic1", False, "test")
    rig.scheduler.run_soon()
    assert rig.engine.carried[-1] == ["nic0", "nic2"]
    assert "nic1" in rig.engine.released
    assert [rig.path(nic).path for nic in nics] == ["wire", "none", "wire"]


def test_a_nic_without_a_driver_is_left_out(rig: Rig) -> None:
    nics = [rig.on_hub(f"nic{number}") for number in range(3)]
    end(nics[0]).is_idle = True
    nics[0].path_changed()
    rig.settle()
    assert rig.engine.carried[-1] == ["nic1", "nic2"]
    end(nics[1]).is_idle = True
    nics[1].path_changed()
    rig.settle()
    assert rig.path(nics[2]) == PathInfo("python", ALONE)


def test_a_filter_keeps_its_wire_here_while_it_is_on(rig: Rig) -> None:
    nic, netdev = rig.pair("nic0")
    each = PlainFilter(Options("nic0-net"))
    add_filter(rig.network, each)
    rig.settle()
    assert rig.path(nic) == PathInfo("python", "filter-plain f-nic0-net sees every frame")
    each.set_status("off")
    rig.settle()
    assert rig.path(nic) == PathInfo("wire")
    each.set_status("on")
    rig.settle()
    each.remove()
    rig.settle()
    assert rig.path(netdev) == PathInfo("wire")


def test_an_engine_that_is_not_ready_is_asked_again(rig: Rig) -> None:
    rig.engine.ready = False
    nic, _ = rig.pair("nic0")
    rig.settle()
    assert rig.path(nic) == PathInfo("python", MOVING)
    rig.engine.ready = True
    nic.drained()
    rig.settle()
    assert rig.path(nic) == PathInfo("wire")


def test_a_deleted_netdev_is_released_before_it_closes(rig: Rig) -> None:
    nic, netdev = rig.pair("nic0")
    rig.settle()
    rig.network.delete_netdev("nic0-net", "test")
    assert rig.engine.released[0] == "nic0-net"
    assert HoldKind.NO_PEER in nic.holds
    assert rig.path(nic) == rig.path(netdev) == PathInfo("none")


def test_a_large_hub_stays_here(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnic.net.wire.MAX_MEMBERS", 8)
    nics = [rig.on_hub(f"nic{number}") for number in range(6)]
    rig.settle()
    assert rig.path(nics[0]) == PathInfo("python", "more than 8 NICs and netdevs are joined here")


def test_many_changes_are_spread_over_turns(rig: Rig) -> None:
    nics = [rig.pair(f"nic{number}")[0] for number in range(300)]
    rig.network.wires.settle(128)
    assert len(rig.engine.carried) <= 128
    rig.settle()
    assert {rig.path(nic).path for nic in nics} == {"wire"}


def test_without_an_engine_no_turn_is_used() -> None:
    engine = Engine()
    engine.active = False
    rig = Rig(engine)
    nic, _ = rig.pair("nic0")
    assert rig.path(nic) == PathInfo("python", "vnic-wire is not used here")
    assert not rig.engine.carried
