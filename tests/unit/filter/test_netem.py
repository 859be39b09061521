"""Tests of the object netem: directions, its properties while frames pass, what the journal tells, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler
from tests.unit.backend.helpers import MAC, Guest

from vnic.backend import BackendContext
from vnic.filter import fault, object_add, object_del
from vnic.filter.netem import Netem
from vnic.filter.options import NetemOptions
from vnic.net import qom
from vnic.net.clock import Clock
from vnic.net.errors import NetError
from vnic.net.fault_info import FaultShape, FaultWords
from vnic.net.filter_set import find_filter
from vnic.net.filters import Direction
from vnic.net.journal import JournalQuery
from vnic.net.network import Network
from vnic.net.records import Note


class Rig:
    """A NIC on a netdev, in a simulated time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = FakeScheduler()
        self.network = Network(self.time, Clock(monotonic_ns=lambda: round(self.time.now * 1e9)))
        self.context = BackendContext(loop, self.network)
        self.host, self.guest = Guest(), Guest()
        self.netdev = self.network.add_netdev("net0", "stream", self.host)
        self.nic = self.network.add_nic("nic0", "virtio-net", self.guest, mac=MAC, netdev_id="net0")
        self.events = record_events(self.network)

    def add(self, queue: Direction = Direction.ALL, **options: Any) -> Netem:
        given = NetemOptions(id="n0", netdev="net0", queue=queue, **options)
        object_add(self.context, given, "test")
        made = find_filter(self.network, "n0")
        assert isinstance(made, Netem)
        return made

    def set(self, name: str, value: object) -> None:
        qom.set_(self.network, "n0", name, value, "test")

    def get(self, name: str) -> object:
        return qom.get(self.network, "n0", name)


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = asyncio.new_event_loop()
    yield Rig(loop)
    loop.close()


def test_both_directions_are_delayed(rig: Rig) -> None:
    rig.add(delay="10ms")
    rig.nic.send(0, b"out")
    rig.netdev.send(0, b"in", bytes(10))
    rig.time.advance(0.0099)
    assert (rig.host.got, rig.guest.got) == ([], [])
    rig.time.advance(0.0002)
    assert (rig.host.got, rig.guest.got) == ([b"out"], [b"in"])


@pytest.mark.parametrize(("queue", "late"), [(Direction.TX, "guest"), (Direction.RX, "host")])
def test_one_direction_is_delayed(rig: Rig, queue: Direction, late: str) -> None:
    """As with QEMU's filters: tx are the frames that the netdev sends, to the guest."""
    rig.add(queue, delay="10ms")
    rig.nic.send(0, b"out")
    rig.netdev.send(0, b"in")
    assert (rig.host.got, rig.guest.got) == (([b"out"], []) if late == "guest" else ([], [b"in"]))


def test_a_receiver_without_room_gets_the_frames_later(rig: Rig) -> None:
    rig.add(delay="1ms")
    rig.guest.room = 1
    for frame in (b"1", b"2", b"3"):
        assert rig.netdev.send(0, frame), "a line never holds up its source"
    rig.time.advance(1)
    assert rig.guest.got == [b"1"]
    rig.guest.make_room()
    assert rig.guest.got == [b"1", b"2", b"3"]


def test_a_frame_of_a_wire_that_went_down_is_lost(rig: Rig) -> None:
    rig.add(delay="10ms")
    rig.netdev.send(0, b"1")
    rig.nic.send(0, b"2")
    rig.network.set_link("nic0", False, "test")
    rig.time.advance(1)
    assert (rig.host.got, rig.guest.got) == ([], [])
    assert rig.nic.dropped + rig.netdev.dropped == 2


def test_a_netdev_without_its_nic_loses_what_was_for_it(rig: Rig) -> None:
    rig.add(delay="10ms")
    rig.netdev.send(0, b"1")
    rig.nic.send(0, b"2")
    rig.network.delete_nic("nic0")
    rig.time.advance(1)
    assert not rig.host.got
    assert rig.netdev.dropped == 2


@pytest.mark.parametrize("how", ["delete", "off", "delete netdev"])
def test_what_is_under_way_is_lost_at_the_end(rig: Rig, how: str) -> None:
    rig.add(delay="10ms")
    rig.netdev.send(0, b"1")
    if how == "delete":
        object_del(rig.context, "n0", "test")
    elif how == "off":
        rig.set("status", "off")
    else:
        rig.network.delete_netdev("net0", "test")
    rig.time.advance(1)
    assert not rig.guest.got
    assert rig.netdev.dropped == 1
    if how != "delete netdev":
        rig.netdev.send(0, b"2")
        assert rig.guest.got == [b"2"]


def test_properties_can_be_read_and_changed_while_frames_pass(rig: Rig) -> None:
    rig.add(delay="10ms", loss="0", seed=7)
    assert (rig.get("delay"), rig.get("loss"), rig.get("limit"), rig.get("seed")) == ("10ms", "0%", 1000, 7)
    rig.netdev.send(0, b"1")
    rig.set("delay", "1ms")
    rig.netdev.send(0, b"2")
    rig.time.advance(1)
    assert rig.guest.got == [b"2", b"1"]
    rig.set("limit", "1")  # as HMP gives it
    rig.set("loss", "100%")
    assert rig.get("limit") == 1
    rig.netdev.send(0, b"3")
    rig.time.advance(1)
    assert rig.guest.got == [b"2", b"1"]


def test_every_property_can_be_set_to_what_it_is(rig: Rig) -> None:
    rig.add(delay="10ms", jitter="1ms", distribution="normal", loss="1%", gap=3)
    fixed = {"type", "netdev", "queue", "position", "insert"}
    names = [name for name, _ in qom.list_(rig.network, "n0") if name not in fixed]
    before = {name: rig.get(name) for name in names}
    for name, value in before.items():
        rig.set(name, value)
    assert {name: rig.get(name) for name in names} == before
    for name in fixed:
        with pytest.raises(NetError, match=f"^Property 'netem.{name}' is not writable$"):
            rig.set(name, "x")


def test_seed_begins_its_stream_anew(rig: Rig) -> None:
    unit = rig.add(loss="50%", seed=1)
    frames = [bytes([each]) for each in range(100)]

    def passed() -> list[bytes]:
        rig.guest.got.clear()
        for frame in frames:
            rig.netdev.send(0, frame)
        return list(rig.guest.got)

    first = passed()
    assert passed() != first
    rig.set("seed", 1)
    assert passed() == first
    rig.set("seed", "18446744073709551615")
    assert unit.seed == (1 << 64) - 1
    for bad in (-1, 1 << 64, "x", True, None):
        with pytest.raises(
            NetError, match=r"^Parameter 'seed' expects a number from 0 to 18446744073709551615"
        ):
            rig.set("seed", bad)


def test_directions_have_streams_of_their_own(rig: Rig) -> None:
    rig.add(loss="50%", seed=1)
    for number in range(100):
        rig.netdev.send(0, bytes([number]))
        rig.nic.send(0, bytes([number]))
    assert rig.guest.got != rig.host.got


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        (
            {"delay": "10"},
            "Parameter 'delay' expects a time with its unit, from 0 to 3600s, as 10ms, not '10'",
        ),
        ({"gap": 3}, "Parameter 'gap' needs 'delay'"),
        ({"limit": 0}, "Parameter 'limit' expects a number from 1 to 1000000, not '0'"),
    ],
)
def test_bad_options_leave_nothing(rig: Rig, options: dict[str, Any], desc: str) -> None:
    with pytest.raises(NetError) as refused:
        rig.add(**options)
    assert refused.value.desc == desc
    assert not rig.netdev.filters
    assert not rig.events


def test_journal_and_events_tell_of_each_change(rig: Rig) -> None:
    rig.add(delay="10ms")
    rig.set("loss", "0.5%")
    object_del(rig.context, "n0", "someone")
    texts = [
        ("test", "delay 10ms (both directions)"),
        ("test", "delay 10ms, loss 0.5% (both directions)"),
        ("someone", "impairments cleared (both directions)"),
    ]
    told = [(name, data["name"], data["source"], data["by"], data["text"]) for name, data in rig.events]
    assert told == [("LINK_IMPAIRED", name, "n0", *each) for each in texts for name in ("net0", "nic0")]
    notes = rig.network.journal.query(JournalQuery(cause="impaired"))
    assert all(isinstance(note, Note) for note in notes)
    found = [
        (note.name, note.event, note.caused_by, note.details) for note in notes if isinstance(note, Note)
    ]
    assert [each[:2] for each in found] == [
        (name, event) for event in ("set", "changed", "cleared") for name in ("net0", "nic0")
    ]
    assert found[1][2:] == (notes[0].id, {"source": "n0"})
    assert [note.id for note in notes] == [data["id"] for _, data in rig.events]
    assert rig.nic.last_change is not None
    assert rig.nic.last_change.cause.kind == "created", "the link did not change"


def test_query_links_shows_what_is_in_effect(rig: Rig) -> None:
    rig.add(Direction.TX, delay="10ms")

    def shown(name: str) -> list[tuple[str, str, str | None]]:
        [link] = rig.network.query_links(name)
        return [(each.id, each.text, each.queue) for each in link.impairments]

    assert shown("nic0") == shown("net0") == [("n0", "delay 10ms", "tx")]
    rig.set("status", "off")
    assert shown("nic0") == []


def test_fault_that_is_refused_leaves_the_one_before(rig: Rig) -> None:
    fault.start(rig.context, "net0", FaultShape.DEAD, FaultWords(), "test")
    object_add(rig.context, NetemOptions(id="nic0-fault", netdev="net0", delay="1ms"), "test")
    with pytest.raises(NetError, match="nic0-fault"):
        fault.start(rig.context, "nic0", FaultShape.DEAD, FaultWords(), "test")
    assert [each.id for each in fault.query(rig.network)] == ["net0-fault"]
