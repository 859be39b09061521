"""FramedConnection: a connected stream socket that carries a netdev's frames, with back-pressure both ways.

The stream, socket and passt back-ends and the filters make it and close it; `lost` reports that the peer has
disconnected.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import Protocol

from vnic.backend.base import READ_BUDGET_FRAMES, READ_BUDGET_S, log
from vnic.backend.framing import LENGTH, Deframer, DeframerRecord, FramingError
from vnic.net.lending import MAX_LENT_BYTES, Inject, Lender, Lent, LentKind
from vnic.net.queue import Frame
from vnic.record import Record, require

READ_BYTES = 128 * 1024
WRITE_LIMIT_BYTES = 512 * 1024
"""The bytes that may wait for the socket before the sender has to wait."""
HANGUP_POLL_S = 0.25
"""The interval at which a paused connection checks for a closed peer: it does not read, so no read can report it."""


class FrameUser(Protocol):
    """The user of a connection, which sends and receives frames: a NetClient, or a filter."""

    @property
    def name(self) -> str:
        """For log lines."""

    def send(self, queue: int, frame: Frame) -> bool:
        """Process a frame from the far end. False: there is no room until the connection's `resume`."""

    def flush(self, queue: int) -> None:
        """There is room again, after a `send` of the connection returned False."""


class FramedConnectionRecord(Record, frozen=True):
    """The state of a FramedConnection apart from its socket."""

    deframer: DeframerRecord
    out: bytes
    """What waits for the socket: the rest of a frame that is half sent, and whole ones."""
    paused: bool
    sender_waits: bool
    lost: str | None
    """The reason of its end, which its user is told in the loop's next turn; there is no socket any more."""

    def check_fields(self) -> None:
        require(self.out or not self.sender_waits, "sender_waits", "for nothing")

    def check(self, sock: socket.socket | None) -> None:
        """Raise RecordError unless the socket that was passed goes with it."""
        has_socket = self.lost is None
        passed = f"{'no' if has_socket else 'a'} socket was passed"
        require(has_socket is (sock is not None), "lost", f"is {self.lost!a}, and {passed}")


class FramedConnection(Lender):
    """Calls `lost(reason)` once, in a separate turn of the loop, when the peer disconnects; never after close."""

    kind = LentKind.STREAM

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        client: FrameUser,
        lost: Callable[[str], None],
        deframer: Deframer | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._client = client
        self._lost = lost
        self._deframer = deframer or Deframer()
        self._out = bytearray()
        self._out_at = 0
        self._sender_waits = False
        self._paused = False
        """The client behind has no room: nothing is read until `resume`."""
        self._more_later = False
        self._open = True
        self._failure: str | None = None
        """The reason that `lost` gets in the next turn."""
        self._hangup_timer: asyncio.TimerHandle | None = None
        self._inject: Inject | None = None
        """While the socket is lent: what sends a frame to the far end."""
        self._lendable: Callable[[], None] | None = None
        loop.add_reader(sock, self._readable)

    # -- Lender -------------------------------------------------------------------------------------------------

    def can_lend(self, ready: Callable[[], None]) -> bool:
        """Not while more waits than a message to the other process takes."""
        if self._deframer.waiting_bytes + len(self._out) - self._out_at <= MAX_LENT_BYTES:
            return True
        self._lendable = ready
        return False

    def _tell_lendable(self) -> None:
        ready, self._lendable = self._lendable, None
        if ready is not None and self._open:
            ready()

    def lend(self, inject: Inject) -> Lent:
        state = self.save()
        self._inject = inject
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._out.clear()
        self._out_at = 0
        self._sender_waits = self._paused = False
        return Lent((self._sock.fileno(),), input=state.deframer.rest, output=state.out)

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        if self._inject is None or not self._open:
            return
        self._inject = None
        if lost:
            # Half a frame may be gone, in either direction, and the rest would be taken for whole ones.
            self._fail("vnic-wire ended in the middle of the stream")
            return
        self._deframer.restore(DeframerRecord(rest=input))
        self._out = bytearray(output)
        if output:
            self._loop.add_writer(self._sock, self._writable)
        self._more_later = True
        self._loop.call_soon(self._deliver)

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save(self) -> FramedConnectionRecord:
        return FramedConnectionRecord(
            deframer=self._deframer.save(),
            out=bytes(memoryview(self._out)[self._out_at :]),
            paused=self._paused,
            sender_waits=self._sender_waits,
            lost=self._failure,
        )

    @property
    def sock(self) -> socket.socket | None:
        """The socket that belongs to the record."""
        return self._sock if self._open else None

    def restore(self, record: FramedConnectionRecord) -> None:
        """Go on in the middle of a frame, both ways."""
        self._deframer.restore(record.deframer)
        self._out, self._sender_waits = bytearray(record.out), record.sender_waits
        if self._out:
            self._loop.add_writer(self._sock, self._writable)
        if record.paused:
            self._pause()
        else:
            self._more_later = True
            self._loop.call_soon(self._deliver)

    # -- from the far end ---------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read one piece and pass its frames on; frames beyond the budget wait for the next turn."""
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if not data:
            self._fail("peer closed the connection")
            return
        self._deframer.feed(data)
        self._deliver()

    def _deliver(self) -> None:
        """Pass on whole frames within the budget; then read on, or return to the loop."""
        self._more_later = False
        end = self._loop.time() + READ_BUDGET_S
        try:
            for _ in range(READ_BUDGET_FRAMES):
                if self._stopped():
                    return
                if self._loop.time() > end:
                    break
                frame = self._deframer.next()
                if frame is None:
                    self._loop.add_reader(self._sock, self._readable)
                    self._tell_lendable()
                    return
                if frame and not self._client.send(0, frame):
                    self._pause()
                    return
        except FramingError as error:
            log.warning("%s: the peer is cut off: %s", self._client.name, error)
            self._fail(str(error))
            return
        if self._stopped():
            return
        self._loop.remove_reader(self._sock)  # the frames that were read come first
        self._more_later = True
        self._loop.call_soon(self._deliver)

    def _stopped(self) -> bool:
        """Check after every frame: its effects may close, pause or lend this connection."""
        return not self._open or self._paused or self._inject is not None

    def _pause(self) -> None:
        if self._open:
            self._paused = True
            self._loop.remove_reader(self._sock)
            self._watch_hangup()

    def resume(self) -> None:
        """The client behind has room again (the endpoint's `sent`)."""
        if not self._paused or not self._open:
            return
        self._paused = False
        if not self._more_later:
            self._more_later = True
            self._loop.call_soon(self._deliver)

    def _watch_hangup(self) -> None:
        """Watch for a close while paused: a link with a dead peer must not stay up because the guest does not take the
        remaining frames."""
        self._hangup_timer = None
        if not self._open or not self._paused:
            return
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        if poll.poll(0):
            self._fail("peer closed the connection")
        else:
            self._hangup_timer = self._loop.call_later(HANGUP_POLL_S, self._watch_hangup)

    # -- to the far end -----------------------------------------------------------------------------------------

    def send(self, frame: Frame, prefix: bytes = b"") -> bool:
        """Send a frame, behind its length or `prefix`. False: too much waits already, and the frame was not taken;
        `client.flush(0)` is called when there is room."""
        if not self._open:
            return True
        if self._inject is not None:
            self._inject(0, frame, b"")
            return True
        prefix = prefix or LENGTH.pack(len(frame))
        waiting = len(self._out) - self._out_at
        if waiting:
            if waiting >= WRITE_LIMIT_BYTES:
                self._sender_waits = True
                return False
            self._out += prefix
            self._out += frame
            return True
        try:
            done = self._sock.sendmsg((prefix, frame), (), socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            done = 0
        except OSError as error:
            # Not from this call: the caller is a NIC that is sending, and the link is about to change.
            self._fail_later(error.strerror or str(error))
            return True
        if done < len(prefix) + len(frame):
            self._out += prefix
            self._out += frame
            self._out_at = done
            self._loop.add_writer(self._sock, self._writable)
        return True

    def _writable(self) -> None:
        try:
            with memoryview(self._out) as view:
                self._out_at += self._sock.send(view[self._out_at :], socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if self._out_at == len(self._out):
            self._loop.remove_writer(self._sock)
            self._out.clear()
            self._out_at = 0
            self._tell_lendable()
        elif self._out_at >= WRITE_LIMIT_BYTES:
            del self._out[: self._out_at]
            self._out_at = 0
        if self._sender_waits and len(self._out) - self._out_at < WRITE_LIMIT_BYTES // 2:
            self._sender_waits = False
            self._client.flush(0)

    # -- the end ------------------------------------------------------------------------------------------------

    def _fail_later(self, reason: str) -> None:
        self._failure = reason
        self._shut()
        self._loop.call_soon(self._tell_lost, reason)

    def _fail(self, reason: str) -> None:
        self._shut()
        self._tell_lost(reason)

    def _tell_lost(self, reason: str) -> None:
        lost, self._lost, self._failure = self._lost, _ignore, None
        lost(reason)

    def close(self) -> None:
        """Close the socket; `lost` will not be called."""
        self._lost = _ignore
        self._shut()

    def _shut(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if self._inject is not None:
            self._inject = None
            with contextlib.suppress(OSError):  # the other process still has the socket
                self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        if self._hangup_timer is not None:
            self._hangup_timer.cancel()
            self._hangup_timer = None


def restored_connection(
    loop: asyncio.AbstractEventLoop,
    record: FramedConnectionRecord | None,
    sock: socket.socket | None,
    client: FrameUser,
    lost: Callable[[str], None],
    deframer: Deframer | None = None,
) -> FramedConnection | None:
    """The connection of a record that was checked; None if there was none, or if it ended meanwhile: then `lost` is
    called in the next turn."""
    if record is None:
        return None
    if record.lost is not None:
        loop.call_soon(lost, record.lost)
        return None
    assert sock is not None
    sock.setblocking(False)
    connection = FramedConnection(loop, sock, client, lost, deframer)
    connection.restore(record)
    return connection


def check_connection(record: FramedConnectionRecord | None, sock: socket.socket | None) -> None:
    """Raise RecordError unless `restored_connection` can be called with these."""
    if record is not None:
        record.check(sock)
    else:
        require(sock is None, "", "is missing, and a socket was passed")


def _ignore(reason: str) -> None:
    """The callback after `close`."""
