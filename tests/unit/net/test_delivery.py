"""Packets between peers: silent drops at a downed end, a bounded wait at a full receiver, and no recursion."""

from __future__ import annotations

import pytest
from tests.fakes.scheduler import FakeScheduler
from tests.unit.net.test_offload import build

from vnic.net.client import Endpoint, NetClient
from vnic.net.network import Network
from vnic.net.offload import GSO_TCPV4, complete, encode
from vnic.net.queue import QUEUE_LIMIT, QUEUE_LIMIT_BYTES, Frame
from vnic.net.records import HoldKind

MAC = bytes.fromhex("525400123456")


class Port(Endpoint):
    """Takes frames while it has room, and can answer each."""

    def __init__(self, room: int = 1_000_000, answers: bool = False) -> None:
        self.room = room
        self.answers = answers
        self.got: list[bytes] = []
        self.resumed = 0

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.got.append(bytes(frame))
        if self.answers:
            self.client.send(queue, b"re:" + bytes(frame))
        return True

    def sent(self, queue: int) -> None:
        self.resumed += 1


def wire(left: Port, right: Port) -> tuple[Network, NetClient, NetClient]:
    network = Network(FakeScheduler())
    netdev = network.add_netdev("net0", "stream", right)
    nic = network.add_nic("nic0", "virtio-net", left, mac=MAC, netdev_id="net0")
    return network, nic, netdev


def test_frame_is_delivered() -> None:
    port = Port()
    _, nic, _ = wire(Port(), port)
    assert nic.send(0, b"hello")
    assert port.got == [b"hello"]


@pytest.mark.parametrize("held_end", ["nic0", "net0"])
def test_down_end_drops_both_directions(held_end: str) -> None:
    left, right = Port(), Port()
    network, nic, netdev = wire(left, right)
    network.find_all(held_end)[0].hold(HoldKind.OPERATOR, "test", "pulled")
    assert nic.send(0, b"x")
    assert netdev.send(0, b"y")
    assert (left.got, right.got) == ([], [])
    assert nic.dropped + netdev.dropped == 2


def test_client_without_peer_drops_frames() -> None:
    network = Network(FakeScheduler())
    nic = network.add_nic("nic0", "virtio-net", Port(), mac=MAC)
    assert nic.send(0, b"x")
    assert nic.dropped == 1


def test_full_receiver_keeps_order_and_notifies_sender() -> None:
    left, right = Port(), Port(room=1)
    _, nic, netdev = wire(left, right)
    assert nic.send(0, b"1")
    assert not nic.send(0, b"2")
    assert not nic.can_send(0)
    assert not nic.send(0, b"3")
    right.room = 2
    netdev.flush(0)
    assert right.got == [b"1", b"2", b"3"]
    assert left.resumed == 1
    assert nic.can_send(0)


def test_segmented_frame_resumes_after_delivered_segments() -> None:
    port = Port(room=3)
    _, nic, netdev = wire(Port(), port)
    frame, _, l4 = build(6, bytes(range(10)) * 1000)
    offload = encode(GSO_TCPV4, 1000, l4 + 20, l4, 16)
    assert not nic.send(0, frame, offload)
    assert not nic.send(0, b"next")
    for room in (4, 0, 100):
        port.room = room
        netdev.flush(0)
    assert port.got == [*complete(offload, frame), b"next"]
    assert netdev.dropped == 0
    assert netdev._incoming[0]._bytes == 0
    assert nic.can_send(0)


def test_number_of_waiting_frames_is_bounded() -> None:
    right = Port(room=0)
    _, nic, netdev = wire(Port(), right)
    for _ in range(QUEUE_LIMIT + 5):
        nic.send(0, b"x")
    assert netdev.dropped == 5


def test_waiting_frame_is_copied() -> None:
    right = Port(room=0)
    _, nic, netdev = wire(Port(), right)
    frame = bytearray(b"before")
    nic.send(0, memoryview(frame))
    frame[:] = b"after!"
    right.room = 1
    netdev.flush(0)
    assert right.got == [b"before"]


def test_mutual_replies_neither_recurse_nor_starve_loop() -> None:
    left, right = Port(room=3000, answers=True), Port(room=3000, answers=True)
    network, nic, _ = wire(left, right)
    nic.send(0, b"ping")
    assert 0 < len(right.got) < 3000, "the loop gets its turn"
    scheduler = network.scheduler
    assert isinstance(scheduler, FakeScheduler)
    scheduler.run_soon()
    assert left.room == 0


def test_segments_count_against_frames_per_turn() -> None:
    """One that waited may be a thousand to a receiver that wants them whole."""
    headers = bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10)
    frame = headers + bytes(12) + b"\x50" + bytes(7) + bytes(1000)
    left, right = Port(), Port(room=0)
    network, nic, netdev = wire(left, right)
    for _ in range(20):
        nic.send(0, frame, encode(GSO_TCPV4, 1, 54, 34, 16))
    right.room = 1_000_000
    netdev.flush(0)
    assert 0 < len(right.got) <= 1000, "one frame's, or as many as the budget has of those cut already"
    scheduler = network.scheduler
    assert isinstance(scheduler, FakeScheduler)
    scheduler.run_soon()
    assert len(right.got) == 20_000


def test_waiting_frames_are_dropped_on_link_down_and_netdev_del() -> None:
    left, right = Port(), Port(room=0)
    network, nic, netdev = wire(left, right)
    nic.send(0, b"x")
    network.delete_netdev("net0", "test")
    assert left.resumed == 1
    assert netdev.dropped == 1
    right.room = 1
    netdev.flush(0)
    assert right.got == []


def test_announce_self_sends_rarp_only_on_link_that_is_up() -> None:
    from vnic.net.announce import AnnounceParameters

    right = Port()
    network, nic, _ = wire(Port(), right)
    scheduler = network.scheduler
    assert isinstance(scheduler, FakeScheduler)
    network.announce_self(AnnounceParameters(rounds=3))
    assert len(right.got) == 1
    assert len(right.got[0]) == 60
    assert right.got[0][12:22].hex() == "80350001080006040003"
    scheduler.advance(0.06)
    assert len(right.got) == 2
    scheduler.advance(10)
    assert len(right.got) == 3
    nic.hold(HoldKind.OPERATOR, "test", "pulled")
    network.announce_self(AnnounceParameters(rounds=1))
    assert len(right.got) == 3


def test_announce_delay_is_clamped_to_max() -> None:
    from vnic.net.announce import AnnounceParameters

    for initial in (-1000, 1000):
        right = Port()
        network, _, _ = wire(Port(), right)
        scheduler = network.scheduler
        assert isinstance(scheduler, FakeScheduler)
        network.announce_self(AnnounceParameters(initial=initial, max=300, rounds=2, step=0))
        scheduler.advance(0.29)
        assert len(right.got) == 1
        scheduler.advance(0.02)
        assert len(right.got) == 2


def test_info_network_text_equals_qemus() -> None:
    network, nic, _ = wire(Port(), Port())
    # As QEMU prints its model.
    nic.endpoint.info_text = lambda queue: "model=virtio-net-pci,macaddr=52:54:00:12:34:56"  # type: ignore[method-assign]
    network.add_netdev("lone", "stream", Port())
    assert network.info_network() == (
        "nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n"
        " \\ net0: index=0,type=stream,\n"
        "lone: index=0,type=stream,\n"
    )


def test_bytes_of_waiting_frames_are_bounded() -> None:
    _, nic, netdev = wire(Port(), Port(room=0))
    big = bytes(1 << 20)
    for _ in range(100):
        assert not nic.send(0, big)
    assert netdev.dropped == 100 - (QUEUE_LIMIT_BYTES >> 20)
    netdev.purge()
    assert netdev.dropped == 100
    assert not nic.send(0, big), "there is room for bytes again"
    assert netdev.dropped == 100


def test_hold_drops_waiting_frames_and_sender_continues() -> None:
    """A peer that did not read and then went must not leave a wire behind that waits for it for ever."""
    left, right = Port(), Port(room=0)
    _, nic, netdev = wire(left, right)
    assert not nic.send(0, b"1")
    netdev.hold(HoldKind.DISCONNECTED, "net0", "gone")
    assert (left.resumed, netdev.dropped) == (1, 1)
    right.room = 10
    netdev.release(HoldKind.DISCONNECTED, "net0", "back")
    assert nic.send(0, b"2")
    assert right.got == [b"2"]


class Quitter(Port):
    """Goes down while it is handed a frame, once it has a mind to."""

    leaves = True

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.leaves:
            self.client.hold(HoldKind.DISCONNECTED, "net0", "gone")
        return super().receive(queue, frame, offload)


def test_receiver_going_down_in_receive_keeps_no_frame() -> None:
    left, right = Port(), Quitter(room=0)
    _, nic, netdev = wire(left, right)
    assert nic.send(0, b"1"), "lost"
    netdev.release(HoldKind.DISCONNECTED, "net0", "back")
    right.leaves, right.room = False, 10
    assert nic.send(0, b"2")
    assert right.got == [b"2"]


def test_receiver_going_down_in_flush_keeps_no_frame() -> None:
    left, right = Port(), Quitter(room=0)
    right.leaves = False
    _, nic, netdev = wire(left, right)
    for frame in (b"1", b"2", b"3"):
        assert not nic.send(0, frame)
    right.leaves, right.room = True, 10
    netdev.flush(0)
    assert right.got == [b"1"]
    assert netdev.can_send(0)
    assert nic.can_send(0)
