"""One queue of a tap: frames from the kernel to the client and back, and what is lent to vnic-wire.

`tap.backend` makes one for each descriptor, and one TapLender for all of them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from vnic.backend.base import READ_BUDGET_FRAMES
from vnic.backend.tap.device import (
    ALL_OFFLOADS,
    VNET_HEADER_BYTES,
    attach_queue,
    set_header_bytes,
    set_offload,
)
from vnic.backend.tap.record import TapQueueRecord
from vnic.keep import Kept
from vnic.net.client import NetClient
from vnic.net.lending import Inject, Lender, Lent, LentKind
from vnic.net.queue import Frame

READ_BYTES = 65536 + VNET_HEADER_BYTES + 256
"""The longest frame from the kernel: 64 KiB of TSO and its headers."""
_NO_OFFLOAD = bytes(VNET_HEADER_BYTES)
_NEEDS_CSUM = 1


class QueueOwner(Protocol):
    """What a queue needs of its tap."""

    client: NetClient
    loop: asyncio.AbstractEventLoop
    kept: Kept

    def peer_queue(self, index: int) -> int:
        """The queue of the peer that serves frames from our queue `index`."""
        ...

    def died(self, error: OSError) -> None:
        """The interface was deleted on the host."""


class TapQueue:
    """One descriptor of a tap. `index` is the client's queue that it serves."""

    def __init__(self, tap: QueueOwner, index: int, fd: int, vnet_hdr: bool) -> None:
        self._tap = tap
        self._loop = tap.loop
        self._index = index
        self.fd = fd
        self._header = VNET_HEADER_BYTES if vnet_hdr else 0
        self._offloads = 0
        self._paused_for: int | None = None
        """The queue of the peer that has no room."""
        self._writing = False
        self._inject: Inject | None = None
        """While the descriptor is lent: what sends a frame there."""
        self._to_kernel = False
        """It is lent to vhost-net."""
        self._used = True

    def start(self) -> None:
        self._loop.add_reader(self.fd, self._readable)

    def save(self) -> TapQueueRecord:
        return TapQueueRecord(
            offloads=self._offloads, paused_for=self._paused_for, sender_waits=self._writing
        )

    def restore(self, record: TapQueueRecord) -> None:
        """Called instead of `start`."""
        self._offloads, self._paused_for = record.offloads, record.paused_for
        if record.paused_for is None:
            self.start()
        if record.sender_waits:
            self._wait_for_room()

    # -- from the host ------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read a bounded number of frames (tap_send)."""
        tap, header, fd = self._tap, self._header, self.fd
        target = tap.peer_queue(self._index)
        if header:
            self._match_offloads()
        send = tap.client.send
        for _ in range(READ_BUDGET_FRAMES):
            try:
                data = os.read(fd, READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                tap.died(error)
                return
            if len(data) <= header:
                return
            offload = b""
            frame: Frame = data
            if header:
                frame = memoryview(data)[header:]
                if data[0] & _NEEDS_CSUM or data[1]:
                    offload = data[:header]
            if not send(target, frame, offload):
                self._paused_for = target
                self._loop.remove_reader(fd)
                return
            if self._inject is not None:
                return

    def _match_offloads(self) -> None:
        """Have the kernel complete the frames unless the peer takes offloads (QEMU's set_offload)."""
        peer = self._tap.client.peer
        wanted = ALL_OFFLOADS if peer is not None and peer.endpoint.wants_offload else 0
        if wanted != self._offloads:
            set_offload(self.fd, wanted)
            self._offloads = wanted
            self._tap.kept.changed()

    def resume(self, queue: int) -> None:
        if self._paused_for == queue and self.fd >= 0:
            self._paused_for = None
            self._loop.add_reader(self.fd, self._readable)

    # -- to the host --------------------------------------------------------------------------------------------

    def write(self, frame: Frame, offload: bytes) -> bool:
        if self.fd < 0:
            return True
        if self._inject is not None:
            self._inject(self._index, frame, offload)
            return True
        try:
            if self._header:
                os.writev(self.fd, (offload or _NO_OFFLOAD, frame))
            else:
                os.write(self.fd, frame)
        except (BlockingIOError, InterruptedError):
            self._wait_for_room()
            return False
        except OSError as error:
            # EIO: the interface is down on the host; EINVAL: the kernel refuses the frame. The frame is lost, as on a
            # physical cable.
            if error.errno in (errno.EBADFD, errno.ENODEV):
                self._loop.call_soon(self._tap.died, error)
        return True

    def _wait_for_room(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.fd, self._writable)

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self.fd)
        self._tap.client.flush(self._index)

    # -- lent ---------------------------------------------------------------------------------------------------

    @property
    def lent(self) -> bool:
        return self._inject is not None

    def lend(self, inject: Inject) -> None:
        """Move no frames until `take_back`."""
        if self._header:
            self._match_offloads()
        self._inject = inject
        self._loop.remove_reader(self.fd)
        self._loop.remove_writer(self.fd)
        self._paused_for, self._writing = None, False

    def take_back(self) -> None:
        if self._inject is not None and self.fd >= 0:
            self._inject = None
            self.start()

    # -- lent to vhost-net --------------------------------------------------------------------------------------

    def lend_to_kernel(self, header_bytes: int, offloads: int) -> None:
        """Move no frames until `take_back`: the kernel does, with virtio_net_hdrs of that size if the tap has any, and
        leaves undone what the guest takes (TUN_F_*)."""
        self.lend(self._send_beside)
        self._to_kernel = True
        if self._header:
            self._header = header_bytes
            set_header_bytes(self.fd, header_bytes)
            set_offload(self.fd, offloads)
            self._offloads = offloads

    def _send_beside(self, _: int, frame: Frame, offload: bytes) -> None:
        """A frame of this process, while the kernel sends the guest's."""
        with suppress(OSError):  # dropped, as by a full cable
            os.writev(self.fd, ((offload or _NO_OFFLOAD).ljust(self._header, b"\0")[: self._header], frame))

    def is_dead(self) -> bool:
        """Whether the interface was deleted."""
        if self.fd < 0:
            return False
        poll = select.poll()
        poll.register(self.fd, 0)
        return bool(poll.poll(0))

    def use(self, used: bool) -> None:
        """Whether the host's frames come to this queue, of a tap with several."""
        if used is not self._used:
            self._used = used
            attach_queue(self.fd, used)

    def reclaim(self, *, multi_queue: bool) -> None:
        """vhost-net, of this process or the one before, has stopped: set the tap up as this class expects it."""
        if self.fd < 0:
            return
        self._to_kernel = False
        if self._header:
            self._header = VNET_HEADER_BYTES
            set_header_bytes(self.fd, VNET_HEADER_BYTES)
        if multi_queue:
            self._used = True
            attach_queue(self.fd, True)

    # -- the end ------------------------------------------------------------------------------------------------

    def detach(self) -> int:
        """Stop moving frames; the caller gets the descriptor. -1: it was detached before."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
        return fd

    def stop(self) -> None:
        """Close the descriptor. An interface that is not persistent is deleted with its last one."""
        fd = self.detach()
        if fd >= 0:
            os.close(fd)


class TapLender(Lender):
    """The queues of an open tap."""

    kind = LentKind.TAP

    def __init__(self, queues: Sequence[TapQueue], vnet_hdr: bool, returned: Callable[[], None]) -> None:
        self._queues = queues
        self._vnet_hdr = vnet_hdr
        self._returned = returned

    def can_lend(self, ready: Callable[[], None]) -> bool:
        return True

    def lend(self, inject: Inject) -> Lent:
        for queue in self._queues:
            queue.lend(inject)
        return Lent(tuple(queue.fd for queue in self._queues), vnet_hdr=self._vnet_hdr)

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        for queue in self._queues:
            queue.take_back()
        self._returned()
