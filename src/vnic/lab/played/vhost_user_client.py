"""A vhost-user front-end for tests: it sends what UML, QEMU or testpmd would send.

It takes memory and rings from `vnic.lab.played.driver` and speaks over a `Wire`: straight into an engine, over a socket
that the test's own loop serves, or over one that another process serves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from vnic.lab.played.driver import DriverRing, NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend import BackendEngine
from vnic.virtio.features import EVENT_IDX

HEADER = struct.Struct("<III")


def turn(loop: asyncio.AbstractEventLoop, turns: int = 3) -> None:
    """Let everything happen in `loop` that is ready now."""
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


class Disconnected(Exception):
    """The other end closed the connection."""


class Wire(Protocol):
    """Carries bytes and descriptors to the device."""

    def send(self, data: bytes, fds: Sequence[int]) -> None: ...

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises Disconnected at the end of the stream."""

    def close(self) -> None: ...


class EngineWire:
    """Straight into an engine, in pieces of what it wants."""

    def __init__(self, engine: BackendEngine) -> None:
        self.engine = engine
        self.answered = b""

    def send(self, data: bytes, fds: Sequence[int]) -> None:
        passed = [os.dup(fd) for fd in fds]
        while data:
            size = self.engine.wanted
            self.answered += self.engine.feed(data[:size], passed)
            data, passed = data[size:], []

    def receive(self, size: int) -> bytes:
        assert len(self.answered) >= size, "no answer came"
        data, self.answered = self.answered[:size], self.answered[size:]
        return data

    def close(self) -> None:
        self.engine.close()
        self.engine.release()


class SocketWire:
    """A socket. With a `loop`, that loop (which serves the other end) runs while an answer is awaited."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.sock = sock
        self.loop = loop
        sock.settimeout(60.0 if loop is None else 0.0)

    @classmethod
    def connect(cls, path: str, loop: asyncio.AbstractEventLoop | None = None) -> SocketWire:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        if loop is not None:
            turn(loop)
        return cls(sock, loop)

    def send(self, data: bytes, fds: Sequence[int]) -> None:
        try:
            socket.send_fds(self.sock, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            raise Disconnected from None
        if self.loop is not None:
            turn(self.loop)

    def receive(self, size: int) -> bytes:
        data = b""
        for _ in range(10_000):
            try:
                part = self.sock.recv(size - len(data))
            except BlockingIOError:
                assert self.loop is not None
                turn(self.loop, 1)
                continue
            except ConnectionResetError:
                raise Disconnected from None
            if not part:
                raise Disconnected
            data += part
            if len(data) == size:
                return data
        raise AssertionError("no answer came")

    def closed(self) -> bool:
        """Whether the other end closed the connection; whatever it sent before is thrown away."""
        if self.loop is not None:
            turn(self.loop)
        try:
            while self.sock.recv(4096):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()
        if self.loop is not None:
            turn(self.loop)


ALL_PROTOCOL_FEATURES = (
    vu.P_MQ | vu.P_REPLY_ACK | vu.P_BACKEND_REQ | vu.P_CONFIG | vu.P_RESET_DEVICE | vu.P_CONFIGURE_MEM_SLOTS
)
UML_PROTOCOL_FEATURES = vu.P_REPLY_ACK | vu.P_BACKEND_REQ | vu.P_CONFIG
NEW_UML_PROTOCOL_FEATURES = UML_PROTOCOL_FEATURES | vu.P_MQ  # since Linux 6.13
QEMU_NETDEV_PROTOCOL_FEATURES = vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU | vu.P_BACKEND_REQ


class VhostUserClient:
    """One connection of a front-end whose guest runs `driver` in `memory`."""

    def __init__(self, wire: Wire, memory: FakeGuestMemory, driver: NetDriver) -> None:
        self.wire = wire
        self.memory = memory
        self.driver = driver
        self.protocol_features = 0
        self.features = 0
        self.requests: socket.socket | None = None

    def close(self) -> None:
        self.wire.close()
        if self.requests is not None:
            self.requests.close()
            self.requests = None

    # --- messages --------------------------------------------------------------------------------------------

    def send(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        """Send a request that is not answered."""
        self.wire.send(HEADER.pack(number, 1 | flags, len(payload)) + payload, fds)

    def ask(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> bytes:
        """Send a request and return the payload of its answer."""
        self.send(number, payload, fds, flags)
        answered, reply_flags, size = HEADER.unpack(self.wire.receive(HEADER.size))
        assert (answered, reply_flags) == (number, 5), (
            "an answer repeats its request, as version 1, as a reply"
        )
        return self.wire.receive(size)

    def ask_u64(self, number: int) -> int:
        return int.from_bytes(self.ask(number), "little")

    def acked(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send a request that asks for an acknowledgement; 0 means that it was done."""
        return int.from_bytes(self.ask(number, payload, fds, vu.FLAG_NEED_REPLY), "little")

    def send_u64(self, number: int, value: int, fds: Sequence[int] = ()) -> None:
        self.send(number, value.to_bytes(8, "little"), fds)

    def send_state(self, number: int, index: int, value: int) -> None:
        self.send(number, struct.pack("<II", index, value))

    # --- what a front-end does ---------------------------------------------------------------------------------

    def negotiate(self, protocol_features: int = ALL_PROTOCOL_FEATURES, features: int | None = None) -> None:
        """Features as UML does it; all virtio features that are offered, unless told."""
        self.send(vu.SET_OWNER)
        offered = self.ask_u64(vu.GET_FEATURES)
        self.protocol_features = protocol_features & self.ask_u64(vu.GET_PROTOCOL_FEATURES)
        self.send_u64(vu.SET_PROTOCOL_FEATURES, self.protocol_features)
        if self.protocol_features & vu.P_BACKEND_REQ:
            self.open_requests()
        self.features = offered if features is None else features
        self.send_u64(vu.SET_FEATURES, self.features)

    def open_requests(self) -> None:
        """Pass the channel for back-end requests: a socketpair, as UML and QEMU do."""
        ours, theirs = socket.socketpair()
        if self.requests is not None:
            self.requests.close()
        self.requests = ours
        ours.setblocking(False)
        self.send(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()

    def region(self) -> bytes:
        memory = self.memory
        assert memory.user_addr is not None
        return struct.pack("<QQQQ", memory.guest_addr, memory.size, memory.user_addr, memory.fd_offset)

    def set_memory(self) -> None:
        self.send(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + self.region(), [self.memory.fd])

    def set_up_ring(self, ring: DriverRing, base: int = 0) -> None:
        """Everything of a ring but its kick, in UML's order."""
        ring.event_idx = bool(self.features & EVENT_IDX)
        self.send_u64(vu.SET_VRING_CALL, ring.index, [ring.call_fd])
        self.send_state(vu.SET_VRING_NUM, ring.index, ring.size)
        self.send_state(vu.SET_VRING_BASE, ring.index, base)
        self.send(vu.SET_VRING_ADDR, self.addresses(ring))

    def addresses(self, ring: DriverRing) -> bytes:
        user = self.memory.to_user
        log = 0xFFFF_FFFF_FFFF_FFFF  # as UML
        return struct.pack("<IIQQQQ", ring.index, 0, user(ring.desc), user(ring.used), user(ring.avail), log)

    def start_ring(self, ring: DriverRing, base: int = 0) -> None:
        self.set_up_ring(ring, base)
        self.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
        self.enable(ring)

    def enable(self, ring: DriverRing, enabled: bool = True) -> None:
        self.send_state(vu.SET_VRING_ENABLE, ring.index, int(enabled))

    def start_rings(self, rings: Sequence[DriverRing] | None = None) -> None:
        for ring in self.driver.rings if rings is None else rings:
            self.start_ring(ring)

    def start(self, protocol_features: int = ALL_PROTOCOL_FEATURES, features: int | None = None) -> None:
        """All steps up to a running driver."""
        self.negotiate(protocol_features, features)
        self.set_memory()
        self.start_rings()

    def stop_ring(self, ring: DriverRing) -> int:
        """GET_VRING_BASE; the base."""
        index, base = struct.unpack("<II", self.ask(vu.GET_VRING_BASE, struct.pack("<II", ring.index, 0)))
        assert index == ring.index
        return int(base)

    def read_config(self, offset: int, size: int) -> bytes:
        """As UML: always from 0, and the bytes asked for come along as zeros."""
        end = offset + size
        answer = self.ask(vu.GET_CONFIG, struct.pack("<III", 0, end, 0) + bytes(end))
        assert struct.unpack_from("<III", answer) == (0, end, 0)
        assert len(answer) == 12 + end
        return answer[12 + offset :]

    def link_up(self) -> bool:
        """Read the status of a virtio-net device."""
        return bool(self.read_config(6, 2)[0] & 1)

    def config_changes(self) -> int:
        """How many CONFIG_CHANGE messages came since the last look."""
        assert self.requests is not None
        data = b""
        while True:
            try:
                part = self.requests.recv(4096)
            except BlockingIOError:
                break
            if not part:
                break
            data += part
        message = HEADER.pack(vu.BACKEND_CONFIG_CHANGE, 1, 0)
        assert data == message * (len(data) // len(message))
        return len(data) // len(message)
