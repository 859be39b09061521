"""A FUSE file system with one file, whose daemon answers only the requests that opening the file needs.

A close of the file sends FLUSH and blocks until the connection is aborted. Mount it around all code that may hold the
file: a process with an open descriptor of it cannot end before `abort`, not even by SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.conftest import require

# include/uapi/linux/fuse.h
_HEADER: Final = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_ANSWER: Final = struct.Struct("<IiQ")  # length, errno, unique
_ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")  # struct fuse_attr
_LOOKUP, _FORGET, _GETATTR, _OPEN, _INIT, _OPENDIR, _INTERRUPT, _FORGET_MANY = 1, 2, 3, 14, 26, 27, 36, 42
_FLUSH: Final = 25
_ENOSYS: Final = 38
_FILE_NODE: Final = 2
_MNT_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == 1 else 0o100666
    size = 0 if node == 1 else 1 << 21
    return _ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


class DeafFuse:
    """The daemon, in a separate thread."""

    def __init__(self, device: int, path: Path) -> None:
        self.path = path
        self.expected = 0
        self.flushes = 0
        """The number of closes that wait."""
        self._device = device
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._stop in ready:
                return
            try:
                self._answer(os.read(self._device, 1 << 20))
            except OSError:
                return  # unmounted

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode == _INIT:
            body = struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 16, 12, 1 << 17, 1, 32, 0, 0) + bytes(28)
        elif opcode == _LOOKUP:
            body = struct.pack("<QQQQII", _FILE_NODE, 0, 3600, 3600, 0, 0) + _attributes(_FILE_NODE)
        elif opcode == _GETATTR:
            body = struct.pack("<QII", 3600, 0, 0) + _attributes(node)
        elif opcode in (_OPEN, _OPENDIR):
            body = struct.pack("<QII", 1, 0, 0)
        elif opcode in (_FORGET, _FORGET_MANY, _INTERRUPT):
            return
        elif opcode == _FLUSH:
            self.flushes += 1
            return
        else:
            os.write(self._device, _ANSWER.pack(_ANSWER.size, -_ENOSYS, unique))
            return
        os.write(self._device, _ANSWER.pack(_ANSWER.size + len(body), 0, unique) + body)

    def pass_on(self, sock: socket.socket, data: bytes, count: int = 1) -> None:
        """Send the file `count` times with `data`. Our own descriptor of it is closed by a thread that hangs in that,
        so that no program which this process starts inherits it."""
        fd = os.open(self.path / "file", os.O_RDWR)
        socket.send_fds(sock, [data], [fd] * count)
        threading.Thread(target=self._close, args=(fd,), daemon=True).start()
        self.expected += count + 1

    @staticmethod
    def _close(fd: int) -> None:
        with contextlib.suppress(OSError):  # the connection was aborted
            os.close(fd)

    def all_wait(self) -> bool:
        """Whether all that were passed are in their close."""
        return self.flushes == self.expected

    def abort(self) -> None:
        """As `echo 1 > /sys/fs/fuse/connections/N/abort`: all that waits fails. May be called again."""
        if self._stop >= 0:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            os.close(self._device)  # the daemon's end: the kernel aborts the connection
            os.close(self._stop)
            self._stop = -1


@contextlib.contextmanager
def deaf_fuse(folder: Path) -> Iterator[DeafFuse]:
    """Mounted below `folder`; skips the test where that may not be done."""
    path = folder / "fuse"
    path.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        require(False, "/dev/fuse")
        raise
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if _libc.mount(b"deaf", os.fsencode(path), b"fuse.deaf", 0, options.encode()):
        os.close(device)
        require(False, "the right to mount a FUSE file system")
    daemon = DeafFuse(device, path)
    try:
        yield daemon
    finally:
        daemon.abort()
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
