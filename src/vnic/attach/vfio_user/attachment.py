"""Serves a PCI NIC to VMs over vfio-user, one after the other: QEMU connects with `-device vfio-user-pci`.

The machine makes one for every NIC with `attach.type=vfio-user`. It listens and makes a `VfioUserSession` for each VM;
when a VM is killed or disconnects, the next one may connect.
"""

from __future__ import annotations

import asyncio
import socket

from vnic.attach.attachment import AttachmentState, VmAttachment
from vnic.attach.vfio_user.record import (
    VfioUserAttachmentHandles,
    VfioUserAttachmentRecord,
    VfioUserSessionRecord,
    VmHandles,
)
from vnic.attach.vfio_user.session import VfioUserSession
from vnic.attach.vfio_user.steps import StepKeeping
from vnic.descriptors import Kind, close_fds, kind_of
from vnic.keep import NO_KEEP, Keep, descriptors_of
from vnic.memory.guest import NO_MEMORY
from vnic.net.client import Nic
from vnic.pci.device import PciDevice, PciHandles
from vnic.pci.irq import NoIrq
from vnic.record import RecordError, require, within
from vnic.sockets.connection import peer_has_closed
from vnic.sockets.listener import listen_at
from vnic.sockets.outbox import duplicates


class VfioUserAttachment(VmAttachment[VfioUserSession]):
    """The socket of one PCI NIC."""

    COME_TEXT = "a VM attached ({})"
    REFUSED_TEXT = "refused {}: a VM is attached already"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: PciDevice,
        nic: Nic,
        path: str,
        keep: Keep = NO_KEEP,
    ) -> None:
        super().__init__(loop, nic, path, keep)
        self._device = device
        self._steps = StepKeeping(keep, nic.name)
        self._next: socket.socket | None = None
        """The next VM, while a back-end still has the last one's rings."""

    def start(self) -> None:
        """Listen. Raises NetError if the path cannot be listened on."""
        if self._listener is None:
            self._listen_on(listen_at(self.path))
        self._begin_keeping()
        self._steps.begin()
        self.state = AttachmentState.WAITING

    # --- The next process ---

    def save_kept(self) -> tuple[VfioUserAttachmentRecord, VfioUserAttachmentHandles]:
        session = self.session if self.state is AttachmentState.ATTACHED else None
        listener, waiting = self._listener, self._next
        record = VfioUserAttachmentRecord(
            attachment=self._save(), session=None if session is None else session.save()
        )
        return record, VfioUserAttachmentHandles(
            None if listener is None else listener.listening.handles,
            None if session is None else session.handles,
            None if waiting is None else waiting.fileno(),
        )

    def restore(self) -> bool:
        found = self._keep.inherited(self._key, VfioUserAttachmentRecord, VfioUserAttachmentHandles)
        if found is None:
            return False
        record, (listening, vm, waiting) = found
        try:
            with within("attachment"):
                self._take_up(record.attachment, listening)
        except RecordError as error:
            close_fds(descriptors_of(listening))
            return self._refused(error, (vm, waiting))
        session = None
        self._begin_keeping()
        try:
            require(self._steps.restore(), "", "has no position in the VM's messages")
            require(waiting is None or kind_of(waiting) is Kind.SOCKET, "", "has no socket of the next VM")
            if record.session is not None:
                with within("session"):
                    session = self._restored(record.session, vm)
        except RecordError as error:
            return self._refused(error, (vm, waiting))
        if waiting is not None:
            self._next = socket.socket(fileno=waiting)
        self._taken_up(record.attachment, session)
        return True

    def _restored(self, record: VfioUserSessionRecord, vm: VmHandles | None) -> VfioUserSession:
        """Raises RecordError, and leaves the descriptors to the caller then."""
        if vm is None:
            raise RecordError("", "has no descriptors")
        # Duplicates, which the session closes where it refuses the record.
        session = self._session(*duplicates(vm.sock, vm.outbox), restored=True)
        try:
            session.restore(record, vm)
        except RecordError:
            session.refuse()
            raise
        close_fds((vm.sock, vm.outbox, *vm.memory))
        return session

    @property
    def device_handles(self) -> PciHandles:
        return PciHandles(NoIrq(), NO_MEMORY) if self.session is None else self.session.device_handles

    # --- Connect and disconnect ---

    def _session(self, sock: socket.socket, outbox: int | None, *, restored: bool = False) -> VfioUserSession:
        return VfioUserSession(
            self,
            self._loop,
            sock,
            self._device,
            self._nic,
            kept=self._kept,
            keeping=None if outbox is None else self._steps,
            outbox=outbox,
            restored=restored,
        )

    def _begin(self, sock: socket.socket, outbox: int | None) -> VfioUserSession:
        self._steps.next_vm()
        session = self._session(sock, outbox)
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
        self._moved()
        return True

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None
            self._moved()

    def _wait(self) -> None:
        self.state = AttachmentState.WAITING
        sock, self._next = self._next, None
        if sock is not None:
            self._attach(sock)

    def _stop_waiting(self) -> None:
        super()._stop_waiting()
        self._drop_next()
        self._steps.end()
