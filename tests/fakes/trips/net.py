"""The network: clients with holds, counters and waiting frames, the journal, half-read frames."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.backend.connection import FramedConnection
from vnic.backend.framing import LENGTH, Deframer
from vnic.net.client import Endpoint, NetClient
from vnic.net.clock import Clock
from vnic.net.fault_info import DampenedSettings, SlowUpSettings
from vnic.net.faults import Faults
from vnic.net.flaps import Flaps, Pattern
from vnic.net.journal import Journal
from vnic.net.link import new_hold
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import HoldKind, ShownBy

NOW_NS = 10**12
CLOCK = Clock(lambda: NOW_NS, lambda: NOW_NS)


class NoRoom(Endpoint):
    """Takes no frame."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return False


def network(stack: ExitStack, clock: Clock = CLOCK) -> Network:
    net = Network(FakeScheduler(), clock)
    stack.callback(net.close)
    net.add_netdev("net0", "stream", Endpoint(), 2)
    net.add_nic("nic0", "e1000", NoRoom(), mac=b"\2" * 6, queues=2, netdev_id="net0")
    return net


def busy_network(stack: ExitStack) -> Network:
    """Its time goes on while it is used, and then stands still."""
    times = iter(range(NOW_NS - 10**9, NOW_NS, 10**6))
    net = network(stack, Clock(lambda: next(times, NOW_NS), lambda: next(times, NOW_NS)))
    netdev, nic = net.find_netdev("net0"), net.find_nic("nic0")
    assert netdev is not None
    assert nic is not None
    nic.report.guest_attached(ShownBy.DEVICE)
    nic.report.driver_ok(True)
    netdev.hold(HoldKind.DISCONNECTED, "vnic", "gone")
    nic.report.notified(False)
    nic.report.interrupted()
    netdev.send(0, b"lost")
    netdev.release(HoldKind.DISCONNECTED, "vnic", "here")
    nic.report.notified(True)
    nic.report.seen(True)
    netdev.send(1, b"waits" * 20, bytes(10))
    net.set_link("net0", False, "qmp")
    net.set_link("net0", True, "qmp")
    netdev.send(1, b"waits" * 20, bytes(10))
    for _ in times:
        pass
    return net


def see_client(client: NetClient) -> object:
    return (
        (client.holds, client.link_up, client.operstate, client.last_change),
        (client.carrier_up_changes, client.carrier_down_changes, client.dropped),
        [client.can_send(queue) for queue in range(client.queues)],
    )


@trip("NIC's client")
def nic(stack: ExitStack) -> Trip:
    return Trip(
        busy_network(stack).find_nic("nic0"),
        lambda stack: network(stack).find_nic("nic0"),
        lambda unit, record: unit.restore(record),
        lambda unit: (see_client(unit), unit.guest, unit.report.interrupt_owed),
    )


@trip("netdev's client with holds")
def netdev(stack: ExitStack) -> Trip:
    net = busy_network(stack)
    net.set_link("net0", False, "hmp")
    return Trip(
        net.find_netdev("net0"),
        lambda stack: network(stack).find_netdev("net0"),
        lambda unit, record: unit.restore(record),
        see_client,
    )


@trip("flaps")
def flaps(stack: ExitStack) -> Trip:
    net = network(stack)
    for name, count in (("nic0", 3), ("net0", None)):
        pattern = Pattern(down_ms=200, up_ms=300, count=count, jitter=10, seed=7)
        net.flaps.start(name, pattern, "QMP client")
    assert isinstance(net.scheduler, FakeScheduler)
    net.scheduler.advance(0.35)

    def make(stack: ExitStack) -> Flaps:
        return network(stack).flaps

    def observe(unit: Flaps) -> object:
        return unit.query()

    return Trip(net.flaps, make, lambda unit, record: unit.restore(record), observe)


@trip("client of a cable's end")
def cable_end(stack: ExitStack) -> Trip:
    """Its hold remembers the wires through which it came."""

    def make(stack: ExitStack) -> NetClient:
        net = Network(FakeScheduler(), CLOCK)
        stack.callback(net.close)
        return net.add_netdev("a", "cable", Endpoint())

    client = make(stack)
    via = ("b", "c")
    client.holds[HoldKind.FAR_END] = new_hold("a", HoldKind.FAR_END, "test", "pulled", CLOCK, via)
    return Trip(client, make, lambda unit, record: unit.restore(record), see_client)


@trip("journal")
def journal(stack: ExitStack) -> Trip:
    return Trip(
        busy_network(stack).journal,
        lambda _: Journal(CLOCK),
        lambda unit, record: unit.restore(record),
        lambda unit: unit.save(),
    )


@trip("half-read frame")
def deframer(stack: ExitStack) -> Trip:
    unit = Deframer()
    unit.feed(LENGTH.pack(3) + b"one" + LENGTH.pack(300) + b"tw")
    assert unit.next() == b"one"

    def rest(unit: Deframer) -> object:
        return unit.save().rest

    return Trip(unit, lambda _: Deframer(), lambda unit, record: unit.restore(record), rest)


@trip("stream connection with a half-sent frame")
def connection(stack: ExitStack) -> Trip:
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> FramedConnection:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        ours.setblocking(False)
        client = network(stack).find_netdev("net0")
        assert client is not None
        unit = FramedConnection(loop, ours, client, lambda reason: None)
        stack.callback(unit.close)
        return unit

    unit = make(stack)
    while unit.send(bytes(60000)):
        pass
    return Trip(unit, make, lambda unit, record: unit.restore(record), lambda unit: unit.save())


@trip("faults of links")
def faults(stack: ExitStack) -> Trip:
    """One waits, and one holds its link."""
    net = network(stack)
    net.faults.start("nic0", SlowUpSettings(5000), "QMP client")
    net.faults.start("net0", DampenedSettings(half_life_ms=1000), "QMP client")
    for up in (False, True) * 3:
        net.set_link("nic0", up, "test")
        assert isinstance(net.scheduler, FakeScheduler)
        net.scheduler.advance(0.05)

    def make(stack: ExitStack) -> Faults:
        return network(stack).faults

    return Trip(net.faults, make, lambda unit, record: unit.restore(record), lambda unit: list(unit.query()))
