"""The datagram socket on which the supervisor hears its child (NOTIFY_SOCKET of sd_notify(3)).

Its folder is open to this user only, and what another process of this user sends is dropped: a stored descriptor comes
back to control, which trusts it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from vnic.scratch import PUBLIC, ScratchFolder

PREFIX: Final = "vnic-keep-"
DATAGRAM_MAX: Final = 8192
TURN_MESSAGES: Final = 4096
"""More than a socket's queue has, unless its sender goes on (net.unix.max_dgram_qlen, 10 to 512)."""
FDS_MAX: Final = 253
"""The most descriptors of one message (include/net/scm.h: SCM_MAX_FD)."""
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOM: Final = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * FDS_MAX)


class NotifySocket:
    """Bound to `path` until `close`."""

    def __init__(self) -> None:
        self._folder = ScratchFolder(PREFIX, PUBLIC)
        self.path = str(self._folder.path / "notify")
        try:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._sock.bind(self.path)
        except BaseException:
            self._folder.remove()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def received(self, pid: int) -> Iterator[tuple[bytes, list[int], bool]]:
        """The datagrams of that process that wait, with their descriptors, which the caller owns, and whether they came
        whole. Those of others are dropped. What is beyond TURN_MESSAGES waits: a flood must not keep the supervisor
        from its signals and deadlines."""
        for _ in range(TURN_MESSAGES):
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(DATAGRAM_MAX, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            sender, fds = _sorted(ancillary)
            if (
                not sender or sender != pid
            ):  # 0: of another PID namespace, and not the child that there is not
                for fd in fds:
                    os.close(fd)
                continue
            yield data, fds, not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)

    def close(self) -> None:
        self._sock.close()
        self._folder.remove()


def _sorted(ancillary: list[tuple[int, int, bytes]]) -> tuple[int | None, list[int]]:
    """The sender's process id, as the kernel tells it, and the descriptors."""
    sender = None
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(data) >= _CREDENTIALS.size:
            sender = _CREDENTIALS.unpack_from(data)[0]
        elif kind == socket.SCM_RIGHTS:
            whole = len(data) // 4
            fds += struct.unpack_from(f"={whole}i", data)
    return sender, fds
