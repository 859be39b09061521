"""The connection of one monitor client: reads, runs and writes without blocking. `ports` makes it for QMP and HMP.

Both directions are bounded. Commands run only as fast as the client reads the answers; a client that does not read even
its events is disconnected.
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
from vnic.sockets import unblock
from vnic.sockets.connect import refuse_descriptors
from vnic.sockets.connection import receive

log = logging.getLogger(__name__)

READ_BYTES = 4096
"""The size of one read (CHR_READ_BUF_LEN of QEMU's char.h)."""

MESSAGE_FDS_MAX = 16
"""The most descriptors with one message (TCP_MAX_FDS of QEMU's char-socket.c)."""

ANYTHING = frozenset(Kind)
"""The kinds of descriptors in a message. Files are allowed, such as a tap; a command must check that its use of one
cannot block."""

REPLIES_PER_TURN = 16
TURN_S = 0.005
"""The work for one client in a turn of the loop: 4096 bytes of garbage are as many errors, 50 ms of work, and one query
may take several milliseconds."""

PAUSE_BYTES = 1 << 16
"""With more unread output than this, no further command of the client runs."""

OUTPUT_MAX_BYTES = 1 << 23
"""With more unread output than this, the client is disconnected."""


class Session(Protocol):
    """The language of a connection: a QMP or HMP session."""

    who: str
    waits_for: asyncio.Future[Any] | None
    """The next reply is requested when this is done."""

    def greeting(self) -> bytes: ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The replies to the messages that end in `data`. A reply may consist of pieces, of which the last ends with a
        line end."""

    def event(self, message: dict[str, object]) -> bytes | None: ...


class Channel(Protocol):
    """Input and output that do not block."""

    reading: int
    """The descriptor to wait on before `receive`."""
    writing: int
    """The descriptor to wait on before `send`."""

    def receive(self) -> bytes: ...

    def send(self, data: bytes | bytearray) -> int: ...

    def take_fd(self) -> int | None:
        """The first descriptor of the last message, which the caller owns; the others are closed."""

    def close(self) -> None: ...


class CutOffError(Exception):
    """Data from the client ends the connection; `str()` is the reason, for the log."""


class SocketChannel:
    """A connected stream socket; a UNIX one may carry descriptors (tcp_chr_recv)."""

    def __init__(self, connected: socket.socket, *, takes_fds: bool = True) -> None:
        """`takes_fds`: whether commands use descriptors; otherwise a client that passes one is disconnected."""
        connected.setblocking(False)
        self._socket = connected
        self._carries_fds = connected.family == socket.AF_UNIX
        self._carries = ANYTHING if takes_fds else frozenset[Kind]()
        if not takes_fds:
            refuse_descriptors(connected)
        self.reading = self.writing = connected.fileno()
        self._fds: list[int] = []
        """The descriptors of the last message, until a command takes the first of them."""
        self._http = HttpGuard()

    def receive(self) -> bytes:
        """Raises CutOffError, and the errors of recvmsg."""
        if not self._carries_fds:
            data = self._socket.recv(READ_BYTES)
            if self._http.is_http(data):
                raise CutOffError("it speaks HTTP, as a browser does")
            return data
        try:
            data, fds = receive(self._socket, READ_BYTES, MESSAGE_FDS_MAX, carries=self._carries)
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
        unblock.close_stream(self._socket)
        close_fds(self._fds)
        self._fds = []


class StdioChannel:
    """Standard input and output.

    O_NONBLOCK belongs to the open file, which the shell and our stderr share: a terminal or pipe is opened again.
    """

    def __init__(self, *, raw: bool = False) -> None:
        """`raw`: while this is open, the terminal passes on each key without echo (qemu_chr_set_echo_stdio)."""
        self._restore: Callable[[], None] = _nothing
        if raw and os.isatty(0):
            from vnic.monitor.terminal import pass_on_keys  # imported late: programs have no terminal

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
        return os.read(self.reading, READ_BYTES)  # called only when there is input, or its end

    def send(self, data: bytes | bytearray) -> int:
        return os.write(self.writing, data)

    def take_fd(self) -> int | None:
        return None

    def close(self) -> None:
        self._restore()
        os.close(self.reading)
        os.close(self.writing)


def _nothing() -> None:
    """No terminal was changed, and there is nothing to restore."""


class ClientConnection:
    """A client of a monitor, from its greeting to its end; `closed` is called once."""

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
        """Events that occurred during a reply."""
        self._amid_reply = False
        self._work: Iterator[bytes] | None = None
        """Replies to the input, made one by one as the client takes them."""
        self._running = False
        self._more_later = False
        """The rest of the input waits for the loop's next turn, or for an asynchronous command."""
        self._ended = False
        """The client has half-closed; it still gets its replies."""
        self.closed = False
        self._reads = self._writes = False
        self.active_at = loop.time()
        """The time of the client's last input."""

    def start(self) -> None:
        """Send the greeting, and start to read."""
        self._output += self.session.greeting()
        self._flush()

    # -- out ----------------------------------------------------------------------------------------------------

    def event(self, message: dict[str, object]) -> None:
        """Send an event to the client, if its session accepts events."""
        data = self.session.event(message)
        if data is None or self.closed:
            return
        if self._amid_reply:
            self._held += data
        else:
            self._output += data
        if not self._running:  # otherwise it is sent with the reply, before it as in QEMU
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
        """Run the input, within the budget of a turn and of unread output."""
        self._more_later = False
        if self._work is None:
            return
        self._running = True
        end = self._loop.time() + TURN_S
        try:
            for _ in range(REPLIES_PER_TURN):
                reply = next(self._work, None)
                if self.closed:
                    return  # the event exceeded the client's limit
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
        """The asynchronous command has finished."""
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
            # epoll does not support regular files (`-monitor stdio < commands`), which are always ready.
            self._loop.call_soon(self._read_file)

    def _read_file(self) -> None:
        if self._reads and not self.closed:
            self._readable()
            self._loop.call_soon(self._read_file)

    def close(self) -> None:
        """Close the connection now; unsent output is lost."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._channel.reading)
        self._loop.remove_writer(self._channel.writing)
        self._channel.close()
        # Freed now, not at the next cyclic collection: it may be megabytes for each client.
        self._output, self._held, self._work = bytearray(), bytearray(), None
        on_closed, self._on_closed = self._on_closed, _nothing
        on_closed()
