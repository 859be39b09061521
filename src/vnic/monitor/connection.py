"""One monitor client's bytes: read, run, write, without ever waiting for the client.

Both directions are bounded. What a client asks for is run only as far as it reads the answers; one that does not
even read its events is disconnected. Used by `server.py` for QMP and HMP alike.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from vnic.descriptors import Kind, close_fds
from vnic.monitor.http_guard import HttpGuard
from vnic.protocol.frames import FrameError
from vnic.sockets.connection import receive

log = logging.getLogger(__name__)

READ_BYTES = 4096
"""Read at once (CHR_READ_BUF_LEN of QEMU's char.h)."""

MESSAGE_FDS_MAX = 16
"""Descriptors with one message (TCP_MAX_FDS of QEMU's char-socket.c)."""

ANYTHING = frozenset(Kind)
"""What it may carry: files too, such as a tap. Who uses one has to know that it does not hang."""

REPLIES_PER_TURN = 16
TURN_S = 0.005
"""So much is answered before the loop serves the others: 4096 bytes of garbage are as many errors, 50 ms of work, and
one query may take several milliseconds."""

PAUSE_BYTES = 1 << 16
"""With more unread output than this, no further command of the client runs."""

OUTPUT_MAX_BYTES = 1 << 23
"""With more unread output than this, the client is disconnected."""


class Session(Protocol):
    """The language spoken on a connection: a QMP or HMP session."""

    who: str
    waits_for: asyncio.Future[Any] | None
    """The next reply is asked for when this is done."""

    def greeting(self) -> bytes: ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The replies to what ends in `data`; one may come in pieces, of which the last ends with a line end."""

    def event(self, message: dict[str, object]) -> bytes | None: ...


class Channel(Protocol):
    """Bytes in and out, neither of which blocks."""

    reading: int
    """The descriptor to wait on before `receive`."""
    writing: int
    """The descriptor to wait on before `send`."""

    def receive(self) -> bytes: ...

    def send(self, data: bytes | bytearray) -> int: ...

    def take_fd(self) -> int | None:
        """The first of the descriptors that came last, which belongs to the caller; the others are closed."""

    def close(self) -> None: ...


class CutOffError(Exception):
    """What the client sent ends the connection; `str()` says why, for the log."""


class SocketChannel:
    """A connected stream socket; a UNIX one may carry descriptors (tcp_chr_recv)."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.reading = self.writing = connected.fileno()
        self._fds: list[int] = []
        """Those that came last, until a command takes the first of them."""
        self._http = HttpGuard()

    def receive(self) -> bytes:
        """Raises CutOffError, and the errors of recvmsg."""
        if self._socket.family != socket.AF_UNIX:
            data = self._socket.recv(READ_BYTES)
            if self._http.is_http(data):
                raise CutOffError("it speaks HTTP, as a browser does")
            return data
        try:
            data, fds = receive(self._socket, READ_BYTES, MESSAGE_FDS_MAX, carries=ANYTHING)
        except FrameError as error:
            raise CutOffError(str(error)) from None
        if fds:
            close_fds(self._fds)
            self._fds = fds
        return data

    def take_fd(self) -> int | None:
        if not self._fds:
            return None
        fd, *others = self._fds
        self._fds = []
        close_fds(others)
        return fd

    def send(self, data: bytes | bytearray) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        self._socket.close()
        close_fds(self._fds)
        self._fds = []


class StdioChannel:
    """Standard input and output.

    O_NONBLOCK belongs to the open file, which the shell and our stderr share: a terminal or pipe is opened anew.
    """

    def __init__(self, *, raw: bool = False) -> None:
        """`raw`: a terminal passes on each key and shows none, as long as this is open (qemu_chr_set_echo_stdio)."""
        self._restore: Callable[[], None] = _nothing
        if raw and os.isatty(0):
            from vnic.monitor.terminal import pass_on_keys  # only here: programs have no terminal

            self._restore = pass_on_keys(0)
        self.reading = os.dup(0)
        mode = os.fstat(1).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            self.writing = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        else:
            self.writing = os.dup(1)
            if stat.S_ISSOCK(mode):
                os.set_blocking(self.writing, False)

    def receive(self) -> bytes:
        return os.read(self.reading, READ_BYTES)  # only called when there is something, or the end

    def send(self, data: bytes | bytearray) -> int:
        return os.write(self.writing, data)

    def take_fd(self) -> int | None:
        return None

    def close(self) -> None:
        self._restore()
        os.close(self.reading)
        os.close(self.writing)


def _nothing() -> None:
    """No terminal was changed, nobody is to be told."""


class Connection:
    """A client, from its greeting to its end; `closed` is called once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        session: Session,
        closed: Callable[[], None],
    ) -> None:
        self.session = session
        self._loop = loop
        self._channel = channel
        self._on_closed = closed
        self._output = bytearray()
        self._held = bytearray()
        """Events that came in the middle of a reply."""
        self._amid_reply = False
        self._work: Iterator[bytes] | None = None
        """Replies to what was read, made one by one as the client takes them."""
        self._running = False
        self._more_later = False
        """The rest of what was read waits for the loop's next turn, or for what a command has to wait for."""
        self._ended = False
        """The client sends no more; it still gets what it asked for."""
        self.closed = False
        self._reads = self._writes = False
        self.active_at = loop.time()
        """When the client last sent something."""

    def start(self) -> None:
        """Greet, and begin to listen."""
        self._output += self.session.greeting()
        self._flush()

    # -- out ----------------------------------------------------------------------------------------------------

    def event(self, message: dict[str, object]) -> None:
        """Tell the client of an event, if it listens to any."""
        data = self.session.event(message)
        if data is None or self.closed:
            return
        if self._amid_reply:
            self._held += data
        else:
            self._output += data
        if not self._running:  # else it goes out with the reply, in QEMU's order: before it
            self._flush()

    def _flush(self) -> None:
        while self._output and not self.closed:
            try:
                sent = self._channel.send(self._output)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            del self._output[:sent]
        if len(self._output) + len(self._held) > OUTPUT_MAX_BYTES:
            log.warning("%s does not read its monitor: disconnected", self.session.who)
            self.close()
            return
        self._watch()

    def _writable(self) -> None:
        self._flush()
        if self._work is not None and not self._more_later and len(self._output) <= PAUSE_BYTES:
            self._run()

    # -- in -----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._channel.receive()
        except (BlockingIOError, InterruptedError):
            return
        except CutOffError as error:
            log.warning("%s is disconnected: %s", self.session.who, error)
            self.close()
            return
        except OSError:
            self.close()
            return
        self.active_at = self._loop.time()
        if not data:
            self._ended = True
            self._watch()
            return
        self._work = self.session.feed(data)
        self._run()

    def _run(self) -> None:
        """Run what was read, as much of it as a turn may have and until the client has enough to read."""
        self._more_later = False
        if self._work is None:
            return
        self._running = True
        end = self._loop.time() + TURN_S
        try:
            for _ in range(REPLIES_PER_TURN):
                reply = next(self._work, None)
                if self.closed:
                    return  # an event was too much for it
                if reply is None:
                    self._work = None
                    break
                if self.session.waits_for is not None:
                    self._more_later = True
                    self.session.waits_for.add_done_callback(self._go_on)
                    break
                self._output += reply
                self._amid_reply = not reply.endswith(b"\n")
                if self._held and not self._amid_reply:
                    self._output += self._held
                    self._held.clear()
                if len(self._output) > PAUSE_BYTES or self._loop.time() > end:
                    break
        finally:
            self._running = False
        self._flush()
        if (
            self._work is not None
            and not self._more_later
            and not self.closed
            and len(self._output) <= PAUSE_BYTES
        ):
            self._more_later = True
            self._loop.call_soon(self._run)

    def _go_on(self, done: asyncio.Future[Any]) -> None:
        """What the last command had to wait for is done."""
        self._run()

    # -- what the loop watches ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.closed:
            return
        if self._ended and not self._output and self._work is None:
            self.close()
            return
        reads = not self._ended and self._work is None and len(self._output) <= PAUSE_BYTES
        if reads is not self._reads:
            self._reads = reads
            if reads:
                self._start_reading()
            else:
                self._loop.remove_reader(self._channel.reading)
        if bool(self._output) is not self._writes:
            self._writes = bool(self._output)
            if self._writes:
                self._loop.add_writer(self._channel.writing, self._writable)
            else:
                self._loop.remove_writer(self._channel.writing)

    def _start_reading(self) -> None:
        try:
            self._loop.add_reader(self._channel.reading, self._readable)
        except PermissionError:
            # epoll takes no regular file (`-monitor stdio < commands`), which is always ready.
            self._loop.call_soon(self._read_file)

    def _read_file(self) -> None:
        if self._reads and not self.closed:
            self._readable()
            self._loop.call_soon(self._read_file)

    def close(self) -> None:
        """End the connection now; what the client has not taken is lost."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._channel.reading)
        self._loop.remove_writer(self._channel.writing)
        self._channel.close()
        # Freed now, not when the cyclic collector comes by: it may be megabytes for each client that comes and goes.
        self._output, self._held, self._work = bytearray(), bytearray(), None
        on_closed, self._on_closed = self._on_closed, _nothing
        on_closed()
