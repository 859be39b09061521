"""Opens a file that the user named, without blocking: a FIFO, a device or a socket is refused.

-pidfile and -D use it; a pcap file may be a FIFO, as Wireshark reads those.
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
    """As os.open, with O_CLOEXEC. Raises OSError, whose `strerror` names the file's kind if it is no plain file."""
    try:
        # Without O_NONBLOCK, the open of a FIFO waits for its other end, and that of a terminal line for the carrier.
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


def check_plain(path: str) -> None:
    """The same refusal for a file that another opens: a library, for which the open would wait. Raises OSError."""
    found = os.stat(path).st_mode
    if not stat.S_ISREG(found):
        raise _not_plain(path, found)


def _not_plain(path: str, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, and has to be a plain file", path)
