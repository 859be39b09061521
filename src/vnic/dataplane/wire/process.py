"""The vnic-wire program: where it is, its start, and its restart when it dies.

`engine` has one `WireProgram`. The program has to be expendable: each start begins without ports, and the engine hands
all of them over again.
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

from vnic.children import Child
from vnic.dataplane.wire.channel import Answered, Channel
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import VERSION, Event, Hello, Reply, Request
from vnic.dataplane.wire.replies import HelloReply
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
    ) -> None:
        self._loop = loop
        self._command = list(command)
        self._user = user
        self._hello = Hello(workers=workers, spin_us=spin_us)
        self._channel: Channel | None = None
        self._child: Child | None = None
        self._children: set[Child] = set()
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
                command = [*_AS_FD_3, *self._command]
                child = Child(self._loop, command, stdin=theirs, stdout=subprocess.DEVNULL)
            except OSError as error:
                ours.close()
                self._give_up(f"vnic-wire cannot be started: {error.strerror}")
                return
        self._child = child
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        self.state = ProgramState.STARTING
        self._channel = Channel(self._loop, ours, self)
        self._channel.request(self._hello, answered=self._greeted)

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
        self.state = ProgramState.RUNNING
        self.hello = hello
        self.refusal = ""
        log.info("vnic-wire runs as process %d", hello.pid)
        self._user.program_ready()

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
        self.hello = None
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
