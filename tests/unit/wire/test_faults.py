"""What a fault in one guest's memory, or a frame that has to wait, must not change for others."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from tests.fakes.tunnel_peer import KEY, TunnelPeer, TunnelSocket
from tests.fakes.wire_ends import Stream, datagram_pair, framed, tcp_frame
from tests.fakes.wire_program import PLAIN, PROTOCOL_FEATURES, Refused, Sink, WireProgram, frame, until

from vnic.dataplane.wire.messages import Inject, PortLost, RingBroken
from vnic.lab.played.guest_memory import USER_ADDR, FakeGuestMemory
from vnic.net.offload import GSO_TCPV4, complete, encode
from vnic.nic.virtio_net.features import CSUM, HOST_TSO4
from vnic.protocol.vhost_user import messages as vu


def is_broken(event: object) -> bool:
    return isinstance(event, RingBroken)


def lose_the_rest(memory: FakeGuestMemory) -> None:
    """Truncate the file behind what was allocated by now."""
    os.truncate(memory.fd, (memory.alloc(1) - memory.guest_addr + 8191) & ~4095)


def test_fault_of_a_guest_leaves_a_stream_at_its_frames(program: Path) -> None:
    with WireProgram(program) as wire:
        guest = wire.started_guest(2)
        with Stream(wire, 1) as stream, datagram_pair(wire, 3) as far:
            lost = guest.memory.guest_addr + guest.memory.size - 4096
            guest.driver.rings[0].add([], [(lost, 2048)])
            lose_the_rest(guest.memory)
            guest.driver.rings[0].publish()
            whole = framed(frame(1), frame(2, 1000), frame(3))
            stream.sock.sendall(whole[:500])
            wire.wire(1, 1, 2, 3)
            wire.await_event(is_broken)
            assert far.recv(2000) == frame(1)
            stream.sock.sendall(whole[500:])
            assert far.recv(2000) == frame(2, 1000)
            assert far.recv(2000) == frame(3)
        assert not [event for event in wire.events if isinstance(event, PortLost) and event.port == 1]


def test_rest_of_a_frame_whose_memory_is_lost_is_sent(program: Path) -> None:
    """Its bytes are lost, and its length is kept: the next frame begins where the peer looks for it."""
    with WireProgram(program) as wire:
        guest = wire.started_guest(1)
        with Stream(wire, 2) as stream:
            wire.wire(1, 1)  # alone: frames wait
            ring = guest.driver.rings[1]
            size = 60000
            pieces = [guest.memory.alloc(size) for _ in range(4)]
            end = guest.memory.guest_addr + guest.memory.size
            for piece in pieces:
                ring.add([(piece, size)])
            lose_the_rest(guest.memory)
            ring.add([(pieces[0], 12 + 1000), (end - size, size)])
            ring.publish()
            wire.wire(1, 1, 2)
            sizes = [len(stream.receive()) for _ in pieces]
            assert sizes == [size - 12] * len(pieces)
            until(lambda: wire.stats(2).refused + wire.stats(2).frames_out == 5 or wire.events)


@pytest.mark.needs("loopback")
def test_fault_of_a_guest_leaves_the_tunnels_of_its_socket(program: Path) -> None:
    """The worker's turn is that of the socket, which is in no wire."""
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        guest = wire.started_guest(2)
        shared = TunnelSocket(wire)
        with TunnelPeer(shared, 3) as one, TunnelPeer(shared, 4, vni=4) as other:
            lost = guest.memory.guest_addr + guest.memory.size - 4096
            guest.driver.rings[0].add([], [(lost, 2048)])
            lose_the_rest(guest.memory)
            guest.driver.rings[0].publish()
            wire.wire(1, 2, 3)
            wire.wire(2, 1, 4)
            one.send(frame(1))
            wire.await_event(is_broken)
            one.send(frame(2))
            other.send(frame(3))
            assert stream.receive() == frame(3)
            stream.send(frame(4))
            assert other.receive() == [frame(4)]


@pytest.mark.needs("loopback")
@pytest.mark.parametrize("key", [b"", KEY], ids=["plain", "with key"])
def test_fault_of_a_guest_that_sends_leaves_its_tunnel(program: Path, key: bytes) -> None:
    with WireProgram(program) as wire, TunnelPeer(TunnelSocket(wire), 2, key=key) as peer:
        guest = wire.started_guest(1)
        wire.wire(1, 1, 2)
        ring = guest.driver.rings[1]
        good = guest.memory.alloc(12 + 100)
        end = guest.memory.guest_addr + guest.memory.size
        ring.add([(good, 112)])
        ring.add([(good, 112), (end - 4096, 1000)])
        lose_the_rest(guest.memory)
        ring.publish()
        wire.await_event(is_broken)
        wire.request(Inject(2, 0, frame(1)))
        while peer.receive() != [frame(1)]:
            pass


def test_dropped_frames_behind_one_that_waits_count_once(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        one.send(frame(1), frame(2), b"short", frame(3), b"s")
        two.driver.fill_rx(1)
        two.receive(1)
        until(lambda: wire.stats(1).frames_in == 1)
        for received in (2, 3):
            two.driver.fill_rx(1)
            assert two.receive(1) == [frame(received)]
        until(lambda: one.driver.rings[1].used_idx == 5)
        stats = wire.stats(1)
        assert (stats.frames_in, stats.too_short, stats.too_long) == (3, 2, 0)


def test_injected_frame_does_not_repeat_segments(program: Path) -> None:
    """An injected frame finds no room while a guest's waits of which half of the segments was delivered."""
    long_frame, transport = tcp_frame(bytes(range(250)) * 4)
    header = encode(GSO_TCPV4, 100, 54, transport, 16)
    segments = complete(header, long_frame)
    with WireProgram(program) as wire:
        one = wire.started_guest(1, PLAIN | CSUM | HOST_TSO4)
        two = wire.started_guest(2)
        wire.wire(1, 1, 2)
        two.driver.fill_rx(4)
        one.driver.queue_tx(long_frame, header=header)
        one.driver.rings[1].publish()
        received = two.receive(4)
        two.driver.fill_rx(1)
        received += two.receive(1)
        with pytest.raises(Refused, match="no room"):
            wire.request(Inject(1, 0, frame(7), inward=True))
        two.driver.fill_rx(len(segments))
        assert received + two.receive(len(segments) - 5) == segments


def test_full_queue_that_others_use_too_wakes_all_who_wait(program: Path) -> None:
    """Two queues of one guest share the only one of the other: each gets room, also while the other has no frames."""
    with WireProgram(program) as wire:
        one, two = wire.started_guest(1, pairs=2), wire.started_guest(2)
        wire.wire(1, 1, 2)
        one.send(frame(1), pair=0)
        until(lambda: not two.driver.rings[0].used_flags)
        for number in range(2, 6):
            with pytest.raises(Refused, match="no room"):
                wire.request(Inject(2, 0, frame(9)))
            until(lambda: not two.driver.rings[0].used_flags)
            two.driver.fill_rx(1)
            assert two.receive(1) == [frame(number - 1)]
            one.send(frame(number), pair=number % 2)


def test_rings_that_lie_unaligned_in_the_mapping_are_refused(program: Path) -> None:
    """The front-end's addresses are aligned, but not to the file: an atomic access there may fault."""
    with WireProgram(program) as wire:
        guest = wire.guest(1)
        guest.memory.user_addr = 0x7F00_0000_0008
        guest.client.negotiate(features=PLAIN)
        guest.client.set_memory()
        ring = guest.driver.rings[1]
        ring.desc += 8
        guest.client.set_up_ring(ring)
        guest.client.send_u64(vu.SET_VRING_KICK, 1, [ring.kick_fd])
        event = wire.await_event(lambda event: isinstance(event, PortLost))
        assert isinstance(event, PortLost)
        assert event.error


def test_chains_of_many_pieces_before_simple_ones(program: Path) -> None:
    """Each of 1024 buffers crosses the border of two regions: a turn takes two such chains, and simple ones behind."""
    with WireProgram(program) as wire:
        one, two = wire.guest(1), wire.started_guest(2)
        half = one.memory.size // 2
        one.client.negotiate(PROTOCOL_FEATURES, PLAIN)
        halves = [(one.memory.guest_addr + at, half, USER_ADDR + at, at) for at in (0, half)]
        table = b"".join(struct.pack("<QQQQ", *each) for each in halves)
        one.client.send(vu.SET_MEM_TABLE, struct.pack("<II", 2, 0) + table, [one.memory.fd] * 2)
        for index in one.data_rings:
            one.client.start_ring(one.driver.rings[index])
        one.sync()
        ring, border = one.driver.rings[1], one.memory.guest_addr + half
        for number in range(64):
            if number in (0, 1):
                ring.add([(border - 1, 2)] * 1024, indirect=True)
            else:
                one.driver.queue_tx(frame(number))
        ring.publish()
        sink = Sink(two, 128, size=4096)
        wire.wire(1, 1, 2)
        until(lambda: len(sink.take()) == 64)
        assert sink.frames[2:] == [frame(number) for number in range(2, 64)]
        assert {len(each) for each in sink.frames[:2]} == {2048 - 12}
