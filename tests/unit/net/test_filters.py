"""Filters on a netdev: where a new one goes, what each sees and in what order, and what becomes of what they keep."""

from __future__ import annotations

import dataclasses

import pytest
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint
from vnic.net.errors import NetError
from vnic.net.filter_set import add_filter, find_filter
from vnic.net.filters import (
    Direction,
    Filter,
    Insert,
    WireEnd,
)
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import HoldKind

MAC = bytes.fromhex("525400123456")
TO_NETDEV, TO_GUEST = b"from the guest", b"from the netdev"


@dataclasses.dataclass(frozen=True)
class Options:
    id: str
    netdev: str = "net0"
    queue: Direction = Direction.ALL
    status: str = "on"
    position: str = "tail"
    insert: Insert = Insert.BEHIND


class Port(Endpoint):
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.got.append(bytes(frame))
        return True


class Taps(Endpoint):
    """A netdev whose rings another process runs."""

    passes_frames = False


class Probe(Filter):
    """Writes down what it sees; takes it away while `takes`."""

    type = "filter-probe"

    def __init__(self, options: Options, seen: list[tuple[str, bytes]], takes: bool = False) -> None:
        super().__init__(options)
        self.seen = seen
        self.takes = takes
        self.fails = False
        self.calls: list[str] = []
        self.properties: dict[str, object] = {}

    def setup(self) -> None:
        self.calls.append("setup")
        if self.fails:
            raise NetError("no luck")

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        self.seen.append((self.id, bytes(frame)))
        return self.takes

    def cleanup(self) -> None:
        self.calls.append("cleanup")

    def own_properties(self) -> dict[str, object]:
        return self.properties


class Rig:
    """nic0 on net0, a lone net1, and a log of what the filters saw."""

    def __init__(self) -> None:
        self.network = Network(FakeScheduler())
        self.host, self.guest = Port(), Port()
        self.netdev = self.network.add_netdev("net0", "stream", self.host)
        self.nic = self.network.add_nic("nic0", "virtio-net", self.guest, mac=MAC, netdev_id="net0")
        self.network.add_netdev("net1", "stream", Port())
        self.seen: list[tuple[str, bytes]] = []

    def add(self, options: Options, takes: bool = False) -> Probe:
        probe = Probe(options, self.seen, takes)
        add_filter(self.network, probe)
        return probe

    def order(self) -> list[str]:
        return [each.id for each in self.netdev.filters]

    def ids(self) -> list[str]:
        """The filters that saw a frame, in order; clears the log."""
        ids = [name for name, _ in self.seen]
        self.seen.clear()
        return ids


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_head_of_filter_list_is_nearest_to_netdev(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.add(Options(name))
    rig.netdev.send(0, TO_GUEST)
    assert rig.ids() == ["a", "b", "c"]
    rig.nic.send(0, TO_NETDEV)
    assert rig.ids() == ["c", "b", "a"]
    assert (rig.guest.got, rig.host.got) == ([TO_GUEST], [TO_NETDEV])


@pytest.mark.parametrize(
    ("queue", "status", "seen"),
    [
        (Direction.ALL, "on", [TO_NETDEV, TO_GUEST]),
        (Direction.RX, "on", [TO_NETDEV]),
        (Direction.TX, "on", [TO_GUEST]),
        (Direction.ALL, "off", []),
    ],
)
def test_queue_option_is_from_netdevs_view(
    rig: Rig, queue: Direction, status: str, seen: list[bytes]
) -> None:
    rig.add(Options("f0", queue=queue, status=status))
    rig.nic.send(0, TO_NETDEV)
    rig.netdev.send(0, TO_GUEST)
    assert [frame for _, frame in rig.seen] == seen
    assert (rig.guest.got, rig.host.got) == ([TO_GUEST], [TO_NETDEV])


def test_position_and_insert_order_filters_as_qemu(rig: Rig) -> None:
    """The order was seen of QEMU 11.1.3 for the same requests."""
    rig.add(Options("f0"))
    rig.add(Options("f1", position="id=f0", insert=Insert.BEFORE))
    rig.add(Options("f2", position="id=f0", insert=Insert.BEHIND))
    rig.add(Options("f3", position="head", insert=Insert.BEHIND))
    rig.add(Options("net0", insert=Insert.BEFORE))
    assert rig.order() == ["f3", "f1", "f0", "f2", "net0"]


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        (Options("1x"), "Parameter 'id' expects an identifier"),
        (Options("f1", status="maybe"), "Invalid value for netfilter status, should be 'on' or 'off'"),
        (Options("f0"), "attempt to add duplicate property 'f0' to object (type 'container')"),
        (
            Options("f0", netdev="net1"),
            "attempt to add duplicate property 'f0' to object (type 'container')",
        ),
        (Options("f1", netdev="nope"), "Parameter 'netdev' expects a network backend id"),
        (Options("f1", netdev="nic0"), "Parameter 'netdev' expects a network backend id"),
        (Options("f1", netdev="many"), "multiqueue is not supported"),
        (Options("f1", netdev="vhost"), "Vhost is not supported"),
        (Options("f1", position="middle"), "Parameter 'position' expects 'head', 'tail' or 'id=<id>'"),
        (Options("f1", position="id=nope"), "filter 'nope' not found"),
        (Options("f1", position="id="), "filter '' not found"),
        (Options("f1", netdev="net1", position="id=f0"), "filter 'f0' belongs to a different netdev"),
    ],
)
def test_refused_filter_gets_qemus_text(rig: Rig, options: Options, desc: str) -> None:
    rig.network.add_netdev("many", "tap", Port(), queues=2)
    rig.network.add_netdev("vhost", "vhost-user", Taps())
    rig.add(Options("f0"))
    with pytest.raises(NetError) as refused:
        rig.add(options)
    assert refused.value.desc == desc
    assert rig.order() == ["f0"]


def test_failed_setup_leaves_no_filter(rig: Rig) -> None:
    probe = Probe(Options("f0"), rig.seen)
    probe.fails = True
    with pytest.raises(NetError, match="no luck"):
        add_filter(rig.network, probe)
    assert probe.calls == ["setup", "cleanup"]
    assert find_filter(rig.network, "f0") is None
    rig.add(Options("f0"))


@pytest.mark.parametrize("fatal", ["remove", "netdev_del", "shutdown"])
def test_filter_cleanup_runs_once(rig: Rig, fatal: str) -> None:
    first, second = rig.add(Options("f0")), rig.add(Options("f1"))
    if fatal == "remove":
        first.remove()
        assert rig.order() == ["f1"]
        second.remove()
    elif fatal == "netdev_del":
        rig.network.delete_netdev("net0", "test")
    else:
        rig.network.close()
    assert first.calls == second.calls == ["setup", "cleanup"]
    assert find_filter(rig.network, "f0") is None
    assert rig.order() == []


def test_frame_taken_by_filter_is_not_seen_by_later_ones(rig: Rig) -> None:
    rig.add(Options("a"))
    rig.add(Options("b"), takes=True)
    rig.add(Options("c"))
    assert rig.netdev.send(0, TO_GUEST), "to the sender it is sent"
    assert rig.ids() == ["a", "b"]
    assert rig.nic.send(0, TO_NETDEV)
    assert rig.ids() == ["c", "b"]
    assert (rig.guest.got, rig.host.got) == ([], [])


def test_passed_on_frame_is_seen_only_by_later_filters(rig: Rig) -> None:
    rig.add(Options("a"))
    keeper = rig.add(Options("b"), takes=True)
    rig.add(Options("c"))
    keeper.pass_on(rig.netdev, 0, TO_GUEST)
    assert rig.ids() == ["c"]
    keeper.pass_on(rig.nic, 0, TO_NETDEV)
    assert rig.ids() == ["a"]
    assert (rig.guest.got, rig.host.got) == ([TO_GUEST], [TO_NETDEV])


def test_pass_on_drops_frame_without_wire(rig: Rig) -> None:
    keeper = rig.add(Options("b"))
    rig.netdev.hold(HoldKind.OPERATOR, "test", "pulled")
    keeper.pass_on(rig.netdev, 0, TO_GUEST)
    keeper.pass_on(rig.nic, 0, TO_NETDEV)
    rig.netdev.release(HoldKind.OPERATOR, "test", "back")
    rig.network.delete_nic("nic0")
    keeper.pass_on(rig.netdev, 0, TO_GUEST)
    keeper.pass_on(rig.nic, 0, TO_NETDEV)
    assert (rig.guest.got, rig.host.got) == ([], [])


def test_down_sender_drops_before_filters_and_down_receiver_after(rig: Rig) -> None:
    rig.add(Options("a"))
    rig.netdev.hold(HoldKind.OPERATOR, "test", "pulled")
    rig.netdev.send(0, TO_GUEST)
    assert rig.ids() == []
    rig.nic.send(0, TO_NETDEV)
    assert rig.ids() == ["a"]
    assert rig.host.got == []


def test_frame_between_netdevs_passes_filters_of_both(rig: Rig) -> None:
    """As of a hub's port and what is plugged into it; QEMU forgets the far end's once the near end kept a frame."""
    far = Port()
    one = rig.network.add_netdev("one", "hubport", Port())
    two = rig.network.add_netdev("two", "stream", far)
    rig.network.connect(one, two)
    keeper = rig.add(Options("a", netdev="one"))
    rig.add(Options("b", netdev="one"))
    rig.add(Options("c", netdev="two"))
    rig.add(Options("d", netdev="two"))
    one.send(0, b"1")
    assert rig.ids() == ["a", "b", "d", "c"]
    keeper.pass_on(one, 0, b"2")
    assert rig.ids() == ["b", "d", "c"]
    assert far.got == [b"1", b"2"]


def test_info_network_lists_filters_as_qemu(rig: Rig) -> None:
    rig.add(Options("f0"))
    options = Options("f1", position="id=f0", insert=Insert.BEFORE, queue=Direction.RX, status="off")
    rig.add(options).properties = {"flag": True, "indev": None, "size": 7}
    assert rig.network.info_network() == (
        "nic0: index=0,type=nic,\n"
        " \\ net0: index=0,type=stream,\n"
        "filters:\n"
        "  - f1: type=filter-probe,flag=true,indev=,size=7,"
        "position=id=f0,status=off,insert=before,netdev=net0,queue=rx\n"
        "  - f0: type=filter-probe,position=tail,status=on,insert=behind,netdev=net0,queue=all\n"
        "net1: index=0,type=stream,\n"
    )
