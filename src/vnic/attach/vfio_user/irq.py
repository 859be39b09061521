"""The interrupts of a PCI device as eventfds, which SET_IRQS of vfio-user sets and removes.

`function.VfioPciPort` owns one set for a VM; the device model drives it through `vnic.pci.irq.IrqLines`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from vnic.attach.vfio_user.irq_record import EventfdIrqsRecord, IntxRecord, VectorsRecord
from vnic.attach.vfio_user.notifiers import QueueNotifiers, Watcher
from vnic.descriptors import Kind, close_fds, kind_of
from vnic.net.clock import Timer
from vnic.pci.irq import MessageSocket
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import Refused, SetIrqs
from vnic.record import require, within
from vnic.sockets import unblock

log = logging.getLogger(__name__)

SPURIOUS_UNMASKS: Final = 256
SPURIOUS_PAUSE_S: Final = 0.001
"""After so many unmasks while the device does nothing, each is followed by a pause: as with a kick, the descriptor may
always be readable (see `kicks`)."""


def _nothing() -> None:
    """Nothing is kept."""


def _signal(fd: int) -> bool:
    """Add one to an eventfd. A full counter means that the VM has not taken earlier interrupts. False: the VM made the
    descriptor block, and is to be disconnected."""
    try:
        unblock.write(fd, unblock.SIGNAL)
    except unblock.Blocked as error:
        log.warning("an interrupt of a VM is not sent any more, its descriptor: %s", error.strerror)
        return False
    except OSError:
        pass
    return True


class _Unmask:
    """The descriptor on which the VM unmasks INTx: with KVM, the guest's end of interrupt signals this eventfd."""

    def __init__(self, watcher: Watcher, fd: int, line: IntxLine) -> None:
        """Wait for `fd`, which we own from now on. Raises OSError if epoll cannot wait for it."""
        self._watcher = watcher
        self.fd = fd
        self._line = line
        self._pause: Timer | None = None
        watcher.add_reader(fd, self._readable)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._watcher.remove_reader(self.fd)
        close_fds((self.fd,))

    def _readable(self) -> None:
        try:
            taken = unblock.read(self.fd, 8)
        except BlockingIOError:
            return
        except OSError:
            taken = b""
        if len(taken) < 8:  # not an eventfd, which would always be readable, or one that blocks
            self._line.unmask_failed()
            return
        if self._line.unmasked_without_effect():
            self._watcher.remove_reader(self.fd)
            self._pause = self._watcher.call_later(SPURIOUS_PAUSE_S, self._go_on)
        self._line.mask(False)

    def _go_on(self) -> None:
        self._pause = None
        self._watcher.add_reader(self.fd, self._readable)


class IntxLine:
    """INTx: a level, shown as one eventfd write each time it becomes visible (AUTOMASKED).

    A write masks the line; the VM unmasks it once the guest has touched the device, and a level that is still
    asserted is written again (linux vfio_pci_intrs.c, vfio_intx_handler and vfio_pci_intx_unmask_handler).
    """

    def __init__(self, watcher: Watcher, changed: Callable[[], None]) -> None:
        self._watcher = watcher
        self._changed = changed
        self._level = False
        self._masked = False
        self._held = False
        self._unmasks = 0  # since the level was last set
        self._trigger: int | None = None
        self._unmask: _Unmask | None = None

    def save(self) -> tuple[IntxRecord, list[int]]:
        fds = [self._trigger, self._unmask.fd if self._unmask is not None else None]
        record = IntxRecord(
            level=self._level,
            masked=self._masked,
            held=self._held,
            trigger=fds[0] is not None,
            unmask=fds[1] is not None,
        )
        return record, [fd for fd in fds if fd is not None]

    def restore(self, record: IntxRecord, fds: Iterator[int]) -> None:
        """Raises OSError if epoll cannot wait for the descriptor."""
        self._trigger = next(fds) if record.trigger else None
        if record.unmask:
            self._unmask = _Unmask(self._watcher, next(fds), self)
        self._level, self._masked, self._held = record.level, record.masked, record.held

    def go_on(self) -> None:
        """After a restart: an interrupt, or the VM's unmasking after one, may have been lost."""
        if not self._held:
            self.mask(False)

    def set_level(self, level: bool) -> None:
        self._level = level
        self._unmasks = 0
        self._deliver()

    def mask(self, masked: bool) -> None:
        """The VM masks or unmasks the line."""
        self._masked = self._held = masked
        self._deliver()

    def unmasked_without_effect(self) -> bool:
        """Count an unmask; True after too many while the device did nothing."""
        self._unmasks += 1
        return self._unmasks > SPURIOUS_UNMASKS

    def set_trigger(self, fd: int | None) -> None:
        """Set the descriptor to write to, which we own; a new one starts unmasked."""
        old, self._trigger = self._trigger, fd
        close_fds(() if old is None else (old,))
        self.mask(False)

    def set_unmask(self, fd: int | None) -> None:
        """Set the descriptor on which the VM unmasks the line, which we own. Raises OSError if epoll cannot wait for
        it."""
        old, self._unmask = self._unmask, None
        if old is not None:
            old.close()
        if fd is not None:
            self._unmask = _Unmask(self._watcher, fd, self)

    def unmask_failed(self) -> None:
        """Its descriptor cannot be read."""
        self.set_unmask(None)
        self._changed()

    @property
    def descriptors(self) -> int:
        return (self._trigger is not None) + (self._unmask is not None)

    def trigger(self) -> None:
        """Interrupt regardless of the level: the loop-back test of SET_IRQS without data."""
        if self._trigger is not None:
            self._masked = True
            if not _signal(self._trigger):
                close_fds((self._trigger,))
                self._trigger = None
                self._changed()

    def _deliver(self) -> None:
        if self._level and not self._masked:
            self.trigger()


class MessageVectors:
    """MSI or MSI-X: one eventfd per vector. An interrupt on a vector without one is latched.

    QEMU replaces descriptors one by one while the guest sets the device up; the newest one counts.
    """

    def __init__(self, count: int, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._fds: list[int | None] = [None] * count
        self._enabled = False
        self.pending = 0

    def save(self) -> tuple[VectorsRecord, list[int]]:
        bound = [(vector, fd) for vector, fd in enumerate(self._fds) if fd is not None]
        record = VectorsRecord(
            enabled=self._enabled,
            pending=[vector for vector in range(len(self._fds)) if self.pending >> vector & 1],
            fds=[vector for vector, _ in bound],
        )
        return record, [fd for _, fd in bound]

    def check(self, record: VectorsRecord) -> None:
        for name in ("pending", "fds"):
            vectors = getattr(record, name)
            known = not vectors or vectors[-1] < len(self._fds)
            require(known, name, f"has vector {vectors[-1] if vectors else 0} of {len(self._fds)}")

    def restore(self, record: VectorsRecord, fds: Iterator[int]) -> None:
        self._enabled = record.enabled
        self.pending = sum(1 << vector for vector in record.pending)
        for vector in record.fds:
            self._fds[vector] = next(fds)

    def notify(self, vector: int) -> bool:
        """True: sent, or latched; False: the VM has disabled these interrupts."""
        if not self._enabled or vector >= len(self._fds):
            return False
        fd = self._fds[vector]
        if fd is None:
            if not self.pending >> vector & 1:
                self.pending |= 1 << vector
                self._changed()
        elif not _signal(fd):
            self._drop(vector, fd)
        return True

    def _drop(self, vector: int, fd: int) -> None:
        close_fds((fd,))
        self._fds[vector] = None
        self._changed()

    def go_on(self) -> None:
        """After a restart: any interrupt may have been lost."""
        for vector, fd in enumerate(self._fds):
            if fd is not None:
                self.notify(vector)

    def fd(self, vector: int) -> int | None:
        return self._fds[vector] if vector < len(self._fds) else None

    @property
    def descriptors(self) -> int:
        return sum(fd is not None for fd in self._fds)

    def has_fds(self) -> bool:
        return any(fd is not None for fd in self._fds)

    def set(self, start: int, count: int, fds: list[int]) -> None:
        """Replace the descriptors of `count` vectors; an empty list removes them."""
        self._enabled = True
        for vector, fd in enumerate(fds or [None] * count, start):
            old, self._fds[vector] = self._fds[vector], fd
            close_fds(() if old is None else (old,))
            if fd is not None and self.pending & 1 << vector:
                self.pending &= ~(1 << vector)
                if not _signal(fd):
                    self._drop(vector, fd)

    def disable(self) -> None:
        close_fds(fd for fd in self._fds if fd is not None)
        self._fds = [None] * len(self._fds)
        self._enabled = False
        self.pending = 0


class EventfdIrqs:
    """All lines of one VM's device: `vnic.pci.irq.IrqLines` towards the model, SET_IRQS towards the VM."""

    def __init__(
        self,
        watcher: Watcher,
        *,
        intx: bool,
        msi: int,
        msix: int,
        messages: MessageSocket | None = None,
        changed: Callable[[], None] = _nothing,
    ) -> None:
        """`messages`: the VM's connection, if it can be lent. `changed` is called when the record or the descriptors
        differ by themselves, not by `set`."""
        self._watcher = watcher
        self._messages = messages
        self._intx = IntxLine(watcher, changed)
        self._msi = MessageVectors(msi, changed)
        self._msix = MessageVectors(msix, changed)
        self._error = MessageVectors(1, changed)
        self._vectors = {m.IRQ_MSI: self._msi, m.IRQ_MSIX: self._msix, m.IRQ_ERR: self._error}
        self.infos = (
            m.IrqInfo(int(intx), m.IRQ_FLAG_EVENTFD | m.IRQ_FLAG_MASKABLE | m.IRQ_FLAG_AUTOMASKED),
            m.IrqInfo(msi, m.IRQ_FLAG_EVENTFD),
            m.IrqInfo(msix, m.IRQ_FLAG_EVENTFD),
            # The error interrupt is never sent, it would stop the VM (QEMU vfio_err_notifier_handler); but QEMU
            # warns at each start about a device without one.
            m.IrqInfo(1, m.IRQ_FLAG_EVENTFD),
            m.IrqInfo(),  # a request to unplug the device: not offered
        )
        assert len(self.infos) == m.IRQ_COUNT

    def save(self) -> tuple[EventfdIrqsRecord, list[int]]:
        """The record, and the descriptors that go beside it; they stay ours."""
        intx, fds = self._intx.save()
        parts = {}
        for name, vectors in self._named_vectors():
            parts[name], bound = vectors.save()
            fds += bound
        return EventfdIrqsRecord(intx=intx, **parts), fds

    def check(self, record: EventfdIrqsRecord, fds: Sequence[int]) -> None:
        """Raise RecordError if `restore` would."""
        count = record.intx.trigger + record.intx.unmask
        for name, vectors in self._named_vectors():
            with within(name):
                vectors.check(getattr(record, name))
            count += len(getattr(record, name).fds)
        require(len(fds) == count, "", f"is of {count} descriptors, not {len(fds)}")
        odd = [fd for fd in fds if kind_of(fd) is not Kind.EVENTFD]
        require(not odd, "", "goes with a descriptor that is no eventfd")

    def restore(self, record: EventfdIrqsRecord, fds: list[int]) -> None:
        """Bind the interrupts as they were; the descriptors are ours from now on unless RecordError is raised."""
        self.check(record, fds)
        rest = iter(fds)
        self._intx.restore(record.intx, rest)
        for name, vectors in self._named_vectors():
            vectors.restore(getattr(record, name), rest)

    def go_on(self) -> None:
        """After a restart: send again what may have been lost. An interrupt too many is harmless."""
        self._intx.go_on()
        self._msi.go_on()
        self._msix.go_on()

    def _named_vectors(self) -> tuple[tuple[str, MessageVectors], ...]:
        return ("msi", self._msi), ("msix", self._msix), ("error", self._error)

    @property
    def descriptors(self) -> int:
        """The number of the VM's descriptors that are held."""
        return self._intx.descriptors + sum(each.descriptors for each in self._vectors.values())

    # --- towards the model (vnic.pci.irq.IrqLines) ---

    def set_intx(self, level: bool) -> None:
        self._intx.set_level(level)

    def msi_notify(self, vector: int) -> bool:
        return self._msi.notify(vector)

    def msix_notify(self, vector: int) -> bool:
        return self._msix.notify(vector)

    def msix_pending(self) -> int:
        return self._msix.pending

    def msix_on(self) -> bool:
        return self._msix.has_fds()

    def msix_fd(self, vector: int) -> int | None:
        return self._msix.fd(vector)

    def messages(self) -> MessageSocket | None:
        return self._messages

    def notifiers(self, called: Callable[[], None]) -> QueueNotifiers:
        return QueueNotifiers(self._watcher, called)

    # --- towards the VM ---

    def set(self, request: SetIrqs, fds: list[int]) -> None:
        """Carry out SET_IRQS, whose range has been checked. We own the descriptors from now on, also after Refused."""
        try:
            for fd in fds:
                if kind_of(fd) is not Kind.EVENTFD:
                    raise Refused(errno.EINVAL, "SET_IRQS with a descriptor that is no eventfd")
                # A write must not wait for a VM whose counter is full; QEMU's descriptors are non-blocking anyway.
                os.set_blocking(fd, False)
            if request.index == m.IRQ_INTX:
                self._set_intx(request, fds)
            elif request.index in self._vectors:
                self._set_vectors(self._vectors[request.index], request, fds)
        except Refused:
            close_fds(fds)
            raise
        except OSError as error:  # a descriptor that cannot be written to, or that epoll cannot wait for
            close_fds(fds)
            raise Refused(errno.EINVAL, f"SET_IRQS: {error.strerror}") from None

    def close(self) -> None:
        """The VM has disconnected."""
        self._intx.set_trigger(None)
        self._intx.set_unmask(None)
        self._msi.disable()
        self._msix.disable()
        self._error.disable()

    def _set_intx(self, request: SetIrqs, fds: list[int]) -> None:
        intx, action = self._intx, request.action
        if request.count == 0:
            if request.data != m.IRQ_DATA_NONE or action != m.IRQ_ACTION_TRIGGER:
                raise Refused(errno.EINVAL, "SET_IRQS of no INTx")
            intx.set_trigger(None)
            intx.set_unmask(None)
        elif request.data == m.IRQ_DATA_EVENTFD:
            if action == m.IRQ_ACTION_TRIGGER:
                intx.set_trigger(fds[0] if fds else None)
            elif action == m.IRQ_ACTION_UNMASK:
                intx.set_unmask(fds[0] if fds else None)
            else:
                raise Refused(errno.ENOTSUP, "SET_IRQS: INTx is not masked by a descriptor")
        elif request.data == m.IRQ_DATA_NONE or request.booleans[0]:
            if action == m.IRQ_ACTION_TRIGGER:
                intx.trigger()
            else:
                intx.mask(action == m.IRQ_ACTION_MASK)

    def _set_vectors(self, vectors: MessageVectors, request: SetIrqs, fds: list[int]) -> None:
        if request.action != m.IRQ_ACTION_TRIGGER:
            raise Refused(errno.ENOTSUP, "SET_IRQS: message interrupts are masked in their table")
        if request.data == m.IRQ_DATA_EVENTFD:
            vectors.set(request.start, request.count, fds)
        elif request.data == m.IRQ_DATA_NONE and request.count == 0:
            vectors.disable()
        else:
            for at in range(request.count):
                if request.data == m.IRQ_DATA_NONE or request.booleans[at]:
                    vectors.notify(request.start + at)
