"""vnic-wire as a child of a test, with control played by the test: requests that wait for their replies, and guests
behind vhost-user sockets."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import pytest
from tests.needs import need

from vnic.dataplane.wire.build import build
from vnic.dataplane.wire.messages import (
    ALL_PORTS,
    Event,
    FrameReturned,
    GetStats,
    Hello,
    Kind,
    PortAdd,
    PortRemove,
    Reply,
    Request,
    WireSet,
    pack_request,
    parse_answer,
)
from vnic.dataplane.wire.replies import HelloReply, PortStats, Stats
from vnic.dataplane.wire.stream_memory import StreamMemory
from vnic.lab.played.driver import DriverRing, NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.nic.virtio_net import features as net
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import EVENT_IDX, INDIRECT_DESC, VERSION_1

MAX_FRAME = 69632
PATIENCE_S = 60.0
PROTOCOL_FEATURES = vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU
ALL_FEATURES = net.OF_THE_RINGS | EVENT_IDX | vu.F_PROTOCOL_FEATURES
PLAIN = VERSION_1 | net.MRG_RXBUF | INDIRECT_DESC | vu.F_PROTOCOL_FEATURES
"""What most tests negotiate: no offloads, and no EVENT_IDX, which the played driver does not use by itself."""


def until(condition: Callable[[], object]) -> None:
    """Wait for another process. AssertionError when it takes too long."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        select.select([], [], [], 0.0005)


class Removed(NamedTuple):
    """What a removed port leaves: the state of a stream, or frames that it had read."""

    input: bytes
    output: bytes
    frames: list[FrameReturned]


class Refused(Exception):
    """The error and its text of a request."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.error, reply.data.decode())
        self.error = reply.error
        self.text = reply.data.decode()


class WireProgram:
    """The program, and the control channel to it. Leaving the context ends it, and fails if it was not well."""

    def __init__(self, program: Path, *, workers: int = 1, spin_us: int = 0, greet: bool = True) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_S)
        with theirs:  # the program wants it as descriptor 3
            command = ["sh", "-c", 'exec "$0" 3<&0 </dev/null', str(program)]
            self.child = subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE)
        self.events: list[Event] = []
        self.hello: HelloReply | None = None
        self.last: Reply | None = None
        self._serial = 0
        self._guests: list[WireGuest] = []
        self.memories: dict[int, StreamMemory] = {}
        """Of streams, by port."""
        if greet:
            self.hello = HelloReply.parse(self.request(Hello(workers=workers, spin_us=spin_us)))

    def __enter__(self) -> WireProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guest in self._guests:
            guest.close()
        for memory in self.memories.values():
            memory.close()
        self.sock.close()
        assert self.child.stderr is not None
        with self.child.stderr as pipe:
            try:
                code = self.child.wait(PATIENCE_S)
            finally:
                self.child.kill()
            text = pipe.read().decode(errors="replace")
        if error is None:
            assert (code, text) in ((0, ""), (-9, "")), text or code
        else:
            error.add_note(f"vnic-wire ended with {code}: {text}")

    # -- control --------------------------------------------------------------------------------------------------

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> Reply:
        """Send any message and return the reply."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)
        while True:
            answer = self._receive()
            if isinstance(answer, Reply):
                return answer
            self.events.append(answer)

    def _receive(self) -> Reply | Event:
        data = self.sock.recv(1 << 18)
        assert data, "vnic-wire has ended"
        return parse_answer(data)

    def request(self, request: Request, fds: Sequence[int] = ()) -> bytes:
        """Send a request and return its reply's data. Raises Refused."""
        self._serial += 1
        reply = self.last = self.send_raw(pack_request(self._serial, request), fds)
        assert reply.serial == self._serial
        if reply.error:
            raise Refused(reply)
        return reply.data

    def await_event(self, wanted: Callable[[Event], bool]) -> Event:
        """The first event of that kind, which is removed."""
        while True:
            for at, event in enumerate(self.events):
                if wanted(event):
                    return self.events.pop(at)
            answer = self._receive()
            assert not isinstance(answer, Reply)
            self.events.append(answer)

    def wire(self, number: int, *ports: int) -> None:
        self.request(WireSet(number, ports))

    def stats(self, port: int) -> PortStats:
        (found,) = Stats.parse(self.request(GetStats(port))).ports
        return found

    def all_stats(self, first: int = 0) -> list[int]:
        """The numbers of the ports."""
        return [each.port for each in Stats.parse(self.request(GetStats(ALL_PORTS, first))).ports]

    def new_memory(self, port: int, input: bytes = b"", output: bytes = b"") -> StreamMemory:
        """What a STREAM port is given with its socket."""
        before = self.memories.pop(port, None)
        if before is not None:
            before.close()
        memory = self.memories[port] = StreamMemory()
        memory.write(input, output)
        return memory

    def remove(self, port: int) -> Removed:
        assert self.request(PortRemove(port)) == b""
        frames = [event for event in self.events if isinstance(event, FrameReturned) and event.port == port]
        for event in frames:
            self.events.remove(event)
        memory = self.memories.pop(port, None)
        if memory is None:
            return Removed(b"", b"", frames)
        try:
            return Removed(*memory.read(), frames)
        finally:
            memory.close()

    def guest(self, port: int, *, max_frame: int = MAX_FRAME, **more: int) -> WireGuest:
        """A port whose guest is played here; it has no rings yet."""
        guest = WireGuest(self, port, max_frame=max_frame, **more)
        self._guests.append(guest)
        return guest

    def forget_guests(self) -> None:
        """They were closed by the test."""
        self._guests.clear()

    def started_guest(self, port: int, features: int = PLAIN, **more: int) -> WireGuest:
        guest = self.guest(port, **more)
        guest.start(features)
        return guest

    def joined(self, features: int = PLAIN, **more: int) -> tuple[WireGuest, WireGuest]:
        """Two guests with a cable between them."""
        pair = self.started_guest(1, features, **more), self.started_guest(2, features, **more)
        self.wire(1, 1, 2)
        return pair


class WireGuest:
    """One port of kind VHOST: memory, a driver, and the front-end's end of its socket."""

    def __init__(
        self,
        program: WireProgram,
        port: int,
        *,
        pairs: int = 1,
        size: int = 256,
        header_bytes: int = 12,
        rx_bytes: int = 1526,
        memory_bytes: int = 8 << 20,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self.program = program
        self.pairs = pairs
        self.memory = FakeGuestMemory(memory_bytes)
        self.driver = NetDriver(
            self.memory, pairs=pairs, size=size, header_bytes=header_bytes, rx_bytes=rx_bytes
        )
        self._max_frame = max_frame
        self.connect(port)

    def connect(self, port: int) -> None:
        """Make the port, after the one before was removed."""
        self.port = port
        ours, theirs = socket.socketpair()
        with theirs:
            request = PortAdd(port, Kind.VHOST, queues=self.pairs, max_frame=self._max_frame)
            self.program.request(request, [theirs.fileno()])
        self.client = VhostUserClient(SocketWire(ours), self.memory, self.driver)

    def close(self) -> None:
        self.client.close()
        self.driver.close()
        self.memory.close()

    @property
    def data_rings(self) -> list[int]:
        return list(range(2 * self.pairs))

    def start(self, features: int = PLAIN) -> None:
        """Hand the rings over."""
        self.client.negotiate(PROTOCOL_FEATURES, features)
        self.client.set_memory()
        for index in self.data_rings:
            self.client.start_ring(self.driver.rings[index])
        self.sync()

    def sync(self) -> None:
        """Everything that was sent has been done."""
        self.client.ask_u64(vu.GET_QUEUE_NUM)

    def take_back(self) -> list[int]:
        """GET_VRING_BASE of all rings."""
        return [self.client.stop_ring(self.driver.rings[index]) for index in self.data_rings]

    def send(self, *frames: bytes, pair: int = 0) -> None:
        self.driver.send(*frames, pair=pair)

    def receive(self, count: int, pair: int = 0) -> list[bytes]:
        """Wait for so many frames."""
        frames: list[bytes] = []

        def enough() -> bool:
            frames.extend(self.driver.received(pair))
            return len(frames) >= count

        until(enough)
        return frames


class Played(Protocol):
    """A guest's memory and its driver."""

    @property
    def memory(self) -> FakeGuestMemory: ...
    @property
    def driver(self) -> NetDriver: ...


class Sink:
    """Receives at one queue pair for as long as wanted: its buffers go back into the ring at once."""

    def __init__(
        self,
        guest: Played,
        buffers: int,
        size: int = 1526,
        pair: int = 0,
        publish: Callable[[DriverRing], object] = DriverRing.publish,
    ) -> None:
        self._publish = publish
        self._driver = guest.driver
        self._ring = guest.driver.rings[2 * pair]
        self._size = size
        self._by_head: dict[int, int] = {}
        self._merging = 0
        self.frames: list[bytes] = []
        for _ in range(buffers):
            self._offer(guest.memory.alloc(size))
        publish(self._ring)

    def _offer(self, address: int) -> None:
        self._by_head[self._ring.add([], [(address, self._size)])] = address

    def take(self) -> list[bytes]:
        """All frames so far, in order."""
        header = self._driver.header_bytes
        used = [(self._by_head.pop(head), written) for head, written in self._ring.take_used()]
        for address, written in used:
            part = self._driver.memory.read(address, written)
            if self._merging:
                self._merging -= 1
                self.frames[-1] += part
            else:
                self.frames.append(part[header:])
                if header == 12:
                    self._merging = int.from_bytes(part[10:12], "little") - 1
            self._offer(address)
        self._publish(self._ring)
        return self.frames


class Flow:
    """Sends numbered frames at one queue pair, as fast as the ring takes them."""

    def __init__(
        self,
        guest: Played,
        size: int = 64,
        pair: int = 0,
        publish: Callable[[DriverRing], object] = DriverRing.publish,
    ) -> None:
        self._publish = publish
        self._driver = guest.driver
        self._ring = guest.driver.rings[2 * pair + 1]
        self._pair = pair
        self._size = size
        self.sent = 0

    def push(self, most: int) -> None:
        """Send up to so many."""
        self._ring.take_used()
        for _ in range(min(most, self._ring.free)):
            self._driver.queue_tx(frame(self.sent, self._size), self._pair)
            self.sent += 1
        self._publish(self._ring)


def frame(number: int, size: int = 64) -> bytes:
    """A frame that can be told from others."""
    return bytes.fromhex("525400000002 525400000001 88b5") + number.to_bytes(4, "big").ljust(
        size - 14, b"\x5a"
    )


def build_sanitized(folder: Path, kind: str) -> Path:
    """Compile the program with these sanitizers of the compiler (`address,undefined` or `thread`), which fail it."""
    program = folder / "vnic-wire"
    flags = ["-g", "-O1", "-fno-omit-frame-pointer", f"-fsanitize={kind}", "-DNO_SANDBOX"]
    flags.append("-Wno-tsan" if kind == "thread" else "-fno-sanitize-recover=all")
    build(program, compiler=["cc"], flags=flags)
    return program


def built_program(factory: pytest.TempPathFactory, name: str = "vnic-wire", *flags: str) -> Path:
    """Compile the program once for all workers of a session. Skips the test where there is no compiler."""
    named = os.environ.get("VNIC_WIRE_TESTED")
    if named and not flags:
        return Path(named)
    need("cc", "exec-tmp")
    folder = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    program = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            sanitizer = os.environ.get("VNIC_WIRE_SANITIZER")
            if sanitizer and not flags:
                build_sanitized(folder, sanitizer)
            else:
                build(program, flags=("-static", *flags))
    return program
