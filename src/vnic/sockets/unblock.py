"""Reads, writes and closes descriptors that a peer shares with us and could make block: kicks, calls, interrupts.

The device models and engines call it. O_NONBLOCK belongs to the open file, not to our descriptor: a peer can clear the
flag, fill the eventfd or the pipe, and make write() block for ever. While `guarded` is active, as in `vnic run`, a
signal ends such a call, which fails with Blocked.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from vnic.descriptors import HARMLESS, Kind, close_with, kind_of
from vnic.sockets.closers import closers

PATIENCE_S: Final = 0.01
"""The interval of the timer. A call that is found under way twice, and has slept in between, blocks. Any other call
takes about a microsecond of processor time, though it may be preempted."""

SIGNAL: Final = (1).to_bytes(8, "little")
"""The value that is written to an eventfd. A socketpair in its place (User-Mode Linux) gets the same eight bytes."""

FDS_ROOM: Final = socket.CMSG_LEN(4 * 253)
"""Ancillary bytes for the most descriptors that a message can have (SCM_MAX_FD of include/net/scm.h)."""
UNREAD_MAX: Final = 1024
UNREAD_BYTES: Final = 1 << 16
"""The most messages that a closed connection is searched for descriptors, and bytes of one; a socket's buffer holds a
third of them."""
_UNREAD_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)

P = ParamSpec("P")
T = TypeVar("T")

_NO_LINGER: Final = struct.pack("ii", 0, 0)


class Blocked(OSError):
    """The peer made the descriptor block. The peer is hostile and is to be disconnected."""


class _Watch:
    """The call that is under way, for the signal handler. The timer stops shortly after the last call, so that an idle
    process does not wake up."""

    installed = False
    armed = False
    calls = 0
    inside = 0
    """The number of the call under way, 0 for none."""
    suspect = 0
    """The number of the call that was under way when the timer last expired."""
    sleeps = 0
    """The number of voluntary context switches of this thread at that time."""
    fd = -1
    """What the call reads or writes; -1 for a close."""
    events = 0
    """What poll() says of it when the call does not block."""


_watch = _Watch()


@contextmanager
def guarded() -> Iterator[None]:
    """End calls that block. The main thread has to call it, and to make the calls."""
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
        # The timer repeats: an expiry right before the system call starts would not interrupt it.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, PATIENCE_S)


def _expired(number: int, frame: object) -> None:
    """The signal handler. It runs when the system call was interrupted, or between any two instructions."""
    if not _watch.inside:
        _watch.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    elif _watch.inside == _watch.suspect and _sleeps() > _watch.sleeps and not _is_ready():
        _watch.inside = 0  # raise once only, wherever the call is
        raise Blocked(errno.EWOULDBLOCK, "it was made to block")
    else:
        _watch.suspect = _watch.inside
        _watch.sleeps = _sleeps()


def _is_ready() -> bool:
    """Whether the call is done, or about to be: a thread that waits for the interpreter's lock after it has slept, too,
    and for long on a busy machine."""
    if _watch.fd < 0:
        return False
    poll = select.poll()
    poll.register(_watch.fd, _watch.events)
    return bool(poll.poll(0))


def _sleeps() -> int:
    """The number of voluntary context switches of this thread; preemption does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def write(fd: int, data: bytes) -> int:
    """os.write. BlockingIOError if there is no room, Blocked if the peer made the call block."""
    watch = _watch  # as `_watched`, without its call: each interrupt comes here
    watch.fd, watch.events = fd, select.POLLOUT
    watch.calls = watch.inside = watch.calls + 1
    if not watch.armed:
        _arm()
    try:
        return os.write(fd, data)
    finally:
        watch.inside = 0


def read(fd: int, size: int) -> bytes:
    """os.read, as `write`."""
    return _watched(fd, select.POLLIN, os.read, fd, size)


def close(fd: int, owner: str = "") -> None:
    """os.close, which always closes. The last close of a TCP socket waits for its peer if SO_LINGER is set, with
    O_NONBLOCK too: the option is cleared first, and a close that still blocks is ended like other calls. A descriptor
    that may block uninterruptibly is closed beside the loop (see `closers`), for the NIC `owner`."""
    kind = kind_of(fd)
    if kind is Kind.SOCKET:
        _forget_linger(fd)
    elif kind not in HARMLESS and kind is not Kind.CLOSED:
        closers.close(fd, owner)
        return
    _watched(-1, 0, os.close, fd)


def close_stream(sock: socket.socket, owner: str = "") -> None:
    """Close a connected stream socket. What a peer has sent over a UNIX socket and nobody has read may hold
    descriptors, which the kernel closes within the close: they are taken first, and closed as by `close`."""
    if sock.family == socket.AF_UNIX and sock.fileno() >= 0:
        try:
            sock.shutdown(socket.SHUT_RDWR)  # the peer can send no more
        except OSError:
            pass  # it has closed already
        for _ in range(UNREAD_MAX):
            try:
                data, ancillary, _, _ = sock.recvmsg(UNREAD_BYTES, FDS_ROOM, _UNREAD_FLAGS)
            except OSError:
                break
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    for (fd,) in struct.iter_unpack("i", payload[: len(payload) // 4 * 4]):
                        _close_unread(fd, owner)
            if not data:
                break
    sock.close()


def _close_unread(fd: int, owner: str) -> None:
    try:
        close(fd, owner)
    except OSError:
        pass  # it is closed all the same


def _watched(watched: int, events: int, call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    watch = _watch
    watch.fd, watch.events = watched, events
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
        return  # opened with O_PATH: its close ends no connection
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass
    finally:
        sock.detach()


close_with(close)
