"""PacketQueue: moves the frames of a packet socket, with back-pressure both ways, and lends the socket to vnic-wire.

`interface.backend` makes one, and starts it again when the interface has come back.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from vnic.backend.base import READ_BUDGET_FRAMES
from vnic.backend.interface.packet import (
    ANCILLARY_BYTES,
    MAC_BYTES,
    PACKET_OUTGOING,
    TAG_BYTES,
    behind_tag,
    vlan_tag,
)
from vnic.net.client import NetClient
from vnic.net.lending import Inject, Lender, Lent, LentKind
from vnic.net.offload import HEADER_BYTES, MAX_FRAME_BYTES, NEEDS_CSUM
from vnic.net.queue import Frame

_NO_OFFLOAD: Final = bytes(HEADER_BYTES)
_OLD_FRAMES_MAX: Final = 1 << 16
"""More than the receive buffer holds."""


class PacketQueue:
    """The only queue of an interface netdev."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, vnet_hdr: bool) -> None:
        self.client: NetClient
        """Set before `start`."""
        self.sock = sock
        self.vnet_hdr = vnet_hdr
        self._loop = loop
        self._header = bytearray(HEADER_BYTES)
        self._buffer = bytearray(TAG_BYTES + MAX_FRAME_BYTES)
        """The frame begins at TAG_BYTES, so that a tag moves only the addresses before it."""
        frame = memoryview(self._buffer)[TAG_BYTES:]
        self._read_into = [memoryview(self._header), frame] if vnet_hdr else [frame]
        self.paused_for: int | None = None
        """The queue of the peer that has no room."""
        self.sender_waits = False
        self._started = False
        self._inject: Inject | None = None
        """While the socket is lent: what sends a frame there."""

    def start(self) -> None:
        """Read from now on."""
        self._started = True
        if self._inject is None:
            self._loop.add_reader(self.sock, self._readable)

    def restore(self, paused_for: int | None, sender_waits: bool) -> None:
        """Called instead of `start`."""
        self.paused_for = paused_for
        self._started = True
        if paused_for is None:
            self.start()
        if sender_waits:
            self._wait_for_room()

    def pause(self) -> None:
        """The interface is gone: stop, and drop what came from it."""
        self._started = False
        self._loop.remove_reader(self.sock)
        self.paused_for = None
        for _ in range(_OLD_FRAMES_MAX):
            try:
                self.sock.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENETDOWN, once

    def close(self) -> None:
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)
        self.sock.close()

    # -- from the interface -------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(READ_BUDGET_FRAMES):
            try:
                length, ancillary, flags, source = self.sock.recvmsg_into(self._read_into, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # ENETDOWN: the interface was set down or is gone, which the kernel reports by netlink as well;
                # EINVAL: a segmented frame of a kind that a virtio_net_hdr cannot express.
                continue
            if source[2] == PACKET_OUTGOING:
                continue
            if flags & socket.MSG_TRUNC:
                self.client.dropped += 1
                continue
            frame, offload = self._frame(length, vlan_tag(ancillary))
            if not self.client.send(0, frame, offload):
                self.paused_for = 0
                self._loop.remove_reader(self.sock)
                return
            if self._inject is not None:
                return

    def _frame(self, length: int, tag: bytes) -> tuple[Frame, bytes]:
        """The frame that was read, with its VLAN tag, and its virtio_net_hdr if that asks for anything."""
        offload = b""
        if self.vnet_hdr:
            length -= HEADER_BYTES
            if self._header[0] & NEEDS_CSUM or self._header[1]:
                offload = bytes(self._header)
        if not tag or length < MAC_BYTES:
            return self._read_into[-1][:length], offload
        buffer = self._buffer
        buffer[:MAC_BYTES] = buffer[TAG_BYTES : TAG_BYTES + MAC_BYTES]
        buffer[MAC_BYTES : MAC_BYTES + TAG_BYTES] = tag
        return memoryview(buffer)[: TAG_BYTES + length], behind_tag(offload) if offload else b""

    def resume(self, queue: int) -> None:
        """The peer has room in that queue again."""
        if self.paused_for == queue:
            self.paused_for = None
            self.start()

    # -- to the interface ---------------------------------------------------------------------------------------

    def write(self, frame: Frame, offload: bytes) -> bool:
        """Send one frame. False: no room; `client.flush` follows."""
        if self._inject is not None:
            self._inject(0, frame, offload)
            return True
        try:
            self.sock.sendmsg(((offload or _NO_OFFLOAD), frame) if self.vnet_hdr else (frame,))
        except (BlockingIOError, InterruptedError):
            self._wait_for_room()
            return False
        except OSError as error:
            # ENETDOWN, ENXIO: the interface is down or gone; EMSGSIZE: the frame is longer than its MTU; EINVAL: too
            # short, or its header is wrong; ENOBUFS: the queue of the interface is full. The frame is lost, as on a
            # physical cable.
            if error.errno != errno.ENETDOWN:
                self.client.dropped += 1
        return True

    def _wait_for_room(self) -> None:
        if not self.sender_waits:
            self.sender_waits = True
            self._loop.add_writer(self.sock, self._writable)

    def _writable(self) -> None:
        self.sender_waits = False
        self._loop.remove_writer(self.sock)
        self.client.flush(0)

    # -- lent ---------------------------------------------------------------------------------------------------

    def lend(self, inject: Inject) -> None:
        """Move no frames until `take_back`."""
        self._inject = inject
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)
        self.paused_for, self.sender_waits = None, False

    def take_back(self) -> None:
        """Move frames again, if the socket is still open and bound."""
        if self._inject is not None and self.sock.fileno() >= 0:
            self._inject = None
            if self._started:
                self.start()


class PacketLender(Lender):
    """The socket of an interface netdev, which stays the same when the interface goes and comes back."""

    kind = LentKind.PACKET

    def __init__(self, queue: PacketQueue) -> None:
        self._queue = queue

    def can_lend(self, ready: Callable[[], None]) -> bool:
        return True

    def lend(self, inject: Inject) -> Lent:
        self._queue.lend(inject)
        return Lent((self._queue.sock.fileno(),), vnet_hdr=self._queue.vnet_hdr)

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        self._queue.take_back()
