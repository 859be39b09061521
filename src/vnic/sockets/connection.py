"""A connected stream socket in the loop that carries messages with descriptors.

The attachments and the vhost-user back-end use it; their engines find the message boundaries.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Container, Sequence
from typing import Annotated, Final, Protocol

import msgspec

from vnic.descriptors import (
    HARMLESS,
    Kind,
    close_fds,
    kind_of,
    mount_of,
)
from vnic.protocol.frames import FrameError
from vnic.quota import Holding, TooManyDescriptors
from vnic.record import U64, Record, require
from vnic.sockets import unblock

log = logging.getLogger(__name__)

PIECES_PER_TURN: Final = 32
TURN_S: Final = 0.002
"""The most reads, and the most time, that one connection gets before the loop serves the others."""

RECEIVE_FLAGS: Final = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_CUT_OFF: Final = int(socket.MSG_CTRUNC)
"""Plain numbers: an operator of socket.MsgFlag takes as long as a small system call."""

WAITING_MAX_MESSAGES: Final = 16_384
WAITING_MAX_FDS: Final = 512
"""The most bytes that may wait for a peer that does not read; a peer above the limit is disconnected. The start of 128
queue pairs, which is sent at once, stays below."""


def receive(
    sock: socket.socket,
    size: int,
    max_fds: int,
    owner: str = "",
    carries: Container[Kind] = HARMLESS,
    flags: int = RECEIVE_FLAGS,
) -> tuple[bytes, list[int]]:
    """Read one piece with its descriptors, which the caller owns; b"" at the end of the stream.

    Raises BlockingIOError and the other errors of recvmsg. Raises FrameError and closes all descriptors when some were
    cut off (MSG_CTRUNC), because the peer sent more than `max_fds` or this process can open no more, and when one is of
    a kind that a message does not `carries`. `owner` is the NIC that has to wait for their close.
    """
    # There is room for as many as a message can have: those that are cut off are closed by the kernel within this call,
    # and the close of a TCP socket waits as long as its SO_LINGER says.
    data, ancillary, result, _ = sock.recvmsg(size, unblock.FDS_ROOM, flags)
    if not ancillary and not result & _CUT_OFF:
        return data, []
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    try:
        if result & _CUT_OFF or len(fds) > max_fds:
            raise FrameError("descriptors were cut off: too many in one message, or no room for more")
        for fd in fds:
            what = kind_of(fd)
            if what not in carries:
                memory = (
                    "; memory has to be memfd, or files on tmpfs or hugetlbfs" if what is Kind.FILE else ""
                )
                raise FrameError(
                    f"{what.value} was passed{_where(fd, what)}, which no message carries{memory}"
                )
    except FrameError:
        for fd in fds:
            unblock.close(fd, owner)
        raise
    return data, fds.tolist()


def _where(fd: int, kind: Kind) -> str:
    """The path of a passed file, and how to end a close of it that blocks."""
    mount = mount_of(fd) if kind is Kind.FILE else None
    if mount is None:
        return ""
    if not mount.kind.startswith("fuse"):
        return f" (of {mount.kind})"
    end = f"/sys/fs/fuse/connections/{mount.device}/abort"
    return f" (of {mount.kind}; 'echo 1 > {end}' ends a close that hangs)"


def peer_has_closed(sock: socket.socket) -> bool:
    """Whether the peer has closed its end, even if sent data is still unread. A half-close does not count."""
    poll = select.poll()
    poll.register(sock, 0)  # poll() always reports POLLHUP and POLLERR
    return bool(poll.poll(0))


def why(error: OSError) -> str | None:
    """The text of an error. The close of a peer shows up as end of stream, or as ECONNRESET or EPIPE, depending on
    timing: all of them count as an ordinary close."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return None
    return error.strerror or str(error)


class ConnectionUser(Protocol):
    """What a Connection needs from its user."""

    @property
    def wanted(self) -> int:
        """The most bytes to read with the next piece."""

    def received(self, data: bytes, fds: list[int]) -> None:
        """Process one piece; the callee owns the descriptors."""

    def lost(self, reason: str | None) -> None:
        """The connection is closed; `reason` is None if the peer closed it. It is called at most once, and never after
        `Connection.close`."""


class OutputRecord(Record, frozen=True):
    """A message, or the rest of one, that the peer has not read."""

    data: Annotated[bytes, msgspec.Meta(min_length=1)]
    descriptors: Annotated[int, msgspec.Meta(ge=0, le=253)]


class ConnectionRecord(Record, frozen=True):
    """The state of a Connection apart from its socket and the descriptors of its output."""

    output: Annotated[list[OutputRecord], msgspec.Meta(max_length=WAITING_MAX_MESSAGES)]
    paused: bool
    half_closed: bool
    failed: bool
    """Its end is about to be reported."""
    failure: str | None
    exchange: U64 = 0
    """The exchanges of a KeptConnection until now."""
    piece: bytes = b""
    """What a KeptConnection takes from the socket and has not processed yet."""
    candidates: Annotated[int, msgspec.Meta(ge=0, le=253)] = 0
    """The descriptors that were seen with the piece."""

    def check_fields(self) -> None:
        require(self.failed or self.failure is None, "failure", "of a connection that has not failed")
        require(self.piece or not self.candidates, "candidates", "are of no piece")

    def check(self, fds: Sequence[Sequence[int]]) -> None:
        """Raise RecordError unless these are the descriptors of the output, and then those of the piece."""
        if self.piece:
            require(fds, "candidates", "are missing")
            *fds, seen = fds
            fits = self.candidates == len(seen)
            require(fits, "candidates", f"are {self.candidates}, and {len(seen)} were passed")
        count = len(self.output)
        require(count == len(fds), "output", f"has {count} messages, with the descriptors of {len(fds)}")
        for at, (each, passed) in enumerate(zip(self.output, fds, strict=True)):
            told = each.descriptors
            fits = told == len(passed)
            require(fits, f"output[{at}].descriptors", f"are {told}, and {len(passed)} were passed")
        total = sum(each.descriptors for each in self.output)
        require(total <= WAITING_MAX_FDS, "output", f"has {total} descriptors")


class Connection:
    """A connected stream socket in the loop, for messages with descriptors.

    It reads nothing while output waits, so a peer that does not read its replies stops only itself. Messages that
    others cause to be sent to a peer that does not read are bounded, in bytes and in descriptors.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        user: ConnectionUser,
        *,
        max_fds: int,
        owner: str = "",
        holding: Holding | None = None,
    ) -> None:
        """`owner`: the NIC or netdev, as for `receive`. `holding`: the peer's descriptors that the user keeps, if it
        keeps any; a peer above its limit is disconnected."""
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        """For the loop: with a socket object, it would print that into an exception each time it looks it up."""
        self._user = user
        self._max_fds = max_fds
        self._owner = owner
        self._holding = holding
        self._output: deque[tuple[bytes, list[int]]] = deque()
        self._waiting_fds = 0
        self._failed = False
        self._failure: str | None = None
        self._half_closed = False
        self._paused = False
        self.closed = False
        sock.setblocking(False)
        loop.add_reader(self._fd, self._readable)

    # -- state apart from descriptors ---------------------------------------------------------------------------

    def save(self) -> ConnectionRecord:
        """The record of a connection that is not closed."""
        return ConnectionRecord(
            output=[OutputRecord(data=data, descriptors=len(fds)) for data, fds in self._output],
            paused=self._paused,
            half_closed=self._half_closed,
            failed=self._failed,
            failure=self._failure,
        )

    @property
    def at_rest(self) -> bool:
        """It reads, and nothing waits to be sent."""
        return not (self.closed or self._failed or self._paused or self._output)

    @property
    def sock(self) -> socket.socket:
        """The socket that belongs to the record."""
        return self._sock

    @property
    def fds(self) -> list[list[int]]:
        """The descriptors of each message of the output, still the connection's."""
        return [fds for _, fds in self._output]

    def restore(self, record: ConnectionRecord, fds: Sequence[Sequence[int]]) -> None:
        """Go on on the same socket; the descriptors are the connection's then. Raises RecordError, and leaves them to
        the caller then."""
        record.check(fds)
        self._output = deque(
            (each.data, list(passed)) for each, passed in zip(record.output, fds, strict=True)
        )
        self._waiting_fds = sum(each.descriptors for each in record.output)
        self._half_closed = record.half_closed
        if self._output:
            self._loop.remove_reader(self._fd)
            self._loop.add_writer(self._fd, self._writable)
        if record.paused:
            self.pause()
        if record.failed:
            self._fail_later(record.failure)

    def _readable(self) -> None:
        user = self._user
        end = self._loop.time() + TURN_S
        for _ in range(PIECES_PER_TURN):
            piece = self._received(user.wanted)
            if piece is None:
                return
            data, fds = piece
            user.received(data, fds)
            self._count(len(fds))
            if self.closed or self._failed or self._paused or self._output or self._loop.time() > end:
                return

    def _received(self, size: int, flags: int = RECEIVE_FLAGS) -> tuple[bytes, list[int]] | None:
        """What has arrived, with its descriptors. None: nothing has, or the connection is lost, and the user was
        told."""
        try:
            data, fds = receive(self._sock, size, self._max_fds, self._owner, flags=flags)
        except (BlockingIOError, InterruptedError):
            return None
        except FrameError as error:
            self._lose(str(error))
            return None
        except OSError as error:
            self._lose(why(error))
            return None
        if not data:
            close_fds(fds)
            self._lose(None)
            return None
        return data, fds

    def _count(self, descriptors: int) -> None:
        """The user has received that many descriptors."""
        if descriptors and self._holding is not None and not self.closed:
            try:
                self._holding.received(descriptors)
            except TooManyDescriptors as error:
                self._lose(str(error))

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Write `data`, now if possible. The caller keeps its descriptors: output that waits has duplicates."""
        if self.closed or self._failed or self._half_closed or not data:
            return
        if not self._output:
            try:
                sent = self._send_now(data, fds)
            except OSError as error:
                log.debug("send failed: %s", error)
                self._fail_later(why(error))
                return
            if sent == len(data):
                return
            if sent:
                data, fds = data[sent:], ()
            self._loop.remove_reader(self._fd)
            self._loop.add_writer(self._fd, self._writable)
        self._keep(data, fds)

    def _keep(self, data: bytes, fds: Sequence[int]) -> None:
        """Queue a message until the peer reads."""
        if len(self._output) >= WAITING_MAX_MESSAGES or self._waiting_fds + len(fds) > WAITING_MAX_FDS:
            self._fail_later(f"cut off, it does not read and {len(self._output)} messages wait for it")
            return
        kept: list[int] = []
        try:
            kept.extend(os.dup(fd) for fd in fds)
        except OSError as error:
            close_fds(kept)
            self._fail_later(error.strerror or str(error))
            return
        self._output.append((data, kept))
        self._waiting_fds += len(kept)

    def _send_now(self, data: bytes, fds: Sequence[int]) -> int:
        try:
            if fds:
                return socket.send_fds(self._sock, [data], list(fds), _SEND_FLAGS)
            return self._sock.send(data, _SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return 0

    def _fail_later(self, reason: str | None) -> None:
        """Report the error in a later turn: a user is never closed during its own `send`."""
        if not self._failed:
            self._failed, self._failure = True, reason
            self._loop.call_soon(self._lose, reason)

    def _writable(self) -> None:
        while self._output:
            data, fds = self._output[0]
            try:
                sent = self._send_now(data, fds)
            except OSError as error:
                self._lose(why(error))
                return
            if sent < len(data):
                if sent:
                    self._close_sent(fds)
                    self._output[0] = (data[sent:], [])
                return
            self._close_sent(fds)
            self._output.popleft()
        self._loop.remove_writer(self._fd)
        if not self._paused:
            self._loop.add_reader(self._fd, self._readable)

    def _close_sent(self, fds: list[int]) -> None:
        self._waiting_fds -= len(fds)
        close_fds(fds)

    def is_abandoned(self) -> bool:
        """Whether the peer has closed its end, which a read may notice much later (see `peer_has_closed`)."""
        return self.closed or peer_has_closed(self._sock)

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if not self._paused and not self.closed:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self.closed:
            self._paused = False
            if not self._output:
                self._loop.add_reader(self._fd, self._readable)

    def _lose(self, reason: str | None) -> None:
        if not self.closed:
            self.close()
            self._user.lost(reason)

    def half_close(self) -> None:
        """Send nothing more, and read until the peer closes (vfio-user: QEMU aborts on a sudden full close)."""
        if self.closed:
            return
        self._half_closed = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has closed already; the next read notices it

    def released(self) -> None:
        """The user has released all descriptors of the peer."""
        if self._holding is not None:
            self._holding.end()

    def close(self) -> None:
        """Close the socket and drop queued output; `lost` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        unblock.close_stream(self._sock, self._owner)
        for _, fds in self._output:
            close_fds(fds)
        self._output.clear()
