"""Serves a PCI NIC to VMs over vfio-user, one after the other: QEMU connects with `-device vfio-user-pci`.

The machine makes one for every NIC with `attach.type=vfio-user`. It listens and makes a `VfioUserSession` for each VM;
when a VM is killed or disconnects, the next one may connect.
"""

from __future__ import annotations

import asyncio
import socket

from vnic.attach.attachment import AttachmentState, VmAttachment
from vnic.attach.vfio_user.session import VfioUserSession
from vnic.memory.guest import NO_MEMORY
from vnic.net.client import Nic
from vnic.pci.device import PciDevice, PciHandles
from vnic.pci.irq import NoIrq
from vnic.sockets.connection import peer_has_closed
from vnic.sockets.listener import listen_at


class VfioUserAttachment(VmAttachment[VfioUserSession]):
    """The socket of one PCI NIC."""

    COME_TEXT = "a VM attached ({})"
    REFUSED_TEXT = "refused {}: a VM is attached already"

    def __init__(self, loop: asyncio.AbstractEventLoop, device: PciDevice, nic: Nic, path: str) -> None:
        super().__init__(loop, nic, path)
        self._device = device
        self._next: socket.socket | None = None
        """The next VM, while a back-end still has the last one's rings."""

    def start(self) -> None:
        """Listen. Raises NetError if the path cannot be listened on."""
        self._listen_on(listen_at(self.path))
        self.state = AttachmentState.WAITING

    @property
    def device_handles(self) -> PciHandles:
        return PciHandles(NoIrq(), NO_MEMORY)

    def _begin(self, sock: socket.socket, outbox: int | None) -> VfioUserSession:
        session = VfioUserSession(self, self._loop, sock, self._device, self._nic)
        self._gate.began(session.cut_off)
        return session

    def _let_wait(self, sock: socket.socket) -> bool:
        """One VM may wait; it is dropped if it was killed."""
        if self.state is not AttachmentState.LEAVING or (
            self._next is not None and not peer_has_closed(self._next)
        ):
            return False
        self._drop_next()
        self._next = sock
        return True

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None

    def _wait(self) -> None:
        self.state = AttachmentState.WAITING
        sock, self._next = self._next, None
        if sock is not None:
            self._attach(sock)

    def _stop_waiting(self) -> None:
        super()._stop_waiting()
        self._drop_next()
