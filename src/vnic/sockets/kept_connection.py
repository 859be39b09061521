"""A Connection whose messages are carried out and answered exactly once, also where this process is killed.

The attachments use it in place of a Connection where a keeper holds the descriptors for the process that comes next.
Nothing is taken from the socket before its effects are saved, and no reply leaves before. One *exchange* is:

1. a piece is read with MSG_PEEK, and the user carries out the messages in it; replies are collected;
2. replies are written to the *outbox*, a pipe that is kept;
3. the number of the exchange and the size of the piece are set as the socket's SO_PEEK_OFF;
4. all units that have changed are saved in one commit, with the number of the exchange;
5. the piece is taken from the socket: the kernel subtracts what is taken from SO_PEEK_OFF;
6. the outbox is spliced into the socket; when it is empty, SO_PEEK_OFF is set to -1.

A peek that has all the bytes it asked for may have the descriptors of a later message as well: Linux goes on to that
one. Such a piece is an exchange of two parts: it is saved with what was seen, and taken, which tells its own
descriptors; then it is carried out, without anything to take. The successor of a process that was killed between them
finds descriptors that are of a later message still in the socket.

The successor compares the saved number with that of the socket. If they differ, the exchange was not saved, or it was
complete: what the outbox has is dropped, and nothing is taken. If they are equal, SO_PEEK_OFF says how much is still to
be taken, and what the outbox has is still to be sent. The kernel keeps both, so there is no instruction at which a kill
repeats a message or loses one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Sequence
from typing import Final

from vnic.descriptors import close_fds
from vnic.keep import Kept
from vnic.open_files import is_one_file
from vnic.protocol.frames import FrameError
from vnic.quota import Holding
from vnic.sockets import unblock
from vnic.sockets.connection import (
    PIECES_PER_TURN,
    RECEIVE_FLAGS,
    TURN_S,
    Connection,
    ConnectionRecord,
    ConnectionUser,
    receive,
    why,
)
from vnic.sockets.outbox import new_outbox

SO_PEEK_OFF: Final = 42
"""include/uapi/asm-generic/socket.h. A peek with an offset of 0 or more begins there; -1: none has been set."""
SIZE_BITS: Final = 24
"""SO_PEEK_OFF has the size of the piece in its lower bits, and the number of the exchange above."""
NUMBERS: Final = 126
"""The numbers 1 to 126 repeat: an int has 31 bits, and only two exchanges that follow each other are compared."""
PIECE_MOST: Final = (1 << SIZE_BITS) - 1
PAGE_BYTES: Final = 4096
"""The messages that are written to the empty outbox together are at most so long: they are in one page, which the peer
gets in one piece, unless its socket is full. Of a longer message, this is so for the beginning."""
ALL: Final = 1 << 20
"""More than a pipe holds."""

_PEEK_FLAGS: Final = RECEIVE_FLAGS | int(socket.MSG_PEEK)
_TAKE_FLAGS: Final = int(socket.MSG_DONTWAIT)


class KeptConnection(Connection):
    """See above. `restore` is followed by `go_on`, and nothing is read before that."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        user: ConnectionUser,
        kept: Kept,
        *,
        max_fds: int,
        owner: str = "",
        holding: Holding | None = None,
        outbox: int | None = None,
    ) -> None:
        """`kept`: the unit that saves the user and this connection. It commits for each exchange, and never while
        `received` runs. `outbox`: that of the process before, which is this connection's then. Raises OSError if there
        is none and none can be made."""
        self._kept = kept
        self.outbox = new_outbox() if outbox is None else outbox
        """Belongs to the record, as the socket does."""
        super().__init__(loop, sock, user, max_fds=max_fds, owner=owner, holding=holding)
        self._number = 0
        """Counts the exchanges."""
        self._in_outbox = 0
        """Bytes."""
        self._direct: tuple[bytes, list[int]] | None = None
        """A message with descriptors, which no pipe can carry: it leaves at most once."""
        self._probed: tuple[bytes, list[int]] | None = None
        """A piece that is taken before it is carried out, and descriptors that were seen with it."""
        self._exchanging = False
        self._flush_due = False
        self._blocked = False
        """The peer does not read: the socket is full."""

    # -- state apart from descriptors ---------------------------------------------------------------------------

    def save(self) -> ConnectionRecord:
        return ConnectionRecord(
            output=super().save().output,
            paused=self._paused,
            half_closed=self._half_closed,
            failed=self._failed,
            failure=self._failure,
            exchange=self._number,
            piece=b"" if self._probed is None else self._probed[0],
            candidates=0 if self._probed is None else len(self._probed[1]),
        )

    @property
    def fds(self) -> list[list[int]]:
        """Those of each message of the output, and then those that were seen with a piece."""
        return [*super().fds, *([] if self._probed is None else [self._probed[1]])]

    @property
    def at_rest(self) -> bool:
        return super().at_rest and not (self._in_outbox or self._exchanging or self._probed)

    def restore(self, record: ConnectionRecord, fds: Sequence[Sequence[int]]) -> None:
        """Take the place of the connection that was saved, on the same socket and outbox."""
        record.check(fds)
        self._loop.remove_reader(self._fd)
        if record.piece:
            *fds, seen = fds
            self._probed = record.piece, list(seen)
        self._output = deque(
            (each.data, list(passed)) for each, passed in zip(record.output, fds, strict=True)
        )
        self._waiting_fds = sum(each.descriptors for each in record.output)
        self._half_closed, self._paused = record.half_closed, record.paused
        self._failed, self._failure = record.failed, record.failure
        self._number = record.exchange

    def go_on(self) -> None:
        """Complete the exchange that was saved, and read again. The unit is saved once, by its new keep, before the
        loop's next turn."""
        if self.closed:
            return
        try:
            mark = self._sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
            self._in_outbox = _unread(self.outbox)
            if mark < 0 or mark >> SIZE_BITS != self._tag:
                self._empty_outbox()
            else:
                self._take(mark & PIECE_MOST)
            if self._probed is not None:
                self._probed = self._probed[0], self._own_of(self._probed[1])
                self._kept.handles_changed()
                self._loop.call_soon(self._carry_out_probed)
        except OSError as error:
            self._failed, self._failure = True, why(error)
        if self._failed:
            self._failed = False
            self._fail_later(self._failure)
        if self._leaves():
            self._unmark()
            if self._output:
                self._flush_later()
        if not self._blocked and not self._paused and not self.closed and self._probed is None:
            self._loop.add_reader(self._fd, self._readable)

    def _empty_outbox(self) -> None:
        """Drop the replies of an exchange that was not saved."""
        while self._in_outbox > 0:
            self._in_outbox -= len(os.read(self.outbox, ALL))

    # -- one exchange -------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        user = self._user
        end = self._loop.time() + TURN_S
        for _ in range(PIECES_PER_TURN):
            size = min(user.wanted, PIECE_MOST)
            piece = self._received(size, _PEEK_FLAGS)
            if piece is None:
                return
            data, fds = piece
            if fds and len(data) == size:
                self._take_probed(data, fds)
            else:
                self._carry_out(data, fds, len(data))
            if self.closed or self._failed or self._paused or self._blocked or self._loop.time() > end:
                return

    def _carry_out(self, data: bytes, fds: list[int], taken: int) -> None:
        """One exchange, of which that many bytes are still in the socket."""
        self._exchanging = True
        self._user.received(data, fds)
        self._exchanging = False
        if self.closed:
            return
        if fds:
            self._kept.handles_changed()
            self._count(len(fds))
        if not self.closed:
            self._finish(taken)

    def _take_probed(self, data: bytes, seen: list[int]) -> None:
        """Carry out a piece after it was taken, since some of the descriptors that were seen may be of a later one."""
        self._probed = data, seen
        self._kept.handles_changed()
        self._number += 1
        own: list[int] = []
        try:
            self._mark(len(data))
            self._kept.commit()
            left = len(data)
            while left > 0:
                taken, fds = receive(self._sock, left, self._max_fds, self._owner)
                own += fds
                left -= len(taken)
            self._unmark()
        except (OSError, FrameError) as error:
            close_fds(own)
            self._fail_later(str(error) if isinstance(error, FrameError) else why(error))
            return
        self._probed = None
        self._kept.handles_changed()
        close_fds(seen)
        self._carry_out(data, own, 0)

    def _own_of(self, seen: list[int]) -> list[int]:
        """Those that were seen with a piece that has been taken, if they were its own: others are still there."""
        self._unmark()
        try:
            _, later = receive(self._sock, 1, self._max_fds, self._owner, flags=_PEEK_FLAGS)
        except (BlockingIOError, FrameError):
            return seen
        try:
            if len(later) != len(seen) or not all(map(is_one_file, seen, later)):
                return seen
        finally:
            close_fds(later)
        close_fds(seen)
        return []

    def _carry_out_probed(self) -> None:
        """The process before was killed when it had taken this piece."""
        if self._probed is None or self.closed:
            return
        data, fds = self._probed
        self._probed = None
        self._kept.handles_changed()
        self._carry_out(data, fds, 0)
        if not self._blocked and not self._paused and not self.closed:
            self._loop.add_reader(self._fd, self._readable)

    def _finish(self, taken: int) -> None:
        """Save what was carried out, take that many bytes from the socket, and let the replies leave."""
        while True:
            try:
                self._fill_outbox()
                self._number += 1
                self._mark(taken)
                self._kept.commit()
                self._take(taken)
            except OSError as error:
                self._fail_later(why(error))
                return
            if not self._leaves():
                return
            self._unmark()
            if not self._output:
                return
            taken = 0

    @property
    def _tag(self) -> int:
        return self._number % NUMBERS + 1

    def _mark(self, taken: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, self._tag << SIZE_BITS | taken)

    def _unmark(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, -1)

    def _take(self, size: int) -> None:
        """Take bytes that were read. The kernel closes the descriptors among them, of which we have duplicates."""
        while size > 0:
            taken = len(self._sock.recv(size, _TAKE_FLAGS))
            if not taken:
                return
            size -= taken

    # -- output -------------------------------------------------------------------------------------------------

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send with the exchange in progress, or else in the loop's next turn."""
        if self.closed or self._failed or self._half_closed or not data:
            return
        self._keep(data, fds)
        self._kept.changed()
        if fds:
            self._kept.handles_changed()
        if not self._exchanging and not self._blocked:
            self._flush_later()

    def _flush_later(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._output and not self._blocked and not self.closed:
            self._finish(0)

    def _fill_outbox(self) -> None:
        """Write messages to the outbox, which is empty; one with descriptors goes another way, and alone."""
        if not self._output:
            return
        if self._output[0][1]:
            self._direct = self._output.popleft()
            self._waiting_fds -= len(self._direct[1])
            self._kept.handles_changed()
            return
        messages: list[bytes] = []
        size = 0
        while self._output and not self._output[0][1]:
            data = self._output[0][0]
            if messages and size + len(data) > PAGE_BYTES:
                break
            self._output.popleft()
            messages.append(data)
            size += len(data)
        data = b"".join(messages)
        self._in_outbox = written = os.write(self.outbox, data)
        if written < size:
            self._output.appendleft((data[written:], []))

    def _leaves(self) -> bool:
        """Send what is in the outbox. False: the peer does not read, or the connection has failed."""
        try:
            if self._direct is not None:
                self._send_direct(*self._direct)
            while self._in_outbox > 0:
                self._in_outbox -= os.splice(self.outbox, self._fd, ALL, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            if self._direct is not None:
                self._output.appendleft(self._direct)
                self._waiting_fds += len(self._direct[1])
                self._direct = None
                self._kept.handles_changed()
            self._block()
            return False
        except OSError as error:
            self._fail_later(why(error))
            return False
        return True

    def _send_direct(self, data: bytes, fds: list[int]) -> None:
        """Raises BlockingIOError if there is no room."""
        sent = socket.send_fds(self._sock, [data], fds, int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))
        self._direct = None
        close_fds(fds)
        if sent < len(data):
            self._output.appendleft((data[sent:], []))

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.remove_reader(self._fd)
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        if not self._leaves():
            return
        self._blocked = False
        self._loop.remove_writer(self._fd)
        self._unmark()
        if self._output:
            self._finish(0)
        if not self._blocked and not self._paused and not self.closed:
            self._loop.add_reader(self._fd, self._readable)

    # -- pause and end ------------------------------------------------------------------------------------------

    def resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            if not self._blocked:
                self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """The peer sees the end at once, although a keeper has the socket, too. Replies of the exchange in progress
        leave after the commit at the end of this turn."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        replies = [] if self._blocked else [data for data, fds in self._output if not fds]
        for _, fds in self._output:
            close_fds(fds)
        self._output.clear()
        if self._direct is not None:
            close_fds(self._direct[1])
            self._direct = None
        if self._probed is not None:
            close_fds(self._probed[1])
            self._probed = None
        os.close(self.outbox)
        if replies:
            self._loop.call_soon(self._part, b"".join(replies))
        else:
            self._part(b"")

    def _part(self, replies: bytes) -> None:
        try:
            if replies:
                self._sock.send(replies, int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has closed already
        unblock.close_stream(self._sock, self._owner)


def _unread(pipe: int) -> int:
    """The bytes in a pipe. Raises OSError."""
    (size,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(size)
