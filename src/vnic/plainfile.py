"""Opening a file that the user named, without waiting for anybody: a FIFO, a device or a socket is refused.

The files of -pidfile and -D are opened by it; a pcap file has its own rule, for Wireshark reads FIFOs.
"""

from __future__ import annotations

import errno
import os
import stat

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
}


def open_plain(path: str, flags: int, mode: int = 0o600) -> int:
    """As os.open, with O_CLOEXEC. Raises OSError, whose `strerror` says what stands there instead of a plain file."""
    try:
        # O_NONBLOCK: the open of a FIFO waits for its other end, that of a terminal line for the carrier.
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _not_plain(path, os.stat(path).st_mode) from None
        raise
    found = os.fstat(fd).st_mode
    if not stat.S_ISREG(found):
        os.close(fd)
        raise _not_plain(path, found)
    return fd


def _not_plain(path: str, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, and has to be a plain file", path)
