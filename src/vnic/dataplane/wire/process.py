"""The vnic-wire program: where it is, its start, and its restart when it dies.

`engine` has one `WireProgram`. The program has to be expendable: each start begins without ports, and the engine hands
all of them over again. It outlives this process where a keeper holds its channel: then the next process adopts it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from vnic.children import Adopted, Child
from vnic.dataplane.wire.channel import Answered, Channel
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import VERSION, Event, Hello, Reply, Request
from vnic.dataplane.wire.recall import Recall, file_of
from vnic.dataplane.wire.records import FileRecord, SocketRecord, WireHandles, WireRecord
from vnic.dataplane.wire.replies import HelloReply
from vnic.keep import NO_KEEP, NO_KEPT, Keep, Kept
from vnic.lifecycle import Lifecycle, Moves

log = logging.getLogger("vnic.wire")

PROGRAM: Final = Path(__file__).with_name("vnic-wire")
"""Where `build` puts it, in a source tree and in a wheel."""
VARIABLE: Final = "VNIC_WIRE"
"""The environment variable with another program's path, or `off`."""

RESTART_S: Final = 0.01
"""The pause before a restart, doubled after each death,"""
RESTART_MAX_S: Final = 1.0
"""up to this."""
DEATHS: Final = 8
"""After so many deaths"""
DEATHS_WITHIN_S: Final = 30.0
"""in this time it is not started again."""
GRACE_S: Final = 0.5
"""How long a program whose channel is closed may take to end."""

NOT_BUILT: Final = "vnic-wire is not built on this machine"
TOO_OFTEN: Final = "vnic-wire was restarted too often"
RESTARTING: Final = "vnic-wire is being restarted"

# The channel is descriptor 3; Popen can only set 0, 1 and 2.
_AS_FD_3: Final = ("sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh")


def command_line(command: Sequence[str]) -> tuple[str, ...]:
    """How a program is started that is this command."""
    return (*_AS_FD_3, *command)


def switched_off() -> bool:
    """Whether the environment says `off`."""
    return os.environ.get(VARIABLE) == "off"


def find_program() -> Path | None:
    """The program, None if there is none."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else PROGRAM
    return path if path.is_file() and os.access(path, os.X_OK) else None


class ProgramState(enum.Enum):
    """The state of the program."""

    IDLE = enum.auto()
    """Not needed yet."""
    STARTING = enum.auto()
    """Started; its HELLO is awaited."""
    RUNNING = enum.auto()
    ENDING = enum.auto()
    """Its channel is lost; the end of its process is awaited."""
    WAITING = enum.auto()
    """It died; the time of its restart is awaited."""
    GIVEN_UP = enum.auto()
    """It died too often, or is not this version's."""
    CLOSED = enum.auto()


MOVES: Final[Moves[ProgramState]] = {
    ProgramState.IDLE: frozenset({ProgramState.STARTING, ProgramState.GIVEN_UP, ProgramState.CLOSED}),
    ProgramState.STARTING: frozenset(
        {ProgramState.RUNNING, ProgramState.ENDING, ProgramState.GIVEN_UP, ProgramState.CLOSED}
    ),
    ProgramState.RUNNING: frozenset({ProgramState.ENDING, ProgramState.CLOSED}),
    ProgramState.ENDING: frozenset({ProgramState.WAITING, ProgramState.GIVEN_UP, ProgramState.CLOSED}),
    ProgramState.WAITING: frozenset({ProgramState.STARTING, ProgramState.GIVEN_UP, ProgramState.CLOSED}),
    ProgramState.GIVEN_UP: frozenset({ProgramState.CLOSED}),
    ProgramState.CLOSED: frozenset(),
}


class ProgramUser(Protocol):
    """The engine, as its program sees it."""

    def program_ready(self) -> None:
        """A program runs that has no ports yet."""

    def program_gone(self) -> None:
        """It died with all its ports, or will not be started again; `refusal` says what follows."""

    def happened(self, event: Event) -> None: ...


class WireProgram:
    """Keeps one program running from the first `start` to `close`."""

    state = Lifecycle(ProgramState.IDLE, MOVES)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        user: ProgramUser,
        *,
        workers: int = 1,
        spin_us: int = 0,
        keep: Keep = NO_KEEP,
    ) -> None:
        self._loop = loop
        self._keep = keep
        self.kept: Kept = NO_KEPT
        """The unit `wire`, from the first start or adoption on."""
        self.life = 0
        """See WireRecord."""
        self.sockets: set[int] = set()
        """The numbers of the sockets of tunnels that it has; who changes it calls `kept.changed`."""
        self._file: FileRecord | None = None
        """Of the program that runs."""
        self._recalled: Recall | None = None
        """The program that is adopted when all else is restored,"""
        self._adopted: Adopted | None = None
        """and its process."""
        self._command = list(command)
        self._user = user
        self._hello = Hello(workers=workers, spin_us=spin_us)
        self._channel: Channel | None = None
        self._child: Child | Adopted | None = None
        self._children: set[Child | Adopted] = set()
        """Those that have not ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = RESTART_S
        self._deaths: deque[float] = deque()
        self.refusal = ""
        """Why it does not run, as a reason for the Python path."""
        self.restarts = 0
        self.hello: HelloReply | None = None
        """Of the program that runs."""

    @property
    def pid(self) -> int | None:
        return None if self.hello is None else self.hello.pid

    @property
    def running(self) -> bool:
        return self.state is ProgramState.RUNNING

    @property
    def will_run(self) -> bool:
        """Whether `program_ready` will be called, without anybody's doing."""
        return self.state in (ProgramState.STARTING, ProgramState.ENDING, ProgramState.WAITING)

    @property
    def channel(self) -> Channel:
        """The channel of the program that runs; it takes requests, without effect, also after that has died."""
        assert self._channel is not None
        return self._channel

    def start(self) -> None:
        """Start it, if that was not done yet."""
        if self.state is ProgramState.IDLE:
            self._start()

    def request(self, request: Request, fds: Sequence[int] = (), answered: Answered | None = None) -> None:
        """Send a request to the program that runs; see Channel.request."""
        if self._channel is not None and self.running:
            self._channel.request(request, fds, answered)

    # -- the process before -------------------------------------------------------------------------------------

    def restore(self, recall: Recall) -> None:
        """Take the place of the process before, whose program was recalled. One that runs is used once `adopt` is
        called; until then it counts as one that is being started."""
        self.life, self.restarts = recall.life, recall.restarts
        if not recall.runs:
            return
        if recall.is_of(self._command[0], self._hello):
            self._recalled = recall
            self.state = ProgramState.STARTING
        else:
            log.info("vnic-wire: process %d is that of another vnic, and is replaced", recall.pid)
            recall.end()
        self._adopted = child = self._watched(recall)
        if self._recalled is None:
            timer = self._loop.call_later(GRACE_S, child.kill)
            child.ended.add_done_callback(lambda _: timer.cancel())

    def adopt(self) -> None:
        """All else is restored."""
        recall, self._recalled = self._recalled, None
        if recall is None:
            return
        self._child = self._adopted
        self._file = recall.file
        self._open(recall.take_sock(), serial=recall.serial)
        self.kept = self._keep.unit("wire", self)
        self._is_running(recall.hello)
        log.info("vnic-wire goes on as process %d", recall.pid)
        self._user.program_ready()

    def _watched(self, recall: Recall) -> Adopted:
        child = Adopted(self._loop, recall.take_pidfd())
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        return child

    def save_kept(self) -> tuple[WireRecord, WireHandles]:
        """As a Unit."""
        channel, child = self._channel, self._child
        if channel is None or channel.closed or child is None or child.ended.done():
            return WireRecord(life=self.life, restarts=self.restarts, pid=0), WireHandles(None, None)
        pid = child.pid if isinstance(child, Child) else self.hello.pid if self.hello is not None else 0
        hello = self.hello or HelloReply(0, pid)
        record = WireRecord(
            life=self.life,
            restarts=self.restarts,
            pid=pid,
            protocol=hello.version,
            capabilities=hello.capabilities,
            features=hello.features,
            protocol_features=hello.protocol_features,
            workers=self._hello.workers,
            spin_us=self._hello.spin_us,
            file=self._file,
            sockets=[SocketRecord(number=number) for number in sorted(self.sockets)],
        )
        return record, WireHandles(channel.sock.fileno(), child.pidfd)

    def _changed(self) -> None:
        self.kept.changed()
        self.kept.handles_changed()

    # -- start --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._timer = None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._give_up(f"vnic-wire cannot be started: {error.strerror}")
            return
        with theirs:
            try:
                # Not `with_us`: the end of the channel ends it, after it has told the far ends of tunnels.
                child = Child(
                    self._loop, command_line(self._command), stdin=theirs, stdout=subprocess.DEVNULL
                )
            except OSError as error:
                ours.close()
                self._give_up(f"vnic-wire cannot be started: {error.strerror}")
                return
        self._child = child
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        self.state = ProgramState.STARTING
        self.life += 1
        self._file = file_of(self._command[0])
        self._open(ours)
        if self.kept is NO_KEPT:
            self.kept = self._keep.unit("wire", self)
        self._changed()
        self.channel.request(self._hello, answered=self._greeted)

    def _open(self, sock: socket.socket, serial: int = 0) -> None:
        self._channel = Channel(self._loop, sock, self, keep=self._keep, serial=serial)

    def _greeted(self, reply: Reply) -> None:
        try:
            if reply.error:
                raise MessageError(reply.data.decode(errors="replace") or os.strerror(reply.error))
            hello = HelloReply.parse(reply.data)
            if hello.version != VERSION:
                raise MessageError(f"it speaks version {hello.version}")
        except MessageError as error:
            self._end()
            self._give_up(f"vnic-wire is not that of this vnic: {error}")
            return
        self._is_running(hello)
        self.kept.changed()
        log.info("vnic-wire runs as process %d", hello.pid)
        self._user.program_ready()

    def _is_running(self, hello: HelloReply) -> None:
        self.state = ProgramState.RUNNING
        self.hello = hello
        self.refusal = ""

    # -- the end of a program (ChannelUser) ---------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        self._user.happened(event)

    def channel_lost(self, reason: str) -> None:
        child = self._child
        assert child is not None
        self._end()
        self.state = ProgramState.ENDING
        self.refusal = RESTARTING
        child.kill()
        # It may hang, and still have what it was lent: nobody else may touch that before it has ended.
        child.ended.add_done_callback(lambda _: self._ended(reason))

    def _ended(self, reason: str) -> None:
        if self.state is not ProgramState.ENDING:
            return
        now = self._loop.time()
        self._deaths.append(now)
        while now - self._deaths[0] > DEATHS_WITHIN_S:
            self._deaths.popleft()
        if len(self._deaths) == 1:
            self._pause_s = RESTART_S
        if len(self._deaths) >= DEATHS:
            log.error(
                "vnic-wire: %s, for the %dth time: Python moves all packets from now on", reason, DEATHS
            )
            self._give_up(TOO_OFTEN, told=True)
            return
        log.warning("vnic-wire: %s; starting it again", reason)
        self.state = ProgramState.WAITING
        self.restarts += 1
        self._timer = self._loop.call_later(self._pause_s, self._start)
        self._pause_s = min(2 * self._pause_s, RESTART_MAX_S)
        self._user.program_gone()

    def _give_up(self, reason: str, *, told: bool = False) -> None:
        if not told:
            log.error("%s: Python moves all packets", reason)
        self.state = ProgramState.GIVEN_UP
        self.refusal = reason
        self._user.program_gone()

    def _end(self) -> None:
        """Close the channel, which ends the program, and kill one that stays."""
        channel, self._channel = self._channel, None
        child, self._child = self._child, None
        recall, self._recalled = self._recalled, None
        self.hello = None
        self.sockets.clear()
        self._changed()
        if recall is not None:  # it was not adopted yet
            recall.end()
            child = self._adopted
        if channel is not None:
            channel.close()
        if child is not None and not child.ended.done():
            timer = self._loop.call_later(GRACE_S, child.kill)
            child.ended.add_done_callback(lambda _: timer.cancel())

    def close(self) -> None:
        """End the program, and do not start it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.state = ProgramState.CLOSED
        self.refusal = "vnic is shutting down"
        self._end()

    @property
    def has_ended(self) -> bool:
        """Whether no process is left; after `close`, that takes GRACE_S at the most."""
        return not self._children

    async def wait_ended(self) -> None:
        """Wait until no process is left."""
        for child in list(self._children):
            await child.wait()
