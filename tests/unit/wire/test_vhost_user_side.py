"""vnic-wire as a vhost-user back-end: what a front-end may send, and what becomes of one that may not."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest
from tests.fakes.loops import open_fds
from tests.fakes.wire_program import ALL_FEATURES, PLAIN, WireGuest, WireProgram, frame, until

from vnic.dataplane.wire.messages import Log, PortLost
from vnic.lab.played.vhost_user_client import Disconnected
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.frontend import FrontendEngine, SharedRegion
from vnic.protocol.vhost_user.frontend_record import SharedRing
from vnic.protocol.vhost_user.messages import ProtocolError


def test_offers_all_that_the_device_may_negotiate(program: Path) -> None:
    with WireProgram(program) as wire:
        client = wire.guest(1, pairs=4).client
        assert client.ask_u64(vu.GET_FEATURES) == ALL_FEATURES
        assert client.ask_u64(vu.GET_QUEUE_NUM) == 4
        offered = client.ask_u64(vu.GET_PROTOCOL_FEATURES)
        assert offered == vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU


class Control:
    """vnic's own engine at the other end of the socket."""

    def __init__(self, guest: WireGuest) -> None:
        self.guest = guest
        self.sock: socket.socket = guest.client.wire.sock  # type: ignore[attr-defined]
        self.bases: dict[int, int] = {}
        self.engine = FrontendEngine(self._send, guest.pairs, lambda: None, self.bases.update)

    def _send(self, data: bytes, fds: object) -> None:
        socket.send_fds(self.sock, [data], list(fds))  # type: ignore[call-overload]

    def until_answered(self) -> None:
        while self.engine.awaited is not None:
            self.engine.feed(self.sock.recv(self.engine.wanted))

    def start(self, features: int) -> None:
        self.engine.begin()
        self.until_answered()
        memory = self.guest.memory
        region = SharedRegion(memory.guest_addr, memory.size, memory.fd, memory.fd_offset)
        rings = []
        for index in self.guest.data_rings:
            ring = self.guest.driver.rings[index]
            rings.append(
                SharedRing(index, ring.size, 0, ring.desc, ring.avail, ring.used, ring.kick_fd, ring.call_fd)
            )
        self.engine.start(features, [region], rings, mtu=1500)
        self.until_answered()


def test_takes_and_returns_rings_of_vnics_front_end(program: Path) -> None:
    with WireProgram(program) as wire:
        guests = [wire.guest(number, pairs=2) for number in (1, 2)]
        controls = [Control(guest) for guest in guests]
        for control in controls:
            control.start(PLAIN & ~vu.F_PROTOCOL_FEATURES)
        wire.wire(1, 1, 2)
        guests[1].driver.fill_rx(4, 1)
        guests[0].send(frame(1), pair=1)
        assert guests[1].receive(1, 1) == [frame(1)]
        controls[0].engine.stop()
        controls[0].until_answered()
        assert controls[0].bases == {0: 0, 1: 0, 2: 0, 3: 1}
        controls[0].engine.send_rarp(bytes.fromhex("525400000001"))
        controls[0].until_answered()


def test_announcement_is_a_rarp_packet_into_the_wire(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(1)
        mac = bytes.fromhex("525400000001")
        assert one.client.acked(vu.SEND_RARP, mac.ljust(8, b"\0")) == 0
        (packet,) = two.receive(1)
        head = b"\xff" * 6 + mac + bytes.fromhex("8035 0001 0800 06 04 0003")
        assert packet == (head + mac + bytes(4) + mac + bytes(4)).ljust(60, b"\0")


def test_without_protocol_features_rings_are_enabled_by_themselves(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.guest(1), wire.started_guest(2)
        one.client.send_u64(vu.SET_FEATURES, PLAIN & ~vu.F_PROTOCOL_FEATURES)
        one.client.set_memory()
        for ring in one.driver.rings[:2]:
            one.client.set_up_ring(ring)
            one.client.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
        one.sync()
        wire.wire(1, 1, 2)
        one.driver.fill_rx(1)
        two.send(frame(1))
        assert one.receive(1) == [frame(1)]


def state(index: int, number: int) -> bytes:
    return struct.pack("<II", index, number)


@pytest.mark.parametrize(
    ("number", "payload", "text"),
    [
        (99, b"", "request 99, which is not known"),
        (vu.SET_FEATURES, bytes(4), "request 2 with a payload of 4 bytes"),
        (
            vu.SET_FEATURES,
            (1 << 60).to_bytes(8, "little"),
            "features 0x1000000000000000 that are not offered",
        ),
        (vu.SET_VRING_NUM, state(2, 256), "request 8 for ring 2, of 2"),
        (vu.SET_VRING_NUM, state(0, 3), "a size of 3 for ring 0"),
        (vu.SET_VRING_NUM, state(0, 0), "a size of 0 for ring 0"),
        (vu.SET_VRING_NUM, state(0, 65536), "a size of 65536 for ring 0"),
        (vu.SET_VRING_BASE, state(0, 65536), "a base of 65536"),
        (
            vu.SET_VRING_KICK,
            (1 << 8).to_bytes(8, "little"),
            "ring 0 without a kick descriptor: rings are not polled",
        ),
        (vu.SET_VRING_KICK, bytes(8), "request 12 with 0 descriptors"),
        (vu.SET_MEM_TABLE, state(0, 0), "a memory table of 0 regions in 8 bytes"),
        (vu.SET_MEM_TABLE, state(9, 0), "a memory table of 9 regions in 8 bytes"),
        (vu.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 1, 0, 0, 0, 0), "dirty logging, which is not offered"),
        (vu.SET_FEATURES, bytes(300), "a message of another version, or one that is too long"),
    ],
)
def test_violation_ends_the_port_and_is_told(program: Path, number: int, payload: bytes, text: str) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(1)
        one.client.send(number, payload)
        assert wire.await_event(lambda event: isinstance(event, PortLost)) == PortLost(1, errno.EPROTO)
        told = wire.await_event(lambda event: isinstance(event, Log))
        assert isinstance(told, Log)
        assert told.text == f"port 1: the front-end sent {text}"
        one.send(frame(1))
        two.sync()
        assert one.driver.rings[1].used_idx == 0, "its rings rest"
        wire.remove(1)


def test_wrong_version_ends_the_port(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.guest(1)
        one.client.wire.send(struct.pack("<III", vu.GET_FEATURES, 2, 0), [])
        assert wire.await_event(lambda event: isinstance(event, PortLost)) == PortLost(1, errno.EPROTO)


def test_refusal_is_acknowledged_where_that_was_asked_for(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.guest(1)
        one.client.negotiate(features=PLAIN)
        assert one.client.acked(vu.SET_VRING_NUM, state(0, 3)) == 1
        assert one.client.acked(vu.SET_VRING_NUM, state(0, 4)) == 0
        region = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, 1 << 30, 0, 0)
        assert one.client.acked(vu.SET_MEM_TABLE, region, [one.memory.fd]) == 1, "longer than its file"
        region = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, 0, 0, 0)
        assert one.client.acked(vu.SET_MEM_TABLE, region, [one.memory.fd]) == 1
        row = struct.pack("<QQQQ", 0, 8192, 0, 0) + struct.pack("<QQQQ", 4096, 8192, 1 << 20, 0)
        overlapping = struct.pack("<II", 2, 0) + row
        assert one.client.acked(vu.SET_MEM_TABLE, overlapping, [one.memory.fd] * 2) == 1
        one.client.set_memory()
        one.client.send_u64(vu.SET_VRING_KICK, 0, [one.driver.rings[0].kick_fd])
        outside = struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0)
        assert one.client.acked(vu.SET_VRING_ADDR, outside) == 1
        ring = one.driver.rings[0]
        user = one.memory.to_user
        crooked = struct.pack("<IIQQQQ", 0, 0, user(ring.desc) + 8, user(ring.used), user(ring.avail), 0)
        assert one.client.acked(vu.SET_VRING_ADDR, crooked) == 1
        assert one.client.acked(vu.SET_VRING_ADDR, one.client.addresses(ring)) == 0


def test_memory_in_several_regions(program: Path) -> None:
    """A buffer that reaches over the border of two regions side by side is whole to the guest."""
    with WireProgram(program) as wire:
        one, two = wire.guest(1), wire.started_guest(2)
        memory = one.memory
        half = memory.size // 2
        assert memory.user_addr is not None
        rows = [
            struct.pack("<QQQQ", memory.guest_addr, half, memory.user_addr, 0),
            struct.pack("<QQQQ", memory.guest_addr + half, half, memory.user_addr + half, half),
        ]
        one.client.negotiate(features=PLAIN)
        one.client.send(vu.SET_MEM_TABLE, struct.pack("<II", 2, 0) + b"".join(rows), [memory.fd] * 2)
        for ring in one.driver.rings[:2]:
            one.client.start_ring(ring)
        one.sync()
        wire.wire(1, 1, 2)
        border = memory.guest_addr + half
        memory.write(border - 30, bytes(12) + frame(1, 100))
        one.driver.rings[1].add([(border - 30, 112)])
        one.driver.rings[1].publish()
        two.driver.fill_rx(1)
        assert two.receive(1) == [frame(1, 100)]
        one.driver.rings[0].add([], [(border - 40, 200)])
        one.driver.rings[0].publish()
        two.send(frame(2, 150))
        until(lambda: one.driver.rings[0].used_idx == 1)
        assert memory.read(border - 40 + 12, 150) == frame(2, 150)


def test_messages_in_pieces_and_together(program: Path) -> None:
    with WireProgram(program) as wire:
        client = wire.guest(1).client
        data = vu.encode(vu.SET_OWNER) + vu.encode(vu.GET_FEATURES) + vu.encode(vu.GET_QUEUE_NUM)
        for at in range(len(data)):
            client.wire.send(data[at : at + 1], [])
        client.wire.send(data, [])
        for _ in range(2):
            assert client.wire.receive(20)[12:] == ALL_FEATURES.to_bytes(8, "little")
            assert client.wire.receive(20)[12:] == (1).to_bytes(8, "little")


def test_surplus_descriptors_end_the_port_and_are_closed(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.guest(1)
        one.sync()
        before = open_fds(wire.child.pid)
        pipes = os.pipe()
        one.client.send(vu.SET_OWNER, fds=pipes)
        for fd in pipes:
            os.close(fd)
        assert wire.await_event(lambda event: isinstance(event, PortLost)) == PortLost(1, errno.EPROTO)
        wire.remove(1)
        assert open_fds(wire.child.pid) == before - 1
        with pytest.raises(Disconnected):
            one.client.wire.receive(1)


def test_kick_that_cannot_be_watched_is_refused(program: Path, tmp_path: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.guest(1)
        one.client.negotiate(features=PLAIN)
        one.client.set_memory()
        one.client.set_up_ring(one.driver.rings[1])
        with (tmp_path / "file").open("w") as file:
            payload = (1).to_bytes(8, "little")
            assert one.client.acked(vu.SET_VRING_KICK, payload, [file.fileno()]) == 1
        assert one.client.stop_ring(one.driver.rings[1]) == 0


def test_engine_refuses_features_that_are_not_there(program: Path) -> None:
    with WireProgram(program) as wire:
        control = Control(wire.guest(1))
        with pytest.raises(ProtocolError, match="the back-end refused SET_FEATURES"):
            control.start(1 << 34)
