"""A VM over vfio-user, and the socket that it is connected to."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from contextlib import ExitStack
from typing import Any

from tests.fakes.kept import FakeKeep, close_all, mapped
from tests.fakes.loops import turn, until
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip
from tests.fakes.virtio_device import FakeVirtioDevice

from vnic.attach.vfio_user.attachment import VfioUserAttachment
from vnic.attach.vfio_user.progress import NO_STEP
from vnic.attach.vfio_user.record import (
    VfioUserAttachmentHandles,
    VfioUserAttachmentRecord,
    VfioUserSessionRecord,
    VmHandles,
)
from vnic.attach.vfio_user.session import VfioUserSession
from vnic.attach.vfio_user.steps import StepKeeping
from vnic.keep import NO_KEEP, Kept
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.client import Endpoint, Nic
from vnic.net.network import Network
from vnic.protocol.vfio_user import messages as m
from vnic.record import Record, RecordError
from vnic.sockets.outbox import new_outbox
from vnic.virtio.pci.transport import VirtioPci


class Host:
    """Has nothing to do with the session's end."""

    def negotiated(self) -> None: ...

    def leaving(self, *, violated: bool) -> None: ...

    def released(self) -> None: ...


def nic_of(stack: ExitStack) -> Nic:
    network = Network(FakeScheduler())
    stack.callback(network.close)
    return network.add_nic("nic0", "virtio-net-pci", Endpoint(), mac=bytes(6))


def talk(sock: socket.socket, ram: FakeGuestMemory) -> None:
    """A VM that maps memory and has interrupts; half of its last message is sent."""
    version = m.VERSION_NUMBERS.pack(0, 0) + b'{"capabilities": {}}\0'
    sock.sendall(m.encode(1, m.VERSION, version))
    where = m.DMA_MAP_LAYOUT.pack(32, 3, ram.fd_offset, ram.guest_addr, ram.size)
    socket.send_fds(sock, [m.encode(2, m.DMA_MAP, where)], [ram.fd])
    for ident, (index, count) in enumerate(((m.IRQ_INTX, 1), (m.IRQ_MSIX, 2)), 3):
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        flags = m.IRQ_DATA_EVENTFD | m.IRQ_ACTION_TRIGGER
        message = m.encode(ident, m.DEVICE_SET_IRQS, m.SET_IRQS.pack(20, flags, index, 0, count))
        socket.send_fds(sock, [message], fds)
        for fd in fds:
            os.close(fd)
    socket.send_fds(sock, [m.encode(5, m.DMA_MAP, where)[:30]], [ram.fd])


@trip("vfio-user VM")
def vm(stack: ExitStack) -> Trip:
    """Half of a message is here, with its descriptor."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    ram = stack.enter_context(FakeGuestMemory(1 << 16))

    def session(stack: ExitStack, sock: socket.socket, *, restored: bool) -> VfioUserSession:
        keeping = StepKeeping(NO_KEEP, "nic0")
        pci = VirtioPci(FakeVirtioDevice())
        nic = nic_of(stack)
        unit = VfioUserSession(
            Host(), loop, sock, pci, nic, keeping=keeping, outbox=new_outbox(), restored=restored
        )

        def end() -> None:
            if restored:
                unit.refuse()
            else:
                unit.leave()
            turn(loop)

        stack.callback(end)
        return unit

    ours, theirs = socket.socketpair()
    stack.callback(theirs.close)
    unit = session(stack, ours, restored=False)
    talk(theirs, ram)
    until(loop, lambda: unit.save().begun.data)

    def restore(new: VfioUserSession, record: VfioUserSessionRecord) -> None:
        handles: VmHandles = mapped(unit.handles, os.dup)
        try:
            new.restore(record, handles)
        except RecordError:
            close_all(handles)
            raise
        close_all((handles.sock, handles.outbox, handles.memory))

    def make(stack: ExitStack) -> VfioUserSession:
        """On a connection of its own: a session that is refused closes it."""
        sock, other = socket.socketpair()
        stack.callback(other.close)
        return session(stack, sock, restored=True)

    return Trip(
        unit,
        make,
        restore,
        lambda each: (each.save(), each.pending, each.descriptors, each.serving),
    )


class Inheriting(FakeKeep):
    """A keep with the records that one attachment asks for."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__()
        self._found = found
        self.refusals: list[tuple[str, str]] = []
        """Keys and fields."""

    def refused(self, key: str, error: RecordError) -> None:
        self.refusals.append((key, error.field))

    def inherited(self, key: str, record: Any, handles: Any) -> Any:
        return self._found.pop(key, None)

    def commit_early(self, kept: Kept) -> None: ...


class Served:
    """An attachment, which is saved with its descriptors."""

    def __init__(self, attachment: VfioUserAttachment) -> None:
        self.attachment = attachment

    def save(self) -> Record:
        return self.attachment.save_kept()[0]

    @property
    def handles(self) -> VfioUserAttachmentHandles:
        return self.attachment.save_kept()[1]


@trip("vfio-user attachment")
def attachment(stack: ExitStack) -> Trip:
    """A VM is attached."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    path = stack.enter_context(tempfile.TemporaryDirectory(prefix="v")) + "/nic0.sock"

    ram = stack.enter_context(FakeGuestMemory(1 << 16))

    def make(stack: ExitStack, keep: Any = NO_KEEP) -> Served:
        unit = VfioUserAttachment(loop, VirtioPci(FakeVirtioDevice()), nic_of(stack), path, keep)

        def end() -> None:
            unit.drop_vm()
            unit.close()
            turn(loop)

        stack.callback(end)
        return Served(unit)

    served = make(stack, Inheriting({}))
    served.attachment.start()
    guest = stack.enter_context(socket.socket(socket.AF_UNIX))
    guest.connect(path)
    talk(guest, ram)
    until(loop, lambda: (vm := served.attachment.session) is not None and vm.save().begun.data)
    # Without the listener, whose path the first restored one would remove at its end: those after it would differ.
    served.attachment._close_listener()

    def restore(new: Served, record: VfioUserAttachmentRecord) -> None:
        handles: VfioUserAttachmentHandles = mapped(served.handles, os.dup)
        assert handles.vm is not None
        # A connection of its own: one that is refused is shut down.
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        os.dup2(ours.fileno(), handles.vm.sock)
        ours.close()
        keep = Inheriting({"vm/nic0": (record, handles), "step/nic0": (NO_STEP, None)})
        new.attachment._keep = new.attachment._steps.keep = keep
        if not new.attachment.restore():
            raise RecordError("", "is refused")

    return Trip(served, make, restore, lambda each: (each.attachment.state, each.save()))
