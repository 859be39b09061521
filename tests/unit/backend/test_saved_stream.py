"""A stream that is saved and restored between any two events: no frame is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.fakes.loops import turn, until
from tests.unit.backend.helpers import MAC, Guest

from vnic.backend.base import BackendContext
from vnic.backend.framing import LENGTH, Deframer
from vnic.backend.options import StreamOptions
from vnic.backend.stream import StreamBackend, StreamHandles, StreamRecord
from vnic.net.client_record import NetClientRecord
from vnic.net.network import Network
from vnic.record import decode, encode
from vnic.sockets.address import FdAddress

BUFFER_BYTES = 4096


class AnyTime(RuleBasedStateMachine):
    """A guest and a far end send and read; a restart in between changes nothing for either."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        ours, self.far = socket.socketpair()
        for sock in (ours, self.far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.guest = Guest()
        self.from_guest: list[bytes] = []
        self.from_far: list[bytes] = []
        self.unsent = b""
        self.deframer = Deframer()
        self.read: list[bytes] = []
        self.backend = self.new_backend()
        self.plug(None, None, ours)

    def new_backend(self) -> StreamBackend:
        self.network = Network(self.loop)
        context = BackendContext(self.loop, self.network)
        return StreamBackend(context, StreamOptions(id="net0", addr=FdAddress(text="s")))

    def plug(self, record: bytes | None, clients: list[bytes] | None, sock: socket.socket) -> None:
        """Put the back-end between guest and far end: a new one, or one that is restored."""
        backend = self.backend

        def start() -> None:
            if record is None:
                backend._start_from_fd(sock)
            else:
                backend.restore(decode(StreamRecord, record), StreamHandles(None, sock))

        self.netdev = self.network.add_netdev("net0", "stream", backend, start=start)
        self.nic = self.network.add_nic("nic0", "x", self.guest, mac=MAC, netdev_id="net0")
        for client, each in zip((self.netdev, self.nic), clients or (), strict=False):
            client.restore(decode(NetClientRecord, each))

    @rule()
    def save_and_restore(self) -> None:
        before = self.backend
        record = encode(before.save())
        clients = [encode(client.save()) for client in (self.netdev, self.nic)]
        assert before.handles.connected is not None
        sock = before.handles.connected.dup()
        before.close_transport()  # this process's copy of the socket
        self.backend = self.new_backend()
        self.plug(record, clients, sock)

    @rule(size=st.integers(1, 3000), count=st.integers(1, 4))
    def far_writes_frames(self, size: int, count: int) -> None:
        for _ in range(count):
            frame = len(self.from_far).to_bytes(4, "big") + bytes(size)
            self.from_far.append(frame)
            self.unsent += LENGTH.pack(len(frame)) + frame

    @rule(size=st.sampled_from([1, 3, 100, 5000]))
    def far_sends(self, size: int) -> None:
        """A piece of what it has written."""
        if self.unsent:
            with suppress(BlockingIOError):
                self.unsent = self.unsent[self.far.send(self.unsent[:size]) :]

    @rule(size=st.sampled_from([1, 100, 5000]))
    def far_reads(self, size: int) -> None:
        with suppress(BlockingIOError):
            self.deframer.feed(self.far.recv(size))
        while (frame := self.deframer.next()) is not None:
            self.read.append(frame)

    @rule(size=st.sampled_from([1, 1000, 60_000]), count=st.integers(1, 12))
    def guest_sends(self, size: int, count: int) -> None:
        for _ in range(count):
            frame = len(self.from_guest).to_bytes(4, "big") + bytes(size)
            self.from_guest.append(frame)
            self.nic.send(0, frame)

    @rule(room=st.sampled_from([0, 1, 3]))
    def guest_has_room(self, room: int) -> None:
        self.guest.room = room
        if room:
            self.nic.flush(0)

    @rule(turns=st.integers(1, 3))
    def the_loop_runs(self, turns: int) -> None:
        turn(self.loop, turns)

    def teardown(self) -> None:
        """In the end all has arrived."""

        def all_came() -> bool:
            self.far_sends(1 << 20)
            self.far_reads(1 << 20)
            self.guest.make_room()
            self.nic.flush(0)
            return len(self.guest.got) == len(self.from_far) and len(self.read) == len(self.from_guest)

        try:
            until(self.loop, all_came)
            assert self.guest.got == self.from_far
            assert self.read == self.from_guest
            assert self.nic.link_up
        finally:
            self.network.close()
            self.far.close()
            turn(self.loop)
            self.loop.close()


AnyTime.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestStreamSavedAtAnyTime = AnyTime.TestCase
