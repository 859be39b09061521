"""Starts control as a child of the supervisor, with the descriptors that it stored before."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from vnic.keeper.fdstore import FIRST, FdStore
from vnic.keeper.variables import FIRST as FIRST_VARIABLE
from vnic.keeper.variables import NAMES_BYTES_MAX, NAMES_FD

EXIT_CANNOT_START: Final = 127
"""As a shell's, of a program that is not there."""


def start(
    command: Sequence[str], environment: Mapping[str, str], store: FdStore, signals: Sequence[signal.Signals]
) -> int:
    """Fork and exec. `environment`: what the child gets beside what its own pid decides. `signals` are those that the
    supervisor handles. Returns the pid; a program that cannot be started is a child that ends with
    EXIT_CANNOT_START."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, signals
    )  # one that comes now waits for the child's own handler
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.execvpe(command[0], list(command), {**environment, **passed(store)})
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # who read stderr may have gone
            print(f"vnic: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_CANNOT_START)  # whatever happens: there must be no second supervisor


class Times(NamedTuple):
    """Of a process's main thread."""

    ran_ns: int
    """On a processor."""
    queued_ns: int
    """Able to run, without a processor; a wait that is under way is not in it."""
    runnable: bool
    """Whether it can run now."""


NO_TIMES: Final = Times(0, 0, False)


def times_of(pid: int) -> Times:
    """See proc_pid_stat(5) and Documentation/scheduler/sched-stats.rst; NO_TIMES where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/schedstat") as told:
            ran, queued, _ = map(int, told.read().split())
        with open(f"/proc/{pid}/stat") as told:
            state = told.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError, ValueError):
        return NO_TIMES
    return Times(ran, queued, state == "R")


def passed(store: FdStore) -> dict[str, str]:
    """Move the stored descriptors to where the new program looks for them; the variables that tell it so."""
    own = str(os.getpid())
    variables = {"WATCHDOG_PID": own}
    names = store.hand_over()
    if not names:
        return variables
    variables |= {"LISTEN_PID": own, "LISTEN_FDS": str(len(names))}
    if store.first != FIRST:
        variables[FIRST_VARIABLE] = str(store.first)
    text = ":".join(names)
    if len(text) <= NAMES_BYTES_MAX:
        return variables | {"LISTEN_FDNAMES": text}
    memory = os.memfd_create("vnic-fdnames")
    os.write(memory, text.encode())
    number = store.first + len(names)
    if memory == number:
        os.set_inheritable(memory, True)
    else:
        os.dup2(memory, number)
    return variables | {NAMES_FD: str(number)}
