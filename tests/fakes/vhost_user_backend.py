"""A vhost-user back-end for tests, correct or faulty: it disconnects, hangs, sends wrong values or floods on demand."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Callable

from vnic.protocol.vhost_user import messages as vu

HEADER = struct.Struct("<III")
FEATURES = (1 << 32) | (1 << 30) | (1 << 28) | (1 << 21) | (1 << 15) | (1 << 22) | 3
"""VERSION_1, PROTOCOL_FEATURES, INDIRECT_DESC, GUEST_ANNOUNCE, MRG_RXBUF, MQ, CSUM, GUEST_CSUM."""
PROTOCOL_FEATURES = vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU | vu.P_STATUS


class FakeBackend:
    """One back-end on a path. It listens there, or connects (`server=False`) with `connect`.

    `messages` are the names of all that came, over all connections. Before a message is answered, `hook(name)` may
    return bytes to send instead, or b"" to stay silent; `cut_at` closes the connection at that message.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, *, server: bool = True) -> None:
        self.loop = loop
        self.path = path
        self.features = FEATURES
        self.protocol_features = PROTOCOL_FEATURES
        self.pairs = 1
        self.cut_at: str | int | None = None
        self.hook: Callable[[str], bytes | None] = lambda name: None
        self.messages: list[str] = []
        self.payloads: list[tuple[str, bytes, int]] = []
        self.connections = 0
        self.base = 0
        self._listener: socket.socket | None = None
        self.sock: socket.socket | None = None
        self._data = b""
        self._fds: list[int] = []
        self._arrived = 0
        if server:
            self.listen()

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.setblocking(False)
        self.loop.add_reader(self._listener, self._accept)

    def connect(self) -> None:
        self.adopt(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), connect=True)

    def _accept(self) -> None:
        assert self._listener is not None
        self.adopt(self._listener.accept()[0])

    def adopt(self, sock: socket.socket, connect: bool = False) -> None:
        """Serve on a connected socket, or connect it first."""
        self.drop()
        if connect:
            sock.connect(self.path)
        sock.setblocking(False)
        self.sock = sock
        self.connections += 1
        self.loop.add_reader(sock, self._readable)

    def drop(self) -> None:
        """Close the connection, as a killed back-end does."""
        if self.sock is not None:
            self.loop.remove_reader(self.sock)
            self.sock.close()
            self.sock = None
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._data, self._arrived = b"", 0

    def close(self) -> None:
        """Die: the connection and the listening socket go, and its path with it."""
        self.drop()
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            os.unlink(self.path)

    def count(self, name: str) -> int:
        return self.messages.count(name)

    def last(self, name: str) -> bytes:
        """The payload of the newest message of that name."""
        return next(payload for told, payload, _ in reversed(self.payloads) if told == name)

    def _readable(self) -> None:
        assert self.sock is not None
        wanted = HEADER.size
        if len(self._data) >= HEADER.size:
            wanted += HEADER.unpack_from(self._data)[2]
        try:
            data, ancillary, _, _ = self.sock.recvmsg(wanted - len(self._data), socket.CMSG_LEN(4 * 16))
        except (BlockingIOError, ConnectionResetError):
            data, ancillary = b"", []
        if not data:
            self.drop()
            return
        fds = array.array("i")
        for _, _, passed in ancillary:
            fds.frombytes(passed)
        self._fds += fds
        self._arrived += len(fds)
        self._data += data
        if len(self._data) < HEADER.size:
            return
        number, flags, size = HEADER.unpack_from(self._data)
        if len(self._data) == HEADER.size + size:
            payload, self._data = self._data[HEADER.size :], b""
            arrived, self._arrived = self._arrived, 0
            self._message(number, flags, payload, arrived)

    def _message(self, number: int, flags: int, payload: bytes, fds: int) -> None:
        name = vu.request_name(number)
        self.messages.append(name)
        self.payloads.append((name, payload, fds))
        if self.cut_at in (name, len(self.messages)):
            self.drop()
            return
        instead = self.hook(name)
        if instead is not None:
            self.send(instead)
            return
        answer = self._answer(name, payload)
        if answer is None and flags & vu.FLAG_NEED_REPLY:
            answer = bytes(8)
        if answer is not None:
            self.reply(number, answer)

    def _answer(self, name: str, payload: bytes) -> bytes | None:
        if name == "GET_FEATURES":
            return self.features.to_bytes(8, "little")
        if name == "GET_PROTOCOL_FEATURES":
            return self.protocol_features.to_bytes(8, "little")
        if name == "GET_QUEUE_NUM":
            return self.pairs.to_bytes(8, "little")
        if name == "GET_VRING_BASE":
            return payload[:4] + self.base.to_bytes(4, "little")
        return None

    def reply(self, number: int, payload: bytes) -> None:
        self.send(HEADER.pack(number, 5, len(payload)) + payload)

    def send(self, data: bytes) -> None:
        if self.sock is not None and data:
            try:
                self.sock.send(data)
            except (BrokenPipeError, ConnectionResetError):
                self.drop()
