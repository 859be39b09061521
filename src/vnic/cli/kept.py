"""Control's side of its keeper: systemd, or the supervisor of `vnic run --keep`.

`run` makes a `Service` before anything else and tells it when the set-up is done and when the end begins. Without a
keeper all of it does nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from typing import Final

from vnic.children import check_executable
from vnic.keep import NO_KEEP, Keep
from vnic.keeper.fdstore import FDS_MAX, SUPERVISORS_OWN
from vnic.keeper.messages import UPGRADE
from vnic.keeper.supervisor import EXIT_LEFT
from vnic.keeper.variables import Keeper, is_orphaned, take_keeper
from vnic.machine import Machine
from vnic.monitor.interfaces import ShutdownCause
from vnic.monitor.keeper import NO_KEEPER, KeeperInfo, KeeperKind
from vnic.net.errors import NetError
from vnic.quota import soft_limit
from vnic.state.fdtable import MOST_FILES
from vnic.state.keep import StoredKeep
from vnic.state.notify import NotifyError, Started, take_environment

log = logging.getLogger(__name__)

LEAVES: Final = signal.SIGUSR2
"""Asks to leave for a successor: systemd sends it for `systemctl restart` (RestartKillSignal=), where SIGTERM is an
orderly end, which guests see."""

UNTOLD_MAX: Final = 8
"""So often within the time of one message to the watchdog, a keeper that does not read is told again; then the log says
so."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1


class Service:
    """The keeper of this process, as the environment names it."""

    def __init__(self) -> None:
        """Take the variables out of the environment. Call it once, before this process opens descriptors."""
        parent = os.getppid()
        if is_orphaned(os.environ, parent):
            signal.raise_signal(signal.SIGTERM)  # as below
        self.keeper: Keeper | None = take_keeper(os.environ, parent)
        """The supervisor; None: systemd, or none."""
        self.started: Started = take_environment()
        self.keep: Keep = NO_KEEP
        """What is kept; without it, nobody can take this process's place, and to leave is to end."""
        self._ended = False
        self._untold = 0
        """How often in a row the keeper did not take that this process is alive."""
        self._machine: Machine | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._parent = parent
        self.end_with_supervisor()

    def end_with_supervisor(self) -> None:
        """A supervisor that was killed keeps nothing any more, and its user wants to see the end of vnic. To be called
        again when the process has become another user: that takes the signal away (prctl(2))."""
        if self.keeper is not None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != self._parent:
                signal.raise_signal(signal.SIGTERM)

    def connect(self) -> None:
        """Before the process becomes another user, who may not be able to reach the keeper's socket."""
        notifier = self.started.notifier
        if notifier is not None:
            try:
                notifier.connect()
            except NotifyError as error:
                log.warning("the keeper cannot be reached: %s", error)

    def open_keep(self, loop: asyncio.AbstractEventLoop) -> Keep:
        """What outlives this process, and what the one before has left."""
        notifier = self.started.notifier
        if notifier is not None:
            self.keep = StoredKeep(notifier, self.started.files, loop.call_soon, self._most_files())
        return self.keep

    def _most_files(self) -> int:
        """How many the keeper takes, beside the state itself. Our supervisor has the same limit of open files as this
        process; systemd tells FileDescriptorStoreMax=, and drops what is beyond it."""
        if self.keeper is None:
            told = self.started.store_max
            return MOST_FILES if told is None else min(MOST_FILES, told - 1)
        return min(FDS_MAX, (soft_limit() or FDS_MAX) - SUPERVISORS_OWN)

    @property
    def last_end(self) -> str:
        """How the process before ended, as the end of a sentence."""
        return (self.keeper.last_end if self.keeper is not None else "") or "ended"

    @property
    def ended_ns(self) -> int:
        """When it ended, by CLOCK_MONOTONIC; 0: unknown."""
        return self.keeper.ended_ns if self.keeper is not None else 0

    @property
    def supervised(self) -> bool:
        """Whether `vnic run --keep` started this process: -daemonize and -pidfile were done there."""
        return self.keeper is not None

    def take_signals(self, loop: asyncio.AbstractEventLoop, machine: Machine) -> None:
        """SIGINT, SIGTERM and SIGHUP end the machine in order; LEAVES leaves it as it is, for the next process."""
        for number in _ENDING:
            loop.add_signal_handler(number, machine.quit, ShutdownCause.HOST_SIGNAL)
        loop.add_signal_handler(LEAVES, self._leave_or_end, loop, machine)
        machine.keeper = self
        self._machine = machine

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The end is complete: a second Ctrl-C must not stop what is left of it."""
        for number in (*_ENDING, LEAVES):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        if self.started.notifier is not None:
            self.started.notifier.close()
        self._ended = True

    def ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """The set-up is done; from now on the keeper hears that the loop runs."""
        self._tell("READY=1")
        if self.started.watchdog_us is not None:
            self._live(loop, self.started.watchdog_us / 2_000_000)

    def _live(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        """A keeper that reads nothing for a while, because it is stopped or has much to store, is told again soon: it
        must not find a service that is silent, and kill it."""
        notifier = self.started.notifier
        if notifier is None or self._ended:
            return
        pause_s = interval_s
        try:
            notifier.alive()
            self._untold = 0
        except NotifyError as error:
            pause_s /= UNTOLD_MAX
            self._untold += 1
            if self._untold == UNTOLD_MAX:
                log.warning("the keeper is not told WATCHDOG=1: %s", error)
        loop.call_later(pause_s, self._live, loop, interval_s)

    def stopping(self) -> None:
        """The orderly end begins."""
        self._tell("STOPPING=1")

    def _tell(self, assignment: str) -> None:
        if self.started.notifier is None or self._ended:
            return
        try:
            self.started.notifier.send(assignment)
        except NotifyError as error:
            log.warning("the keeper is not told %s: %s", assignment, error)

    # -- to leave -----------------------------------------------------------------------------------------------

    def _leave_or_end(self, loop: asyncio.AbstractEventLoop, machine: Machine) -> None:
        if self.keep.active:
            self._start_leaving(None)
        else:
            machine.quit(ShutdownCause.HOST_SIGNAL)

    def _start_leaving(self, program: str | None) -> None:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave(program))

    async def _leave(self, program: str | None) -> None:
        """End this process without an end of the machine: its successor goes on with what is kept. `program`: what the
        supervisor is to start; None: what it has started before."""
        assert self._machine is not None
        await self._machine.journal.leave()
        self.keep.commit()
        if program is not None:
            self._tell(f"{UPGRADE}={program}")
        logging.shutdown()
        os._exit(EXIT_LEFT)

    # -- MachineKeeper ------------------------------------------------------------------------------------------

    def info(self) -> KeeperInfo | None:
        if self.keeper is not None:
            upgrade = self.keeper.upgrade or None
            return KeeperInfo(KeeperKind.SUPERVISOR, self.keep.active, self.keeper.pid, upgrade)
        if self.started.notifier is not None:
            return KeeperInfo(KeeperKind.SYSTEMD, self.keep.active)
        return None

    def upgrade(self, program: str | None, by: str) -> None:
        """systemd starts what its unit names, again at once because of the exit code; so no other program can be
        named there."""
        if self.started.notifier is None or not self.keep.active:
            NO_KEEPER.upgrade(program, by)
        if self.keeper is None and program is not None:
            raise NetError(
                "systemd starts what ExecStart= of the unit names: install the other version there"
            )
        if program is not None:
            check_program(program)
        log.info("%s asked for an upgrade%s", by, "" if program is None else f" to {program}")
        self._start_leaving((program or "") if self.keeper is not None else None)


def check_program(path: str) -> None:
    """Raises NetError unless it may be started. The keeper's lines name it, and it is one line of a message."""
    if not os.path.isabs(path) or not path.isprintable():
        raise NetError(f"'{path}' is not the absolute path of a program")
    try:
        check_executable(path)
    except OSError as error:
        raise NetError(f"Could not start '{path}': {error.strerror}") from None
