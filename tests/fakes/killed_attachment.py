"""A control that is killed at random while it serves a vhost-user client, and its successors.

Run as `python -m tests.fakes.killed_attachment KIND KILLS SEED`, in a process of its own, since it forks: this process
is the keeper, one child plays the client with its guest, and each of the others is a control. KIND is `device` for a
client that reads the link from the device, or `socket` for one that sees it by the socket. It prints one line of JSON,
see `Result`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec
from tests.fakes.keeper import FakeKeeper
from tests.fakes.kept_nic import KeptNic
from tests.fakes.loops import open_fds

from vnic.attach.vhost_user.attachment import VhostUserAttachmentRecord
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import (
    HEADER,
    QEMU_NETDEV_PROTOCOL_FEATURES,
    UML_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.net.client import Endpoint
from vnic.net.client_record import NetClientRecord
from vnic.net.queue import Frame
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.protocol.vhost_user import messages as vu
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier

PATIENCE_S: Final = 20.0
TRACED: Final = (
    *(
        "sockets/kept_connection.py",
        "attach/attachment.py",
        "vhost_user/attachment.py",
        "vhost_user/session.py",
    ),
    *("protocol/vhost_user/backend.py", "virtio_net/control.py", "state/keep.py"),
)
LAST_ROUNDS: Final = 10
"""After the last kill."""
LINES: Final = 2500
"""More than one of them runs from the start of a control to its second message."""
LIVES_S: Final = (0.001, 0.003, 0.01, 0.02)
ORDER, UP, DONE, FAULTS, READY, OPEN, STOP = range(7)
"""The words of the shared memory: the number of an order about the link, what it says, the number of the last one that
is carried out and saved, how many exceptions have escaped from controls, the pid of one that serves, the most
descriptors that one had, and whether the client may end."""


class Result(msgspec.Struct):
    """What came of it."""

    kills: int
    rounds: int
    wrong: list[str]
    """Of the client's; it stops at the first."""
    faults: int
    descriptors: int
    """The most that the keeper held."""
    left: int
    """Those that it holds after the end of the client."""
    open: int
    """The most that a control had."""


class Wrong(Exception):
    """The client got something else than it should."""


class Echo(Endpoint):
    """Sends each frame back."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.client.send(queue, bytes(frame))
        return True


# -- a control ------------------------------------------------------------------------------------------------------


def die_at(line: int) -> None:
    """Have this process killed before that line of the code about messages and rings, counted from now."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def control(
    address: str, files: list[tuple[str, int]], path: str, shared: memoryview, line: int | None
) -> None:
    if line is not None:
        die_at(line)
    loop = asyncio.new_event_loop()

    def escaped(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        shared[FAULTS] += 1
        print(context, file=sys.stderr)

    loop.set_exception_handler(escaped)
    nic = KeptNic(loop, StoredKeep(Notifier(address), files, loop.call_soon), path, far=Echo())
    if nic.anew and files:
        shared[FAULTS] += 1

    def obey() -> None:
        order = shared[ORDER]
        if order != shared[DONE]:
            nic.set_link(bool(shared[UP]))
            shared[DONE] = order
            shared[OPEN] = max(shared[OPEN], open_fds())
        loop.call_later(0.0003, obey)

    obey()
    shared[READY] = os.getpid()
    loop.run_forever()


# -- the client -----------------------------------------------------------------------------------------------------


class Client:
    """A front-end with its guest; every step checks what comes back."""

    def __init__(self, by_socket: bool, path: str, shared: memoryview, seed: int) -> None:
        self.by_socket = by_socket
        self.path = path
        self.shared = shared
        self.random = random.Random(seed)
        self.memory = FakeGuestMemory(16 << 20)
        self.driver = NetDriver(self.memory)
        self.up = True
        self.client = self.connect()

    def connect(self) -> VhostUserClient:
        end = time.monotonic() + PATIENCE_S
        for ring in self.driver.rings:
            ring.restart()
        while True:
            try:
                wire = SocketWire.connect(self.path)
                wire.sock.settimeout(PATIENCE_S)
                client = VhostUserClient(wire, self.memory, self.driver)
                client.start(QEMU_NETDEV_PROTOCOL_FEATURES if self.by_socket else UML_PROTOCOL_FEATURES)
                client.ask(vu.GET_QUEUE_NUM)
            except (OSError, Disconnected):
                if time.monotonic() > end:
                    raise Wrong("it could not connect again") from None
                time.sleep(0.001)
            else:
                self.driver.fill_rx(64)
                return client

    @property
    def sock(self) -> socket.socket:
        assert isinstance(self.client.wire, SocketWire)
        return self.client.wire.sock

    def play(self) -> None:
        steps = [self.pipeline, self.pipeline, self.cut, self.restart_ring, self.transmit, self.memory_again]
        steps += [self.link_by_socket] if self.by_socket else [self.link_by_device, self.command]
        self.random.choice(steps)()
        if select.select([self.sock], [], [], 0)[0]:
            more = self.sock.recv(1, socket.MSG_PEEK)
            raise Wrong("an answer came twice" if more else "the connection was closed")

    # -- messages -----------------------------------------------------------------------------------------------

    def message(self) -> tuple[bytes, list[int], int]:
        """Any message that changes nothing in effect, its descriptors, and the bytes of its answer."""
        ring = self.random.choice(self.driver.rings[:2])
        number = self.random.choice(
            [
                *(vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM, vu.SET_VRING_ENABLE),
                *(vu.SET_OWNER, vu.SET_VRING_CALL, vu.SET_VRING_ERR, vu.GET_CONFIG),
            ]
        )
        payload, fds, answer = b"", [], 8
        flags = vu.FLAG_NEED_REPLY if self.random.random() < 0.5 else 0
        if number == vu.SET_VRING_ENABLE:
            payload = vu.VRING_STATE.pack(ring.index, 1)
        elif number in (vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            payload, fds = vu.U64.pack(ring.index), [ring.call_fd]
        elif number == vu.GET_CONFIG:
            payload = vu.CONFIG.pack(0, 8, 0) + bytes(8)
            answer = len(payload)
        if not (flags or vu.REQUESTS[number].replies):
            answer = 0
        data = HEADER.pack(number, 1 | flags, len(payload)) + payload
        return data, fds, answer

    def pipeline(self) -> None:
        """Several messages before the first answer."""
        messages = [self.message() for _ in range(self.random.randint(1, 6))]
        for data, fds, _ in messages:
            socket.send_fds(self.sock, [data], fds)
        self.answers(messages)

    def cut(self) -> None:
        """A message in two pieces."""
        message = data, fds, _ = self.message()
        at = self.random.randrange(1, len(data))
        socket.send_fds(self.sock, [data[:at]], fds)
        time.sleep(self.random.random() * 0.004)
        self.sock.sendall(data[at:])
        self.answers([message])

    def answers(self, messages: list[tuple[bytes, list[int], int]]) -> None:
        for data, _, size in messages:
            if not size:
                continue
            number, _, _ = HEADER.unpack_from(data)
            answer = self.client.wire.receive(HEADER.size + size)
            if HEADER.unpack_from(answer) != (number, 5, size):
                raise Wrong(f"{answer!r} for {data!r}")

    def memory_again(self) -> None:
        """The same table once more, with its descriptor; rings that run must stay where they are."""
        table = vu.MEM_TABLE.pack(1, 0) + self.client.region()
        if self.client.acked(vu.SET_MEM_TABLE, table, [self.memory.fd]):
            raise Wrong("the memory table is refused")

    def restart_ring(self) -> None:
        ring = self.driver.rings[1]
        self.settle(1)
        base = self.client.stop_ring(ring)
        if base != ring.avail_idx & 0xFFFF:
            raise Wrong(f"ring 1 stopped at {base}, not {ring.avail_idx}")
        self.client.start_ring(ring, base)

    # -- rings --------------------------------------------------------------------------------------------------

    def settle(self, index: int) -> None:
        """Until the device has used all that is available: it interrupts, so that nothing is polled."""
        ring = self.driver.rings[index]
        end = time.monotonic() + PATIENCE_S
        while ring.used_idx != ring.avail_idx & 0xFFFF:
            left = end - time.monotonic()
            if left < 0 or not select.select([ring.call_fd], [], [], left)[0]:
                raise Wrong(f"ring {index}: a kick or an interrupt was lost")
            ring.calls()
        ring.take_used()

    def transmit(self) -> None:
        for number in range(self.random.randint(1, 4)):
            self.driver.queue_tx(bytes([number]) * 60)
        self.driver.rings[1].publish()
        self.settle(1)
        received = len(self.driver.received())
        self.driver.fill_rx(received)

    def command(self) -> None:
        ring = self.driver.rings[2]
        out, answer = self.memory.alloc(3), self.memory.alloc(1)
        self.memory.write(out, bytes((0, 1, self.random.randint(0, 1))))
        self.memory.write(answer, b"\xff")
        ring.add([(out, 3)], [(answer, 1)])
        ring.publish()
        self.settle(2)
        if self.memory.read(answer, 1) != b"\0":
            raise Wrong("a command was refused")

    # -- the link -----------------------------------------------------------------------------------------------

    def order(self, up: bool) -> None:
        """As a monitor's client: until it has the reply."""
        self.shared[UP] = up
        self.shared[ORDER] += 1
        self.until(lambda: self.shared[DONE] == self.shared[ORDER], "an order was not carried out")
        self.up = up

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise Wrong(what)
            time.sleep(0.0005)

    def link_by_device(self) -> None:
        before = self.client.link_up()
        if before is not self.up:
            raise Wrong("the link changed without an order")
        self.client.config_changes()
        self.order(not self.up)
        self.until(self.client.config_changes, "a change was not told")
        if self.client.link_up() is not self.up:
            raise Wrong("the device does not show the change that it told")

    def link_by_socket(self) -> None:
        self.order(False)
        try:
            self.client.wire.receive(1)
        except Disconnected:
            pass
        except TimeoutError:
            raise Wrong("the connection stays open while the link is down") from None
        self.client.close()
        try:
            SocketWire.connect(self.path).sock.close()
        except OSError:
            pass
        else:
            raise Wrong("a client is taken while the link is down")
        self.order(True)
        self.client = self.connect()


def client(by_socket: bool, path: str, shared: memoryview, seed: int, result: int) -> None:
    wrong: list[str] = []
    done = 0
    try:
        played = Client(by_socket, path, shared, seed)
        last = 0
        while last < LAST_ROUNDS:
            played.play()
            done += 1
            last += shared[STOP]
    except (Wrong, Disconnected, OSError, AssertionError) as error:
        wrong.append(f"after {done} rounds: {type(error).__name__}: {error}")
    os.write(result, msgspec.json.encode((done, wrong)))


# -- the keeper -----------------------------------------------------------------------------------------------------


class Keeper:
    def __init__(self, path: str, shared: memoryview) -> None:
        self.path = path
        self.shared = shared
        self.keeper = FakeKeeper()
        self.pid = 0
        self.descriptors = 0

    def start(self, line: int | None = None) -> None:
        files = self.keeper.passed()
        self.pid = os.fork()
        if not self.pid:
            try:
                control(self.keeper.address, files, self.path, self.shared, line)
            finally:
                os._exit(1)
        for _, fd in files:
            os.close(fd)

    def kill(self) -> None:
        """Unless it was."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "the control has failed"
        self.keeper.read()
        self.descriptors = max(self.descriptors, len(self.keeper.files))

    def settle(self) -> int:
        """What it still holds when the last client has gone: state, socket and lock, it should be."""
        end = time.monotonic() + PATIENCE_S
        while len(self.keeper.files) > 3 and time.monotonic() < end:
            self.keeper.read()
            time.sleep(0.001)
        return len(self.keeper.files)

    def until_ready(self, result: int) -> None:
        """Or until it is dead."""
        end = time.monotonic() + PATIENCE_S
        while self.shared[READY] != self.pid and time.monotonic() < end:
            self.serve(0.0, result)
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return

    def serve(self, seconds: float, result: int) -> bool:
        """Whether the client has ended."""
        end = time.monotonic() + seconds
        while True:
            self.keeper.read()
            if select.select([result], [], [], 0.0002)[0]:
                return True
            if time.monotonic() > end:
                return False


def warm_up() -> None:
    """Have msgspec build its decoders here once, and not in each control."""
    for kind in (VhostUserAttachmentRecord, VirtioNetRecord, NetClientRecord):
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.json.decode(b"0", type=kind)


def main(kind: str, kills: int, seed: int) -> None:
    logging.disable(logging.INFO)
    warm_up()
    shared = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    shared[UP] = 1
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(str(Path(folder) / "nic0.sock"), shared)
        result, writer = os.pipe()
        guest = os.fork()
        if not guest:
            try:
                client(kind == "socket", keeper.path, shared, seed, writer)
            finally:
                os._exit(0)
        os.close(writer)
        chance = random.Random(seed)
        keeper.start()
        keeper.until_ready(result)
        for _ in range(kills):
            if keeper.serve(chance.choice(LIVES_S) * chance.random(), result):
                break  # the client gave up
            keeper.kill()
            keeper.serve(0.003 * chance.random(), result)
            by_line = chance.random() < 0.5
            keeper.start(chance.randrange(1, LINES) if by_line else None)
            if by_line or chance.random() < 0.9:  # the others may be killed while they restore
                keeper.until_ready(result)
        keeper.kill()
        keeper.start()
        shared[STOP] = 1
        keeper.serve(PATIENCE_S * LAST_ROUNDS, result)
        done, wrong = msgspec.json.decode(os.read(result, 1 << 16), type=tuple[int, list[str]])
        os.waitpid(guest, 0)
        left = keeper.settle()
        keeper.kill()
        keeper.keeper.close()
    print(
        msgspec.json.encode(
            Result(kills, done, wrong, shared[FAULTS], keeper.descriptors, left, shared[OPEN])
        ).decode()
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
