"""The channel on which a vhost-user back-end sends requests to its front-end (SET_BACKEND_REQ_FD).

A vhost-user session sends CONFIG_CHANGE through it, within the call that changes the link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from vnic.record import Record, require
from vnic.sockets import unblock

log = logging.getLogger(__name__)


class RequestChannelRecord(Record, frozen=True):
    """The state of a RequestChannel."""

    unsent: bytes
    """The rest of a message for which there is no room."""


class RequestChannel:
    """Writes to a descriptor that the engine owns; it never blocks, and keeps at most one message back."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, sent: Callable[[], None] = lambda: None
    ) -> None:
        """`name` is the NIC's, for log lines. `sent` is called when something that waited was sent."""
        self._loop = loop
        self._name = name
        self._sent = sent
        self._fd: int | None = None
        self._unsent = b""

    def save(self) -> RequestChannelRecord:
        return RequestChannelRecord(unsent=self._unsent)

    def restore(self, record: RequestChannelRecord) -> None:
        """Go on with a message that was begun, after `use`. Raises RecordError."""
        require(self._fd is not None or not record.unsent, "unsent", "is there without a channel")
        self._unsent = record.unsent
        if self._fd is not None and self._unsent:
            self._loop.add_writer(self._fd, self._writable)

    def use(self, fd: int | None) -> None:
        """Write to `fd` from now on; unsent data for the previous descriptor is dropped."""
        if self._fd is not None:
            self._loop.remove_writer(self._fd)
        self._fd = fd
        self._unsent = b""

    @property
    def full(self) -> bool:
        """A message waits for room: another one would have to wait, too."""
        return bool(self._unsent)

    def send(self, message: bytes) -> None:
        """Send now, if there is room (and no message waits, see `full`)."""
        self._unsent = message
        if self._fd is not None:
            self._write(self._fd)
            if self._unsent:
                self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        if self._fd is not None:
            self._write(self._fd)
            self._sent()
            if not self._unsent and self._fd is not None:
                self._loop.remove_writer(self._fd)

    def _write(self, fd: int) -> None:
        try:
            self._unsent = self._unsent[unblock.write(fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            log.warning("%s: vhost-user request channel failed: %s", self._name, error.strerror)
            self.use(None)
