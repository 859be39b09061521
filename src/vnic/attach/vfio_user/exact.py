"""The connection of a VM whose messages are carried out and answered once, wherever this process is killed.

It does for vfio-user what `sockets.kept_connection` does in general, without a commit for each message, because a VM
waits for each read of a register:

1. a piece is read with MSG_PEEK. SO_PEEK_OFF is 0, so that the kernel adds the size of the piece to it;
2. each step of a message is carried out. If records changed, they are committed together with a StepRecord;
3. its reply is written to the outbox, a kept pipe, and the position in `progress` moves on;
4. the outbox is spliced into the socket, so that a reply has left when it is not in the pipe any more;
5. after all messages of the piece, their bytes are taken from the socket, and the kernel subtracts them from
   SO_PEEK_OFF: the difference to the size of the piece is what has been taken.

The successor finds in the cells, the pipe and the socket which step was the last (`go_on`). A step that was carried out
and not recorded as done is repeated: one that is not the same when it is repeated changes a record, which tells.

Guaranteed for replies of at most 4096 bytes (PIPE_BUF). Killed within a longer one, of which the socket did not take
all, the connection is closed.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import socket
import termios
from typing import Final

from vnic.attach.vfio_user import progress as p
from vnic.attach.vfio_user.progress import Progress, StepRecord
from vnic.descriptors import close_fds
from vnic.protocol.vfio_user import messages as m
from vnic.quota import Holding
from vnic.sockets.connection import RECEIVE_FLAGS, Connection, ConnectionUser, why
from vnic.sockets.kept_connection import SO_PEEK_OFF

_PEEK: Final = RECEIVE_FLAGS | int(socket.MSG_PEEK)
_PEEK_MOST: Final = 1 << 24
"""More than a socket holds."""
_TAKE: Final = int(socket.MSG_DONTWAIT)
_ALL: Final = 1 << 20


class ExactConnection(Connection):
    """See above. The user calls `stepped` for each step and `end_piece` after the piece that `received` gave it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        user: ConnectionUser,
        *,
        max_fds: int,
        owner: str,
        holding: Holding,
        outbox: int,
        progress: Progress,
    ) -> None:
        """`outbox`: a pipe, which is the connection's from now on. Nothing is read before `begin` or `go_on`."""
        super().__init__(loop, sock, user, max_fds=max_fds, owner=owner, holding=holding)
        loop.remove_reader(self._fd)
        self.outbox = outbox
        self.progress = progress
        self._reading = False
        self._in_outbox = 0
        """Bytes."""
        self._piece = 0
        """The bytes that were read and not taken."""
        self._blocked = False
        """The peer does not read: the socket is full."""

    @property
    def at_rest(self) -> bool:
        return super().at_rest and not self._in_outbox and not self._piece

    # --- Begin -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The connection is new."""
        self._watch(True)

    def go_on(self, step: StepRecord) -> str | None:
        """Complete the step that the process before was in. `step`: the one that it saved last. Returns why the
        connection cannot go on, or None. `progress` has the next step then, and whether it was begun is not known.

        Raises OSError. It may be killed, too: after each change, another process that calls this comes to the same.
        """
        progress = self.progress
        self._in_outbox = self._waiting()
        if progress.flags & p.LONG:
            return "the process before was killed within a long message"
        put = bool(progress.flags) and self._in_outbox > progress.cells[p.PUT]
        offset = self._sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        if progress.done:
            self._take(progress.done - (progress.cells[p.PIECE] - offset))
            progress.done = 0
            progress.write()
        size = None
        if step.number == progress.next:
            if step.reply and not put:
                self._put_reply(step.reply)
            size = step.size
        elif put:
            size = self._size_of_next()
        if size is not None:
            self._peek_from(0)
            if size:
                progress.cells[p.PIECE] = len(self._sock.recv(size, _PEEK))
            progress.stepped(step.last or step.number != progress.next, size)
            self._take(size)
            progress.done = 0
            progress.write()
        self._peek_from(-1)
        self.flush()
        self._watch(not self._paused and not self._blocked)
        return None

    def _size_of_next(self) -> int:
        self._peek_from(0)
        header = self._sock.recv(m.HEADER.size, _PEEK)
        return int(m.HEADER.unpack(header)[2]) if len(header) == m.HEADER.size else 0

    def _peek_from(self, offset: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)

    def _waiting(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self.outbox, termios.FIONREAD, count)
        return count[0]

    # --- Input -----------------------------------------------------------------------------------------------------

    def _watch(self, on: bool) -> None:
        """Read, or leave the socket as any reader expects it: another program may read it by turns."""
        if on is self._reading or self.closed:
            return
        self._reading = on
        try:
            if on:
                if not self._piece:
                    self._peek_from(0)
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)
                if not self._piece:
                    self._peek_from(-1)
        except OSError as error:
            self._fail_later(why(error))

    def _readable(self) -> None:
        user = self._user
        size = user.wanted
        piece = self._received(size, _PEEK)
        while piece is not None and piece[1] and len(piece[0]) == size < _PEEK_MOST:
            # A peek that is full may have descriptors of a later message; one that is not ends with theirs.
            close_fds(piece[1])
            size *= 2
            self._peek_from(0)
            piece = self._received(size, _PEEK)
        if piece is None:
            return
        data, fds = piece
        self._piece = self.progress.cells[p.PIECE] = len(data)
        user.received(data, fds)
        self._count(len(fds))

    def stepped(self, last: bool, size: int, reply: bytes | None) -> None:
        """A step is done, and what it changed is saved: the last one of a message with so many bytes of the piece."""
        if reply is not None and not self.closed and not self._failed:
            self._put_reply(reply)
        self.progress.stepped(last, size)
        if self._in_outbox and (not self._move() or self._in_outbox or self._output):
            self.flush()

    def end_piece(self) -> None:
        """Take the messages that are done from the socket; what is left is read again."""
        if self.closed:
            return
        progress, piece = self.progress, self._piece
        try:
            self._take(progress.done)
            self._piece = 0
            left = piece - progress.done
            progress.done = 0
            progress.write()
            if left:
                self._peek_from(0 if self._reading else -1)
            elif not self._reading:
                self._peek_from(-1)
        except OSError as error:
            self._fail_later(why(error))

    @property
    def left(self) -> int:
        """The bytes of the piece that are not done."""
        return self._piece - self.progress.done

    def skip(self) -> None:
        """Nothing of the piece is carried out any more."""
        self.progress.steps = 0
        self.progress.done = self._piece
        self.progress.write()

    def _take(self, size: int) -> None:
        """The kernel closes the descriptors among the bytes, of which we have duplicates."""
        while size > 0:
            taken = len(self._sock.recv(size, _TAKE))
            if not taken:
                return
            size -= taken

    @property
    def ends(self) -> bool:
        """The peer has closed: nothing follows what is in the socket."""
        poll = select.poll()
        poll.register(self._fd, select.POLLRDHUP)
        return bool(poll.poll(0))

    # --- Output ----------------------------------------------------------------------------------------------------

    def _put_reply(self, reply: bytes) -> None:
        progress = self.progress
        progress.cells[p.PUT] = self._in_outbox
        progress.flags |= p.REPLYING
        if len(reply) > select.PIPE_BUF:
            progress.flags |= p.LONG
        progress.write()
        self._put(reply)

    def send(self, data: bytes, fds: object = ()) -> None:
        """A request to the VM."""
        assert not fds
        if not (self.closed or self._failed or self._half_closed):
            self._put(data)
            self.flush()

    def _put(self, data: bytes) -> None:
        """Into the outbox; what does not fit waits in memory."""
        if not self._output and len(data) <= select.PIPE_BUF:
            try:
                self._in_outbox += os.write(self.outbox, data)
            except BlockingIOError:
                pass
            else:
                return
        while data and not self._output:
            try:
                written = os.write(self.outbox, data)
            except BlockingIOError:
                written = 0
            self._in_outbox += written
            data = data[written:]
            if data and not self._move():
                break
        if data:
            self._output.append((data, []))
        self._mark_long()

    def _mark_long(self) -> None:
        progress = self.progress
        flags = progress.flags & ~p.LONG | (p.LONG if self._output else 0)
        if flags != progress.flags:
            progress.flags = flags
            progress.write()

    def _move(self) -> bool:
        """Move to the socket what it takes; False: nothing."""
        try:
            moved = os.splice(self.outbox, self._fd, _ALL, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail_later(why(error))
            return False
        self._in_outbox -= moved
        return moved > 0

    def flush(self) -> None:
        """Let the replies leave. While the peer does not take them, nothing is read from it."""
        while self._in_outbox and not self.closed:
            if not self._move():
                self._block(True)
                return
            if not self._in_outbox and self._output:
                data, _ = self._output.popleft()
                self._put(data)

    def _block(self, blocked: bool) -> None:
        if self._failed or blocked is self._blocked:
            return
        self._blocked = blocked
        if blocked:
            self._watch(False)
            self._loop.add_writer(self._fd, self._writable)
        else:
            self._loop.remove_writer(self._fd)
            self._watch(not self._paused)

    def _writable(self) -> None:
        self.flush()
        if not self._in_outbox:
            self._block(False)

    # --- Pause and end ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self._watch(False)

    def resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self._watch(not self._blocked)

    def close(self) -> None:
        """The peer sees the end at once, although a keeper has the socket, too."""
        if self.closed:
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has closed already
        super().close()
        os.close(self.outbox)
