"""Packets between the rings and the wire: shapes of buffers, headers, merging, budgets and back-pressure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.dataplane.python_pair import BURST_BYTES, BURST_PACKETS
from vnic.nic.virtio_net import VirtioNet, features
from vnic.virtio.features import INDIRECT_DESC, VERSION_1


@pytest.fixture
def lab() -> Iterator[VirtioLab]:
    with VirtioLab() as lab:
        lab.plug()
        yield lab


def far(lab: VirtioLab) -> FarEnd:
    assert isinstance(lab.far, FarEnd)
    return lab.far


# -- TX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cuts", [(), (12,), (5,), (12, 13), (1, 2, 3, 20), (11, 13, 70)])
def test_tx_packet_may_be_split_anywhere(lab: VirtioLab, cuts: tuple[int, ...], indirect: bool) -> None:
    """§2.7.4.2: a device must not assume how a packet is laid out."""
    packet = bytes(12) + frame(7, 100)
    bounds = [0, *cuts, len(packet)]
    buffers = []
    for start, stop in itertools.pairwise(bounds):
        addr = lab.guest.alloc(stop - start, 1)
        lab.guest.write(addr, packet[start:stop])
        buffers.append((addr, stop - start))
    ring = lab.driver.rings[1]
    head = ring.add(buffers, indirect=indirect)
    ring.publish()
    lab.driver.kick()
    assert lab.sent == [frame(7, 100)]
    assert ring.take_used() == [(head, 0)]
    assert ring.calls() == 1


def test_tx_keeps_order(lab: VirtioLab) -> None:
    frames = [frame(number) for number in range(200)]
    lab.driver.send(*frames)
    lab.settle()
    assert lab.sent == frames
    assert lab.driver.rings[1].calls() == 2, "one interrupt a burst"


def test_suppressed_interrupt_is_not_sent(lab: VirtioLab) -> None:
    lab.driver.rings[1].set_no_interrupt(True)
    lab.driver.send(frame())
    assert lab.driver.rings[1].calls() == 0


def test_burst_is_bounded_in_packets(lab: VirtioLab) -> None:
    lab.driver.send(*[frame(number) for number in range(2 * BURST_PACKETS)])
    assert len(lab.sent) == BURST_PACKETS
    assert lab.driver.rings[1].used_flags == 1, "no kicks are needed: it goes on by itself"
    lab.scheduler.turn()
    assert len(lab.sent) == 2 * BURST_PACKETS
    lab.settle()
    assert lab.driver.rings[1].used_flags == 0


def test_burst_is_bounded_in_bytes(lab: VirtioLab) -> None:
    big = 65_000
    lab.driver.send(*[frame(number, big) for number in range(20)])
    assert len(lab.sent) == BURST_BYTES // big + 1
    lab.settle()
    assert len(lab.sent) == 20


def test_packet_without_kick_during_burst_is_sent(lab: VirtioLab) -> None:
    ring = lab.driver.rings[1]
    lab.driver.send(*[frame(number) for number in range(BURST_PACKETS)])
    lab.driver.queue_tx(frame(999))
    ring.publish()
    assert ring.kicks() == 0, "suppressed"
    lab.settle()
    assert lab.sent[-1] == frame(999)


def test_packet_just_before_kicks_are_enabled_is_sent(
    lab: VirtioLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, queue = lab.driver.rings[1], lab.device.queues[1]
    unpatched = queue.suppress_kicks
    late = [frame(999)]

    def suppress_kicks(suppress: bool) -> None:
        if not suppress and late:
            lab.driver.queue_tx(late.pop())
            ring.publish()
        unpatched(suppress)

    monkeypatch.setattr(queue, "suppress_kicks", suppress_kicks)
    lab.driver.send(*[frame(number) for number in range(BURST_PACKETS)])
    lab.settle()
    assert ring.kicks() == 0, "suppressed"
    assert lab.sent[-1] == frame(999)


def test_frame_of_invalid_size_is_completed_unsent(lab: VirtioLab) -> None:
    lab.driver.send(bytes(13), b"", frame(1)[:14], frame(2, 69_632), frame(3, 69_633))
    assert [len(each) for each in lab.sent] == [14, 69_632]
    assert len(lab.driver.rings[1].take_used()) == 5


def test_full_peer_pauses_tx(lab: VirtioLab) -> None:
    far(lab).room = 3
    lab.driver.send(*[frame(number) for number in range(10)])
    ring = lab.driver.rings[1]
    assert (len(lab.sent), ring.used_idx) == (3, 4), "the fourth waits at the peer"
    lab.settle()
    assert len(lab.sent) == 3
    far(lab).room = None
    lab.netdev.flush(0)
    lab.settle()
    assert lab.sent == [frame(number) for number in range(10)]
    assert ring.used_idx == 10
    lab.driver.send(frame(11))
    assert lab.sent[-1] == frame(11)


def test_deleted_full_peer_resumes_tx(lab: VirtioLab) -> None:
    far(lab).room = 0
    lab.driver.send(frame(1), frame(2))
    lab.network.delete_netdev("net0", "test")
    lab.settle()
    assert lab.driver.rings[1].used_idx == 2
    back = FarEnd()
    lab.network.add_netdev("net0", "stream", back)
    lab.settle()
    lab.driver.send(frame(3))
    assert back.frames == [frame(3)]


def test_packets_in_ring_are_sent_at_driver_ok(lab: VirtioLab) -> None:
    lab.device.set_status(0)
    lab.device.set_features(lab.device.host_features)
    lab.device.set_status(11)
    ring = lab.driver.rings[1]
    ring.restart()
    lab.driver.start_ring(ring)
    lab.driver.queue_tx(frame(1))
    ring.publish()
    lab.driver.kick()
    lab.settle()
    assert lab.sent == []
    lab.device.set_status(15)
    lab.settle()
    assert lab.sent == [frame(1)]


def test_packets_of_disabled_tx_ring_are_discarded(lab: VirtioLab) -> None:
    lab.device.queue_enabled(1, False)
    lab.driver.send(frame(1))
    lab.settle()
    assert (lab.sent, lab.driver.rings[1].used_idx) == ([], 1)
    lab.device.queue_enabled(1, True)
    lab.driver.send(frame(2))
    lab.settle()
    assert lab.sent == [frame(2)]


# -- RX -------------------------------------------------------------------------------------------------------------


def test_rx_header_has_num_buffers_1(lab: VirtioLab) -> None:
    lab.driver.fill_rx(2)
    lab.netdev.send(0, frame(1))
    assert lab.driver.received_raw() == [bytes(10) + b"\1\0" + frame(1)]


@pytest.mark.parametrize("shape", [(2000,), (12, 2000), (5, 7, 2000), (10, 10, 10, 10, 10, 2000), (72,)])
def test_rx_buffer_may_be_split_anywhere(lab: VirtioLab, shape: tuple[int, ...]) -> None:
    ring = lab.driver.rings[0]
    buffers = [(lab.guest.alloc(size, 1), size) for size in shape]
    head = ring.add([], buffers)
    ring.publish()
    lab.driver.kick()
    lab.netdev.send(0, frame(1))
    assert ring.take_used() == [(head, 72)]
    data = b"".join(lab.guest.read(*each) for each in buffers)
    assert data[:72] == bytes(10) + b"\1\0" + frame(1)
    assert not any(data[72:]), "not a byte more"


def test_rx_takes_bytes_and_views(lab: VirtioLab) -> None:
    lab.driver.fill_rx(3)
    for kind in (bytes, bytearray, memoryview):
        lab.netdev.send(0, kind(frame(3)))
    assert lab.driver.received() == [frame(3)] * 3


def test_rx_sends_one_interrupt_per_turn(lab: VirtioLab) -> None:
    lab.driver.fill_rx(20)
    for number in range(20):
        lab.netdev.send(0, frame(number))
    assert lab.driver.rings[0].calls() == 0
    lab.settle()
    assert lab.driver.rings[0].calls() == 1


def test_rx_enables_kicks_only_without_room(lab: VirtioLab) -> None:
    ring = lab.driver.rings[0]
    lab.driver.fill_rx(2)
    assert ring.used_flags == 1, "kicks for room are of no use while there is some"
    sent = [lab.netdev.send(0, frame(number)) for number in range(4)]
    assert sent == [True, True, False, False]
    assert ring.used_flags == 0
    lab.driver.fill_rx(8)
    assert lab.driver.received() == [frame(number) for number in range(4)]
    assert far(lab).resumed == 1


def test_rx_finds_room_made_without_kick(lab: VirtioLab) -> None:
    lab.driver.fill_rx(1)
    ring = lab.driver.rings[0]
    lab.netdev.send(0, frame(1))
    ring.add([], [(lab.guest.alloc(200), 200)])
    ring.publish(kick=False)
    assert lab.netdev.send(0, frame(2))
    assert ring.used_idx == 2


def test_rx_merges_buffers(lab: VirtioLab) -> None:
    """§5.1.6.4: num_buffers says how many; all are used up to their end but the last."""
    lab.driver.fill_rx(5, size=100)
    lab.netdev.send(0, frame(1, 400))
    ring = lab.driver.rings[0]
    assert ring.used_idx == 5
    [packet] = lab.driver.received_raw()
    assert packet == bytes(10) + b"\5\0" + frame(1, 400)


def test_rx_merge_waits_for_room_of_whole_packet(lab: VirtioLab) -> None:
    lab.driver.fill_rx(4, size=100)
    assert not lab.netdev.send(0, frame(1, 400))
    assert lab.driver.rings[0].used_idx == 0
    assert not lab.netdev.send(0, frame(2)), "the order holds"
    lab.driver.fill_rx(2, size=100)
    assert lab.driver.received() == [frame(1, 400), frame(2)]


def test_frame_larger_than_ring_is_dropped() -> None:
    with VirtioLab(ring_size=4) as lab:
        lab.plug()
        lab.driver.fill_rx(4, size=100)
        assert lab.netdev.send(0, frame(1, 500))
        assert lab.netdev.send(0, frame(2, 388))
        assert lab.driver.received() == [frame(2, 388)]


@pytest.mark.parametrize(
    ("acked", "header_bytes", "header"),
    [
        (0, 10, bytes(10)),
        (features.MRG_RXBUF, 12, bytes(10) + b"\1\0"),
        (VERSION_1, 12, bytes(10) + b"\1\0"),
    ],
)
def test_header_size_follows_features(acked: int, header_bytes: int, header: bytes) -> None:
    with VirtioLab(header_bytes=header_bytes) as lab:
        lab.plug(acked)
        lab.driver.fill_rx(4, size=header_bytes + 60)
        lab.netdev.send(0, frame(1))
        assert lab.driver.received_raw() == [header + frame(1)]
        lab.driver.send(frame(2))
        assert lab.sent == [frame(2)]
        if not acked & features.MRG_RXBUF:
            assert lab.netdev.send(0, frame(3, 61)), (
                "too long for one buffer, and there is no second: dropped"
            )
            assert lab.netdev.send(0, frame(4))
            assert lab.driver.received() == [frame(4)]


def test_rx_drops_before_driver_ok_and_with_ring_disabled(lab: VirtioLab) -> None:
    lab.driver.fill_rx(4)
    lab.device.queue_enabled(0, False)
    assert lab.netdev.send(0, frame(1))
    lab.device.queue_enabled(0, True)
    assert lab.netdev.send(0, frame(2))
    assert lab.driver.received() == [frame(2)]
    lab.device.set_status(0)
    assert lab.netdev.send(0, frame(3))


def test_stopped_rx_ring_drops_frames(lab: VirtioLab) -> None:
    lab.driver.fill_rx(4)
    bases: list[int] = []
    lab.device.queue_stopped(0, bases.append)
    assert lab.netdev.send(0, frame(1))
    assert bases == [0]
    lab.driver.start_ring(lab.driver.rings[0])
    lab.settle()
    assert lab.netdev.send(0, frame(2))
    assert lab.driver.received() == [frame(2)]


# -- queues ---------------------------------------------------------------------------------------------------------


def test_waiting_frames_are_not_delivered_to_next_guest(lab: VirtioLab) -> None:
    for number in range(2000):
        far(lab).client.send(0, frame(number))
    lab.driver.unplug()
    lab.driver.plug(lab.device)
    lab.driver.fill_rx(200)
    lab.settle()
    assert lab.driver.received() == []
    assert far(lab).client.send(0, frame(1))
    assert lab.driver.received() == [frame(1)]


def test_pairs_use_their_own_queues() -> None:
    with VirtioLab(VirtioNet(pairs=2)) as lab:
        lab.plug()
        for pair in (0, 1):
            lab.driver.fill_rx(2, pair)
        lab.driver.send(frame(1), pair=1)
        lab.settle()
        assert lab.sent == [], "the second pair is not in use yet"
        assert lab.netdev.send(1, frame(2))
        assert lab.driver.command(4, 0, b"\2\0") == 0
        lab.settle()
        lab.driver.send(frame(3), pair=0)
        assert (lab.sent, far(lab).queues) == ([frame(1), frame(3)], [1, 0])
        lab.netdev.send(1, frame(4))
        assert (lab.driver.received(0), lab.driver.received(1)) == ([], [frame(4)])


def test_pairs_share_queues_of_smaller_netdev() -> None:
    """Another netdev may come in the place of the one that the NIC was made for."""
    with VirtioLab(VirtioNet(pairs=3)) as lab:
        lab.plug()
        assert lab.driver.command(4, 0, b"\3\0") == 0
        lab.network.delete_netdev("net0", "test")
        new = FarEnd()
        lab.network.add_netdev("net0", "stream", new, 2)
        lab.settle()
        for pair in range(3):
            lab.driver.send(frame(pair), pair=pair)
        assert (new.frames, new.queues) == ([frame(0), frame(1), frame(2)], [0, 1, 0])
        new.room = 0
        for pair in range(3):
            lab.driver.send(frame(3 + pair), frame(6 + pair), pair=pair)
        new.room = None
        for queue in range(2):
            new.client.flush(queue)
        lab.settle()
        assert sorted(new.frames[3:]) == [frame(3 + number) for number in range(6)]


def test_all_pairs_are_in_use_without_control_queue() -> None:
    """QEMU's and DPDK's vhost-user front-ends: MQ without CTRL_VQ; they enable rings instead."""
    with VirtioLab(VirtioNet(pairs=2)) as lab:
        lab.plug(VERSION_1 | INDIRECT_DESC | features.MQ)
        lab.driver.send(frame(1), pair=1)
        assert lab.sent == [frame(1)]


def test_enabled_pairs_get_frames_without_control_queue() -> None:
    with VirtioLab(VirtioNet(pairs=3)) as lab:
        lab.plug(VERSION_1 | INDIRECT_DESC | features.MQ)
        assert lab.device.active_pairs == 3
        for index in (4, 5):
            lab.device.queue_enabled(index, False)
        assert lab.device.active_pairs == 2
        lab.driver.send(frame(1), pair=2)
        lab.settle()
        assert (lab.sent, lab.driver.rings[5].used_idx) == ([], 1), "and the others' are thrown away"
        lab.device.queue_stopped(2)
        assert lab.device.active_pairs == 1


def test_control_queue_index_without_mq() -> None:
    with VirtioLab(VirtioNet(pairs=2)) as lab:
        lab.plug(lab.device.host_features & ~features.MQ)
        assert lab.device.control_index == 2
        assert lab.driver.command(0, 0, b"\0") == 0


# -- the memory map ---------------------------------------------------------------------------------------------------


def test_rings_work_after_memory_remap(lab: VirtioLab) -> None:
    memory = lab.device.memory
    lab.driver.fill_rx(4)
    lab.driver.send(frame(1))
    memory.remove(lab.guest.guest_addr, lab.guest.size)
    lab.driver.queue_tx(frame(2))
    lab.driver.rings[1].publish()
    lab.driver.kick()
    lab.settle()
    assert not lab.netdev.send(0, frame(3)), "it waits"
    memory.add(lab.guest.region())
    lab.settle()
    assert lab.sent == [frame(1), frame(2)]
    assert lab.driver.received() == [frame(3)]
    assert lab.device.status == 15


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(14, 3000)), max_size=40), st.integers(100, 1600))
def test_frames_arrive_once_and_in_order(traffic: list[tuple[bool, int]], rx_bytes: int) -> None:
    with VirtioLab(ring_size=64) as lab:
        lab.plug()
        out: list[bytes] = []
        into: list[bytes] = []
        got: list[bytes] = []
        for number, (is_tx, size) in enumerate(traffic):
            if is_tx:
                out.append(frame(number, size))
                lab.driver.send(out[-1])
            else:
                into.append(frame(number, size))
                lab.netdev.send(0, into[-1])
                lab.driver.fill_rx(min(number % 3 * 20, lab.driver.rings[0].free), size=rx_bytes)
            got += lab.driver.received()
        for _ in range(100):
            lab.driver.fill_rx(min(20, lab.driver.rings[0].free), size=rx_bytes)
            lab.settle()
            got += lab.driver.received()
        assert lab.sent == out
        assert got == into
