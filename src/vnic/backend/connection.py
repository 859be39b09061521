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
from vnic.backend.kept_stream import KeptStream, OutOfStep
from vnic.backend.output import KeptOutput, Output, PlainOutput
from vnic.net.lending import MAX_LENT_BYTES, Inject, Lender, Lent, LentKind
from vnic.net.queue import Frame
from vnic.record import Record, require
from vnic.sockets.connect import refuse_descriptors

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
    """The state of a FramedConnection apart from its socket. What is half read and half written is not here if there
    is a KeptStream."""

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
        kept: KeptStream | None = None,
        *,
        taken_up: bool = False,
    ) -> None:
        """`kept`: where it stands is kept there. `taken_up`: the socket is that of the process before; `restore`
        follows."""
        self._loop = loop
        self._sock = sock
        refuse_descriptors(sock)
        self._client = client
        self._lost = lost
        self._deframer = deframer or Deframer()
        self._kept = kept
        self._output: Output = PlainOutput(sock) if kept is None else KeptOutput(sock, kept)
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
        if not taken_up:
            if kept is not None:
                kept.begin(sock)
            loop.add_reader(sock, self._readable)

    # -- Lender -------------------------------------------------------------------------------------------------

    def can_lend(self, ready: Callable[[], None]) -> bool:
        """Not while more waits than a message to the other process takes."""
        if self._deframer.waiting_bytes + self._output.waiting <= MAX_LENT_BYTES:
            return True
        self._lendable = ready
        return False

    def _tell_lendable(self) -> None:
        ready, self._lendable = self._lendable, None
        if ready is not None and self._open:
            ready()

    def lend(self, inject: Inject) -> Lent:
        self._inject = inject
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sender_waits = self._paused = False
        return Lent((self._sock.fileno(),), input=self._deframer.save().rest, output=self._output.pending())

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        if self._inject is None or not self._open:
            return
        self._inject = None
        if lost:
            # Half a frame may be gone, in either direction, and the rest would be taken for whole ones.
            self._fail("vnic-wire ended in the middle of the stream")
            return
        self._go_on_from(input, output)

    def recalled(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        """The process before had lent it: go on from that state, and not from the one that was restored, before
        anything is read. `lost` as in `take_back`."""
        if not self._open:
            return
        if lost:
            self._fail_later("vnic-wire ended in the middle of the stream")
            return
        self._go_on_from(input, output)

    def _go_on_from(self, input: bytes, output: bytes) -> None:
        self._deframer.restore(DeframerRecord(rest=input))
        if self._kept is not None:
            self._kept.begin(self._sock)
            self._kept.set_rest(self._deframer.rest())
        self._output.set(output)
        self._loop.remove_writer(self._sock)
        if output:
            self._loop.add_writer(self._sock, self._writable)
        if not self._paused and not self._more_later:
            self._more_later = True
            self._loop.call_soon(self._deliver)

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save(self) -> FramedConnectionRecord:
        kept = self._kept is not None
        return FramedConnectionRecord(
            deframer=DeframerRecord(rest=b"") if kept else self._deframer.save(),
            out=b"" if kept else self._output.pending(),
            paused=not kept and self._paused,
            sender_waits=not kept and self._sender_waits,
            lost=self._failure,
        )

    @property
    def sock(self) -> socket.socket | None:
        """The socket that belongs to the record."""
        return self._sock if self._open else None

    def restore(self, record: FramedConnectionRecord) -> None:
        """Go on in the middle of a frame, both ways."""
        rest, output = record.deframer.rest, record.out
        if self._kept is not None:
            try:
                rest, output = self._kept.take_up(self._sock)
            except OutOfStep as error:
                log.warning("%s: the connection is closed: %s", self._client.name, error)
                self._fail_later(str(error))
                return
        self._deframer.restore(DeframerRecord(rest=rest))
        self._output.set(output, kept=True)
        self._sender_waits = record.sender_waits
        if output:
            self._loop.add_writer(self._sock, self._writable)
        if record.paused:
            self._pause()
        else:
            self._more_later = True
            self._loop.call_soon(self._deliver)

    # -- from the far end ---------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read one piece and pass its frames on; frames beyond the budget wait for the next turn."""
        peek = 0 if self._kept is None else socket.MSG_PEEK
        try:
            data = self._sock.recv(READ_BYTES, peek)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if not data:
            self._fail("peer closed the connection")
            return
        self._deframer.feed(data)
        if self._kept is not None and not self._take_out(self._kept, len(data)):
            return
        self._deliver()

    def _take_out(self, kept: KeptStream, size: int) -> bool:
        """Take out what was peeked at. False: the connection has failed."""
        kept.announce(self._deframer.rest())
        try:
            taken = len(self._sock.recv(size))
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        if taken != size:
            self._fail("bytes that were there are gone: another program reads them, too")
            return False
        kept.taken()
        return True

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
        output = self._output
        waiting = output.waiting
        if waiting >= WRITE_LIMIT_BYTES:
            self._sender_waits = True
            return False
        try:
            output.send(prefix or LENGTH.pack(len(frame)), frame)
        except OSError as error:
            # Not from this call: the caller is a NIC that is sending, and the link is about to change.
            self._fail_later(error.strerror or str(error))
            return True
        if not waiting and output.waiting:
            self._loop.add_writer(self._sock, self._writable)
        return True

    def _writable(self) -> None:
        try:
            self._output.write()
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if not self._output.waiting:
            self._loop.remove_writer(self._sock)
            self._tell_lendable()
        if self._sender_waits and self._output.waiting < WRITE_LIMIT_BYTES // 2:
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
        if self._inject is not None or self._kept is not None:
            self._inject = None
            with contextlib.suppress(OSError):  # vnic-wire, or the keeper, still has the socket
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
    kept: KeptStream | None = None,
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
    connection = FramedConnection(loop, sock, client, lost, deframer, kept, taken_up=True)
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
