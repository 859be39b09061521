"""Tests of filter-buffer: it releases frames at the ticks, in order and in bounded turns, and holds a bounded
amount."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.fakes.scheduler import FakeScheduler
from tests.unit.backend.helpers import MAC, Guest

from vnic.backend import BackendContext
from vnic.filter import object_add, object_del
from vnic.filter.buffer import BYTES_LIMIT
from vnic.filter.options import BufferOptions
from vnic.net.client import Endpoint
from vnic.net.clock import Clock
from vnic.net.errors import NetError
from vnic.net.filters import Direction
from vnic.net.network import Network
from vnic.net.queue import FLUSH_BUDGET, QUEUE_LIMIT, Frame

MS = 1000  # microseconds


class Host(Endpoint):
    """A netdev that can answer each frame once."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.answers = False

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.got.append(bytes(frame))
        if self.answers:
            self.client.send(queue, b"re:" + bytes(frame))
        return True


class Rig:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = FakeScheduler()
        self.network = Network(self.time, Clock(monotonic_ns=lambda: round(self.time.now * 1e9)))
        self.context = BackendContext(loop, self.network)
        self.host, self.guest = Host(), Guest()
        self.netdev = self.network.add_netdev("net0", "stream", self.host)
        self.nic = self.network.add_nic("nic0", "virtio-net", self.guest, mac=MAC, netdev_id="net0")

    def hold_back(self, interval_us: int, queue: Direction = Direction.ALL) -> None:
        object_add(self.context, BufferOptions(id="f0", netdev="net0", interval=interval_us, queue=queue))


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = asyncio.new_event_loop()
    yield Rig(loop)
    loop.close()


def test_frames_are_released_in_order_at_next_tick(rig: Rig) -> None:
    rig.time.advance(0.0123)
    rig.hold_back(10 * MS)
    rig.time.advance(0.007)
    rig.nic.send(0, b"1")
    rig.netdev.send(0, b"2")
    rig.time.advance(0.0025)
    rig.nic.send(0, b"3")
    assert (rig.host.got, rig.guest.got) == ([], [])
    rig.time.advance(0.001)
    assert (rig.host.got, rig.guest.got) == ([b"1", b"3"], [b"2"]), "10 ms after the filter began"
    rig.nic.send(0, b"4")
    rig.time.advance(0.009)
    assert rig.host.got == [b"1", b"3"]
    rig.time.advance(0.001)
    assert rig.host.got == [b"1", b"3", b"4"]


def test_one_direction_can_be_held(rig: Rig) -> None:
    rig.hold_back(10 * MS, Direction.TX)
    rig.nic.send(0, b"out")
    rig.netdev.send(0, b"in")
    assert (rig.host.got, rig.guest.got) == ([b"out"], [])


def test_no_timer_runs_without_frames(rig: Rig) -> None:
    rig.hold_back(1)
    rig.time.run_soon()
    rig.nic.send(0, b"1")
    rig.time.advance(1)
    assert rig.host.got == [b"1"]
    rig.time.call_soon(lambda: None)
    assert len(rig.time._calls) == 1


def test_held_frame_is_a_copy_with_its_offload(rig: Rig) -> None:
    rig.guest.wants_offload = True
    rig.hold_back(10 * MS)
    frame, offload = bytearray(b"before"), bytes((1, 0, 0, 0, 0, 0, 2, 0, 2, 0))
    rig.netdev.send(0, memoryview(frame), offload)
    frame[:] = b"after!"
    rig.time.advance(0.01)
    assert (rig.guest.got, rig.guest.offloads) == ([b"before"], [offload])


def test_release_takes_several_turns_and_replies_wait_for_next_tick(rig: Rig) -> None:
    rig.hold_back(10 * MS)
    rig.host.answers = True
    count = 2 * FLUSH_BUDGET + 10
    for n in range(count):
        rig.nic.send(0, b"%d" % n)
    rig.time.advance(0.01)
    rig.time.run_soon()
    assert rig.host.got == [b"%d" % n for n in range(count)]
    assert rig.guest.got == []
    rig.time.advance(0.01)
    rig.time.run_soon()
    assert len(rig.guest.got) == count


@pytest.mark.parametrize(("size", "kept"), [(60, QUEUE_LIMIT), (1 << 16, BYTES_LIMIT >> 16)])
def test_held_frames_are_bounded(rig: Rig, size: int, kept: int) -> None:
    rig.hold_back(10 * MS)
    for _ in range(kept + 7):
        assert rig.nic.send(0, bytes(size))
    assert rig.nic.dropped == 7
    rig.time.advance(0.01)
    rig.time.run_soon()
    assert len(rig.host.got) == kept


@pytest.mark.parametrize("how", ["object-del", "netdev_del"])
def test_cleanup_releases_all_in_order(rig: Rig, how: str) -> None:
    rig.hold_back(10 * MS)
    for n in range(FLUSH_BUDGET + 1):
        rig.nic.send(0, b"%d" % n)
    if how == "object-del":
        object_del(rig.context, "f0")
    else:
        rig.network.delete_netdev("net0", "test")
    assert rig.host.got == [b"%d" % n for n in range(FLUSH_BUDGET + 1)]
    rig.time.advance(1)
    assert len(rig.host.got) == FLUSH_BUDGET + 1


def test_held_frames_of_removed_nic_are_lost(rig: Rig) -> None:
    rig.hold_back(10 * MS)
    rig.nic.send(0, b"1")
    rig.netdev.send(0, b"2")
    rig.network.delete_nic("nic0")
    rig.time.advance(0.01)
    assert (rig.host.got, rig.guest.got) == ([], [])


def test_zero_interval_is_refused(rig: Rig) -> None:
    with pytest.raises(NetError, match=r"^Property 'filter-buffer.interval' requires a positive value$"):
        rig.hold_back(0)
    assert rig.netdev.filters == []


def test_info(rig: Rig) -> None:
    rig.hold_back(1000)
    assert rig.network.info_network().splitlines()[-1] == (
        "  - f0: type=filter-buffer,interval=1000,position=tail,status=on,insert=behind,netdev=net0,queue=all"
    )


def test_disabled_filter_holds_nothing_and_enabled_again_ticks(rig: Rig) -> None:
    rig.hold_back(100 * MS)
    rig.guest.client.send(0, b"kept")
    (held,) = rig.netdev.filters
    held.set_status("off")
    assert rig.host.got == [b"kept"]
    rig.guest.client.send(0, b"not kept")
    held.set_status("on")
    rig.guest.client.send(0, b"kept again")
    assert rig.host.got == [b"kept", b"not kept"]
    rig.time.advance(0.1)
    assert rig.host.got[-1] == b"kept again"
