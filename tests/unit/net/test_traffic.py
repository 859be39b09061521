"""The counters of frames and bytes at both ends of a wire, as the metrics show them."""

from __future__ import annotations

from tests.unit.net.test_delivery import Port, wire

from vnic.dataplane.wire.messages import Reply
from vnic.dataplane.wire.ports import count_traffic
from vnic.dataplane.wire.replies import PortStats, Stats
from vnic.net.client import NetClient
from vnic.net.queue import QUEUE_LIMIT
from vnic.net.records import HoldKind
from vnic.net.traffic import Frames


def python(client: NetClient) -> Frames:
    return client.traffic.python(None if client.peer is None else client.peer.traffic)


def test_frames_count_at_both_ends() -> None:
    _, nic, netdev = wire(Port(), Port())
    nic.send(0, b"hello")
    nic.send(0, b"you")
    netdev.send(0, b"hi")
    assert python(nic) == Frames(2, 8, 1, 2)
    assert python(netdev) == Frames(1, 2, 2, 8)


def test_answers_within_a_delivery_count() -> None:
    _, nic, netdev = wire(Port(), Port(answers=True))
    nic.send(0, b"a")
    assert python(netdev) == Frames(1, 4, 1, 1)


def test_waiting_frames_count_when_they_are_taken() -> None:
    far = Port(room=0)
    _, nic, netdev = wire(Port(), far)
    assert not nic.send(0, b"hello")
    assert python(nic) == Frames()
    far.room = 10
    netdev.flush(0)
    assert python(nic) == Frames(1, 5)


def test_counters_survive_a_new_peer() -> None:
    network, nic, _ = wire(Port(), Port())
    nic.send(0, b"hello")
    network.delete_netdev("net0", "test")
    network.add_netdev("net0", "stream", Port())
    nic.send(0, b"you")
    assert python(nic) == Frames(2, 8)
    other = network.find_netdev("net0")
    assert other is not None
    assert python(other) == Frames(0, 0, 1, 3)


def test_drops_by_reason() -> None:
    _, nic, netdev = wire(Port(), Port(room=0))
    for _ in range(QUEUE_LIMIT + 3):
        nic.send(0, b"x")
    assert netdev.traffic.python_drops(netdev.dropped) == {"no_peer": 0, "no_room": 3}
    nic.hold(HoldKind.OPERATOR, "test", "down")
    nic.send(0, b"x")
    assert nic.traffic.python_drops(nic.dropped) == {"no_peer": 1, "no_room": 0}


def test_counters_of_a_removed_port_are_kept() -> None:
    _, nic, _ = wire(Port(), Port())
    stats = Stats((PortStats(1, 1, 10, 1000, 20, 2000, no_room=3, too_long=1),))
    for _ in range(2):
        count_traffic(nic, Reply(1, 0, stats.pack()))
    assert nic.traffic.wire == Frames(20, 2000, 40, 4000)
    assert nic.traffic.wire_drops == {"no-room": 6, "too-long": 2}
    assert nic.traffic.python_drops(nic.dropped) == {"no_peer": 0, "no_room": 0}
    assert nic.dropped == 6
