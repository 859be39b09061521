"""Reading, writing and closing descriptors that a peer shares with us, and could make block: kicks, calls, interrupts.

O_NONBLOCK belongs to the open file, not to our descriptor of it: a peer that passed us one can take the flag off again,
fill the eventfd or the pipe, and have us wait in write() for ever. Where `vnic run` is `guarded`, a signal ends such
a call, which fails with Blocked.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from vnic.descriptors import HARMLESS, Kind, close_with, kind_of
from vnic.sockets.closers import closers

PATIENCE_S: Final = 0.01
"""A call that is found under way twice, so long apart, and has slept in between, blocks; any other takes a microsecond
of the processor, which may be elsewhere meanwhile."""

SIGNAL: Final = (1).to_bytes(8, "little")
"""What is written to an eventfd; a socketpair in an eventfd's place (User-Mode Linux) gets the same eight bytes."""

P = ParamSpec("P")
T = TypeVar("T")

_NO_LINGER: Final = struct.pack("ii", 0, 0)


class Blocked(OSError):
    """The peer made the descriptor block: it means harm, and is to be left."""


class _Watch:
    """Which call is under way, for the signal's handler. The timer runs for a moment behind the last call only, so
    that an idle process is not woken."""

    installed = False
    armed = False
    calls = 0
    inside = 0
    """The number of the call under way, 0 for none."""
    suspect = 0
    """The one that was under way when the timer last expired."""
    sleeps = 0
    """How often this thread had waited for something by then."""


_watch = _Watch()


@contextmanager
def guarded() -> Iterator[None]:
    """Have calls that block ended. In the main thread, which has to be the one that makes them."""
    before = signal.signal(signal.SIGALRM, _expired)
    _watch.installed = True
    try:
        yield
    finally:
        _watch.installed = _watch.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _arm() -> None:
    _watch.armed = _watch.installed
    if _watch.installed:
        # Again and again: an expiry right before the system call begins would not interrupt it.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, PATIENCE_S)


def _expired(number: int, frame: object) -> None:
    """Runs when the system call was interrupted, or between two instructions of anything else."""
    if not _watch.inside:
        _watch.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    elif _watch.inside == _watch.suspect and _sleeps() > _watch.sleeps:
        _watch.inside = 0  # so that this is raised once, wherever the call has got to
        raise Blocked(errno.EWOULDBLOCK, "it was made to block")
    else:
        _watch.suspect = _watch.inside
        _watch.sleeps = _sleeps()


def _sleeps() -> int:
    """How often this thread gave the processor away because it had to wait; that it was taken away does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def write(fd: int, data: bytes) -> int:
    """os.write. BlockingIOError where there is no room, Blocked where the peer had us wait for it."""
    return _watched(os.write, fd, data)


def read(fd: int, size: int) -> bytes:
    """os.read, as `write`."""
    return _watched(os.read, fd, size)


def close(fd: int, owner: str = "") -> None:
    """os.close, in any case. The last close of a TCP socket waits for its peer, O_NONBLOCK or not, where SO_LINGER says
    so: that is taken off, and a wait that comes nevertheless is ended like those of the others. What is not known to
    be harmless is closed beside the loop (see `closers`), for the NIC `owner`."""
    kind = kind_of(fd)
    if kind is Kind.SOCKET:
        _forget_linger(fd)
    elif kind not in HARMLESS and kind is not Kind.CLOSED:
        closers.close(fd, owner)
        return
    _watched(os.close, fd)


def _watched(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    watch = _watch
    watch.calls = watch.inside = watch.calls + 1
    if not watch.armed:
        _arm()
    try:
        return call(*arguments, **more)
    finally:
        watch.inside = 0


def _forget_linger(fd: int) -> None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return  # opened with O_PATH: closing it ends no connection
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass
    finally:
        sock.detach()


close_with(close)
