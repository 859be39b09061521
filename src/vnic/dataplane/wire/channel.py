"""The control channel to vnic-wire: a SEQPACKET socket in the loop, with requests and their replies in order.

`process` makes one for each start of the program. No call waits: requests that the socket does not take are queued, and
a program that does not read or answer is given up.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import (
    MAX_MESSAGE_BYTES,
    Event,
    PortAdd,
    Reply,
    Request,
    pack_request,
    parse_answer,
)
from vnic.dataplane.wire.tunnel_messages import SocketAdd
from vnic.descriptors import close_fds
from vnic.keep import NO_KEEP, Keep
from vnic.sockets.time_limit import TimeLimit

MESSAGES_PER_TURN: Final = 64
WAITING_MAX_BYTES: Final = 16 << 20
"""The most bytes of requests that wait for a program that does not read."""
WAITING_MAX_FDS: Final = 4096
SERIALS: Final = 0xFF_FFFF
"""The part of a serial that counts the requests; the rest tells those of this process from those of one before."""
LENDING: Final = (PortAdd, SocketAdd)
"""The requests that give descriptors away."""
UNCOMMITTED_FDS: Final = WAITING_MAX_FDS // 4
"""So many descriptors are not kept waiting for the end of a turn."""
ANSWER_TIMEOUT_S: Final = 10.0
"""The program answers in microseconds; the limit is for one that hangs."""

_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

Answered: TypeAlias = Callable[[Reply], None]


class ChannelUser(Protocol):
    def happened(self, event: Event) -> None:
        """An event of the program."""

    def channel_lost(self, reason: str) -> None:
        """The channel is closed. Called once, in a turn of its own, and not after `close`; no awaited reply will
        come."""


class Channel:
    """One connection, from the program's start to its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        user: ChannelUser,
        *,
        keep: Keep = NO_KEEP,
        serial: int = 0,
    ) -> None:
        """`serial`: of the last request on this socket, if there was one before."""
        self._loop = loop
        self._keep = keep
        self._uncommitted = False
        """A request waits until what it does is kept: nothing is sent before that."""
        self._sock = sock
        self._fd = sock.fileno()
        self._user = user
        self._serial = serial
        self._awaited: deque[tuple[int, Answered | None]] = deque()
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._waiting_bytes = self._waiting_fds = 0
        self._limit = TimeLimit(loop, self._too_late)
        self._failing = False
        self.closed = False
        sock.setblocking(False)
        loop.add_reader(self._fd, self._readable)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def backlog_bytes(self) -> int:
        """The bytes of requests that wait for the program to read."""
        return self._waiting_bytes

    # -- requests -----------------------------------------------------------------------------------------------

    def request(self, request: Request, fds: Sequence[int] = (), answered: Answered | None = None) -> None:
        """Send a request; `answered` gets its reply, unless the channel is lost before. The caller keeps `fds`.

        ValueError if the message is too long.
        """
        if self.closed or self._failing:
            return
        self._serial = self._serial & ~SERIALS | (self._serial + 1) & SERIALS
        data = pack_request(self._serial, request)
        if not self._awaited:
            self._limit.set(ANSWER_TIMEOUT_S)
        self._awaited.append((self._serial, answered))
        if self._keep.active and isinstance(request, LENDING):
            self._send_after_commit()
        if not self._waiting and not self._uncommitted and self._send(data, fds):
            return
        self._put_off(data, fds)

    def _send_after_commit(self) -> None:
        """A successor has to know of each descriptor that the program reads, and of a stream's memory."""
        if self._uncommitted and self._waiting_fds > UNCOMMITTED_FDS:
            self._commit()
        if not self._uncommitted:
            self._uncommitted = True
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        if self._uncommitted and not self.closed:
            self._keep.commit()
            self._uncommitted = False
            self._writable()
            if self._waiting and not self._failing:
                self._loop.add_writer(self._fd, self._writable)

    def _send(self, data: bytes, fds: Sequence[int]) -> bool:
        """False: the socket is full."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg((data,), rights, _SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._fail_later(error.strerror or str(error))
        return True

    def _put_off(self, data: bytes, fds: Sequence[int]) -> None:
        if (
            self._waiting_bytes + len(data) > WAITING_MAX_BYTES
            or self._waiting_fds + len(fds) > WAITING_MAX_FDS
        ):
            self._fail_later("it does not read its requests")
            return
        kept: list[int] = []
        try:
            kept.extend(map(os.dup, fds))
        except OSError as error:
            close_fds(kept)
            self._fail_later(error.strerror or str(error))
            return
        if not self._waiting and not self._uncommitted:
            self._loop.add_writer(self._fd, self._writable)
        self._waiting.append((data, kept))
        self._waiting_bytes += len(data)
        self._waiting_fds += len(kept)

    def _writable(self) -> None:
        while self._waiting and not self._failing and not self._uncommitted:
            data, fds = self._waiting[0]
            if not self._send(data, fds):
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._waiting_fds -= len(fds)
            close_fds(fds)
        self._loop.remove_writer(self._fd)

    # -- replies and events -------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                data = self._sock.recv(MAX_MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            if not data:
                self._lose("it ended")
                return
            try:
                self._take(parse_answer(data))
            except MessageError as error:
                self._lose(f"it sent an invalid message: {error}")
            if self.closed:
                return

    def _take(self, answer: Reply | Event) -> None:
        if not isinstance(answer, Reply):
            self._user.happened(answer)
            return
        if not self._awaited or self._awaited[0][0] != answer.serial:
            raise MessageError(f"a reply to request {answer.serial}, which is not the next")
        _, answered = self._awaited.popleft()
        self._watch_time()
        if answered is not None:
            answered(answer)

    def _watch_time(self) -> None:
        if self._awaited:
            self._limit.set(ANSWER_TIMEOUT_S)
        else:
            self._limit.clear()

    def _too_late(self) -> None:
        self._lose(f"it did not answer within {ANSWER_TIMEOUT_S:g} s")

    # -- the end ------------------------------------------------------------------------------------------------

    def _fail_later(self, reason: str) -> None:
        """Report an error of `request` in a turn of its own."""
        if not self._failing:
            self._failing = True
            self._loop.call_soon(self._lose, reason)

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._user.channel_lost(reason)

    def close(self) -> None:
        """End the connection, also for who keeps the socket for a successor: the program ends. No callback follows."""
        if self.closed:
            return
        self.closed = True
        self._limit.stop()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for _, fds in self._waiting:
            close_fds(fds)
        self._waiting.clear()
        self._awaited.clear()
