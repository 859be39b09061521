"""Takes everything back from the vnic-wire of the process before, which was killed: before anything is restored, and in
the order in which nothing is lost, doubled or overtaken.

`machine.datapath` calls it at the start. It waits for vnic-wire, but not for ever: one that does not answer is killed,
and what a killed one leaves is known. What is read from the channel is kept before it is taken from there, so this
process may be killed at any instruction, too; the next one goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import (
    ALL_PORTS,
    MAX_MESSAGE_BYTES,
    STATS_PORTS,
    VERSION,
    Event,
    FrameReturned,
    GetStats,
    Hello,
    Kind,
    Log,
    Reply,
    Request,
    pack_request,
    parse_answer,
)
from vnic.dataplane.wire.recall_messages import Hold, PortRecall
from vnic.dataplane.wire.records import (
    FileRecord,
    FrameRecord,
    PortHandles,
    PortRecord,
    WireHandles,
    WireRecord,
)
from vnic.dataplane.wire.replies import HelloReply, Stats
from vnic.dataplane.wire.tunnel_messages import FrameReceived, GetSocketStats, SocketRemove
from vnic.keep import NO_KEPT, Keep, Kept

log = logging.getLogger("vnic.wire")

PATIENCE_S: Final = 2.0
"""How long vnic-wire may take for an answer; it takes microseconds."""
DEATH_S: Final = 5.0
"""How long a killed one may take to end."""
TOGETHER: Final = 32
"""Ports that are asked for at a time."""
SERIAL_BITS: Final = 24
_NO_HEADER: Final = bytes(10)


class _Silent(Exception):
    """vnic-wire does not answer as it should; the text says how."""


class LeftPort:
    """A port of the process before, as a Unit: what it left is kept until an end has it."""

    def __init__(self, keep: Keep, key: str, record: PortRecord, memory: int | None) -> None:
        self.record = record
        self.memory = memory
        """The descriptor of a stream's memory, until somebody takes it."""
        self.kept = keep.unit(key, self)

    def save_kept(self) -> tuple[PortRecord, PortHandles]:
        return self.record, PortHandles(self.memory)

    def add(self, frame: FrameRecord, last: int) -> None:
        """A frame that it had read."""
        self.set(frames=[*self.record.frames, frame], last_frame=last)

    def set(self, **fields: object) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)
        self.kept.changed()


class Recall:
    """What the process before had at vnic-wire. After `run` no other process has any of it."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self.ports: dict[int, LeftPort] = {}
        """By number."""
        self._record = WireRecord(life=0, restarts=0, pid=0)
        self._kept: Kept = NO_KEPT
        self.life = self.restarts = self.pid = 0
        self.serial = 0
        """Of the last request."""
        self.file: FileRecord | None = None
        self.hello = HelloReply(0, 0)
        self._greeting = Hello()
        self._sock: socket.socket | None = None
        self._pidfd = -1
        self.sockets: dict[int, bytes] = {}
        """The SocketStats of the receiving sockets of tunnels."""

    @property
    def runs(self) -> bool:
        """Whether vnic-wire runs, without ports."""
        return self._sock is not None

    def is_of(self, program: str, hello: Hello) -> bool:
        """Whether it is this program, and was started in this way."""
        return self.file is not None and self.file == file_of(program) and self._greeting == hello

    def take_sock(self) -> socket.socket:
        """The channel; it is the caller's from now on."""
        assert self._sock is not None
        sock, self._sock = self._sock, None
        return sock

    def take_pidfd(self) -> int:
        """The caller's from now on."""
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd

    def end(self) -> None:
        """Have the program end."""
        if self._sock is not None:
            sock = self.take_sock()
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended
            sock.close()

    def close(self) -> None:
        """Let go of a program that nobody adopts."""
        self.end()
        if self._pidfd >= 0:
            os.close(self.take_pidfd())

    # -- the order of events ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take all back. It blocks for milliseconds; with a vnic-wire that hangs, for some seconds."""
        keys = [key for key in self._keep.keys() if key.startswith("wire/")]  # noqa: SIM118
        found = self._keep.inherited("wire", WireRecord, WireHandles)
        for key in keys:
            port = self._keep.inherited(key, PortRecord, PortHandles)
            if port is not None:
                self.ports[port[0].number] = LeftPort(self._keep, key, port[0], port[1].memory)
        if found is None:
            return
        record, handles = found
        self.life, self.restarts = record.life + 1, record.restarts
        self._record = record
        if not self._open(record, handles):
            return
        self.serial = (self.life & 0xFF) << SERIAL_BITS
        self._kept = self._keep.unit("wire", self)
        self._keep.commit_early(self._kept)
        try:
            self._take_back(record)
        except _Silent as why:
            self._kill(str(why))

    def save_kept(self) -> tuple[WireRecord, WireHandles]:
        """As a Unit."""
        if self._sock is None:
            return WireRecord(life=self.life, restarts=self.restarts, pid=0), WireHandles(None, None)
        sockets = [
            msgspec.structs.replace(each, counters=self.sockets.get(each.number, each.counters))
            for each in self._record.sockets
        ]
        record = msgspec.structs.replace(
            self._record, life=self.life, restarts=self.restarts, sockets=sockets
        )
        return record, WireHandles(self._sock.fileno(), self._pidfd)

    def _open(self, record: WireRecord, handles: WireHandles) -> bool:
        """Whether there is a program, running or not."""
        self.pid, self.file = record.pid, record.file
        self.hello = HelloReply(
            record.protocol, record.pid, record.capabilities, record.features, record.protocol_features
        )
        self._greeting = Hello(workers=record.workers, spin_us=record.spin_us)
        channel, pidfd = handles
        if not record.pid or channel is None or pidfd is None:
            for fd in (channel, pidfd):
                if fd is not None:
                    os.close(fd)
            return False
        self._pidfd = pidfd
        try:
            if not _is_pidfd(pidfd, record.pid):
                raise OSError(errno.EINVAL, "not the descriptor of that process")
            self._sock = socket.socket(fileno=channel)
            if (self._sock.family, self._sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                raise OSError(errno.EINVAL, "not its channel")
            self._sock.setblocking(False)
        except OSError as error:
            log.error("vnic-wire: what was kept of process %d is refused: %s", record.pid, error.strerror)
            if self._sock is not None:
                self.take_sock().detach()
            os.close(channel)
            os.close(self.take_pidfd())
            return False
        for each in record.sockets:
            if each.counters:
                self.sockets[each.number] = each.counters
        return True

    def _take_back(self, record: WireRecord) -> None:
        if record.protocol != VERSION:
            spoken = f"it speaks version {record.protocol}" if record.protocol else "it was just started"
            raise _Silent(f"{spoken}, and cannot be asked to give back what it has")
        self._ask(Hold())  # from here on nothing passes between two ports
        numbers: list[int] = []
        page: Sequence[int] = range(STATS_PORTS)
        while len(page) == STATS_PORTS:
            (reply,) = self._ask(GetStats(ALL_PORTS, numbers[-1] + 1 if numbers else 0))
            page = [each.port for each in _parsed(reply).ports]
            numbers += page
        tunnels = {number for number, left in self.ports.items() if left.record.kind == Kind.TUNNEL}
        numbers.sort(
            key=lambda number: number in tunnels
        )  # the pause of their continuity checks is the shortest
        for at in range(0, len(numbers), TOGETHER):
            self._ask(*(PortRecall(number) for number in numbers[at : at + TOGETHER]))
        for each in record.sockets:
            counters, _ = self._ask(GetSocketStats(each.number), SocketRemove(each.number))
            if not counters.error:
                self.sockets[each.number] = counters.data
                self._keep.commit_early(self._kept)

    # -- the channel ----------------------------------------------------------------------------------------------

    def _ask(self, *requests: Request) -> list[Reply]:
        """Send requests and wait for their replies. Whatever else comes is taken, too. Raises _Silent."""
        assert self._sock is not None
        sending = []
        for request in requests:
            self.serial += 1
            sending.append(pack_request(self.serial, request))
        replies: list[Reply] = []
        first = self.serial - len(requests) + 1
        end = time.monotonic() + PATIENCE_S
        while len(replies) < len(requests):
            try:
                while sending:
                    self._sock.send(sending[0], socket.MSG_NOSIGNAL)
                    sending.pop(0)
            except BlockingIOError:
                pass
            except OSError as error:
                raise _Silent(error.strerror or str(error)) from None
            answer = self._next(end, bool(sending))
            if answer is None:
                continue
            end = time.monotonic() + PATIENCE_S
            self._take(answer)
            if isinstance(answer, Reply) and first <= answer.serial <= self.serial:
                replies.append(answer)
        return replies

    def _next(self, end: float, send: bool) -> Reply | Event | None:
        """The next message, which stays on the channel. None: there may be room to send."""
        assert self._sock is not None
        try:
            data = self._sock.recv(MAX_MESSAGE_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            self._wait(end, send)
            return None
        except OSError as error:
            raise _Silent(error.strerror or str(error)) from None
        if not data:
            raise _Silent("it ended")
        try:
            return parse_answer(data)
        except MessageError as error:
            raise _Silent(f"it sent an invalid message: {error}") from None

    def _wait(self, end: float, send: bool) -> None:
        assert self._sock is not None
        left = end - time.monotonic()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if send else 0))
        poll.register(self._pidfd, select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            raise _Silent(f"it did not answer within {PATIENCE_S:g} s")

    def _take(self, answer: Reply | Event) -> None:
        """Keep what it holds, and only then take it from the channel."""
        self._keep_answer(answer)
        self._consume()
        if isinstance(answer, FrameReceived):  # it has no number: twice would be worse than not at all
            left = self.ports.get(answer.port)
            if left is not None:
                left.add(FrameRecord(queue=0, header=_NO_HEADER, frame=answer.frame), left.record.last_frame)

    def _keep_answer(self, answer: Reply | Event) -> None:
        left: LeftPort | None = None
        match answer:
            case FrameReturned(number, queue, header, frame, running):
                left = self.ports.get(number)
                if left is not None and running > left.record.last_frame:
                    left.add(FrameRecord(queue=queue & 0xFFFF, header=header, frame=frame), running)
            case Reply(_, 0, data) if answer.request == PortRecall.type:
                left = self.ports.get(answer.port)
                if left is not None and not left.record.reply:
                    left.set(reply=data)
            case Log(level, text):
                log.log(min(max(level, logging.DEBUG), logging.ERROR), "vnic-wire: %s", text)
        if left is not None:
            self._keep.commit_early(left.kept)

    def _consume(self) -> None:
        assert self._sock is not None
        self._sock.recv(1)  # the rest of the message goes with it

    # -- the end of a program that is of no use ---------------------------------------------------------------------

    def _kill(self, why: str) -> None:
        """What it had is known after its end; what it knew is not."""
        log.warning("vnic-wire of the process before: %s; starting it again", why)
        self.restarts += 1
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(DEATH_S * 1000):
            log.error("vnic-wire: process %d does not end: what it has may be disturbed", self.pid)
        self.end()
        os.close(self._pidfd)
        self._pidfd = -1
        self._kept.handles_changed()
        self._keep.commit_early(self._kept)


def file_of(program: str) -> FileRecord | None:
    """Which file that is; None if it cannot be told."""
    try:
        info = os.stat(program)
    except OSError:
        return None
    return FileRecord(device=info.st_dev, inode=info.st_ino)


def _parsed(reply: Reply) -> Stats:
    try:
        return Stats.parse(reply.data)
    except MessageError as error:
        raise _Silent(f"it sent an invalid message: {error}") from None


def _is_pidfd(fd: int, pid: int) -> bool:
    """Whether it is the descriptor of that process, which may have ended."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            found = [line.split()[1] for line in lines if line.startswith("Pid:")]
    except OSError:
        return False
    return found in ([str(pid)], ["-1"])
