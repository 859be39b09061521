"""Waits for a client's kicks, and slows down a descriptor whose kicks bring no buffers.

A vhost-user session owns one; the descriptors belong to its engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from vnic.sockets import unblock
from vnic.virtio.queue import SplitQueue

log = logging.getLogger(__name__)

READ_BYTES: Final = 512
"""Eight bytes empty an eventfd; a socketpair or pipe may hold more."""
SPURIOUS_KICKS: Final = 256
SPURIOUS_PAUSE_S: Final = 0.001
"""After so many kicks in a row without a new buffer, each is followed by a pause: a descriptor that is always readable
(an eventfd with EFD_SEMAPHORE, a timerfd) would keep a processor busy without the guest's help."""


class _Watch:
    """The descriptor of one ring."""

    __slots__ = ("avail", "begun", "fd", "pause", "spurious")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.begun = False
        self.avail = -1
        self.spurious = 0
        self.pause: asyncio.TimerHandle | None = None


class Kicks:
    """The kick descriptors of one client's rings."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        queues: Sequence[SplitQueue],
        kicked: Callable[[int], None],
        hostile: Callable[[str], None],
    ) -> None:
        """It calls `kicked(index)` for each kick, and `hostile(text)` if the client made a descriptor block. `name` is
        the NIC's, for log lines."""
        self._loop = loop
        self._name = name
        self._queues = queues
        self._kicked = kicked
        self._hostile = hostile
        self._watched: dict[int, _Watch] = {}

    def watch(self, index: int, fd: int | None) -> None:
        """Watch `fd` instead of the previous one, from the loop's next turn on: most rings are handed over to a
        back-end by then. None: watch none."""
        before = self._watched.pop(index, None)
        if before is not None and before.begun:
            if before.pause is not None:
                before.pause.cancel()
            self._loop.remove_reader(before.fd)
        if fd is not None:
            self._watched[index] = watch = _Watch(fd)
            self._loop.call_soon(self._begin, index, watch)

    def _begin(self, index: int, watch: _Watch) -> None:
        if self._watched.get(index) is not watch:
            return
        try:
            self._loop.add_reader(watch.fd, self._readable, index, watch)
        except OSError as error:
            del self._watched[index]
            self._hostile(f"the kick descriptor of ring {index} cannot be waited for: {error}")
        else:
            watch.begun = True

    def _readable(self, index: int, watch: _Watch) -> None:
        try:
            kicks = unblock.read(watch.fd, READ_BYTES)
        except BlockingIOError:
            return
        except unblock.Blocked as error:
            self._hostile(f"the kick descriptor of ring {index}: {error.strerror}")
            kicks = b""
        except OSError as error:
            log.warning("%s: kick descriptor of ring %d failed: %s", self._name, index, error)
            kicks = b""
        if not kicks:
            self.watch(index, None)  # the other end is closed: it would always be readable
            return
        avail = self._queues[index].avail_idx
        watch.spurious = watch.spurious + 1 if avail == watch.avail else 0
        watch.avail = avail
        if watch.spurious > SPURIOUS_KICKS:
            self._loop.remove_reader(watch.fd)
            watch.pause = self._loop.call_later(SPURIOUS_PAUSE_S, self._go_on, index, watch)
        self._kicked(index)

    def _go_on(self, index: int, watch: _Watch) -> None:
        watch.pause = None
        self._loop.add_reader(watch.fd, self._readable, index, watch)
