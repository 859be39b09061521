"""A log file: that of `-D FILE`, and that of a vnic in the background, beside its QMP socket.

`vnic run` imports it only when needed, because logging.handlers is slow to load.
"""

from __future__ import annotations

import logging
import os
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler

from vnic.plainfile import open_plain

BACKGROUND_MAX_BYTES = 1 << 20
"""The log of a vnic in the background is rotated at this size, and the previous one kept as NAME.log.old: the folder is
usually in memory."""


class LogFile(WatchedFileHandler):
    """Appends lines, and makes the file again if it was moved (logrotate). It drops lines that it cannot write."""

    def __init__(self, path: str, max_bytes: int | None = None) -> None:
        """Raises OSError if the file cannot be opened."""
        self._max_bytes = max_bytes
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        fd = open_plain(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(fd, "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
            if self._max_bytes is not None and os.fstat(self.fileno()).st_size > self._max_bytes:
                os.replace(self.baseFilename, f"{self.baseFilename}.old")
        except OSError:
            self.handleError(record)

    def fileno(self) -> int:
        """The open file's descriptor."""
        stream = self.stream
        if stream is None:
            stream = self.stream = self._open()
        return stream.fileno()
