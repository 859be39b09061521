"""The file that `-pidfile` asks for: this process's id, locked while it runs (QEMU's qemu_write_pidfile).

`vnic run` makes it before anything else and removes it last.
"""

from __future__ import annotations

import fcntl
import os

from vnic.net.errors import NetError
from vnic.plainfile import open_plain


class PidFile:
    """Created and locked; a second vnic with the same file is refused."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        try:
            self._fd = open_plain(path, os.O_CREAT | os.O_WRONLY)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise NetError(f"cannot create PID file: Could not create '{path}': {why}") from None
        try:
            # A lock of the process, as QEMU's: released by the kernel however the process ends.
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            os.close(self._fd)
            raise NetError(f"cannot create PID file: Could not lock '{path}': {error.strerror}") from None

    def remove(self) -> None:
        """Unlink and unlock."""
        try:
            os.unlink(self._path)
        except OSError:
            pass  # another program has removed it already
        os.close(self._fd)
