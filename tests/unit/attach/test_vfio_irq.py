"""Tests of interrupts as eventfds: INTx and its automatic mask, latched and replaced vectors, no descriptor leaks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest
from tests.fakes.loops import no_fd_leak
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.vfio_user_device import is_open

from vnic.attach.vfio_user.irq import SPURIOUS_PAUSE_S, SPURIOUS_UNMASKS, EventfdIrqs
from vnic.attach.vfio_user.irq_record import EventfdIrqsRecord
from vnic.net.clock import Timer
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import Refused, SetIrqs
from vnic.record import RecordError, decode, encode

MASK, UNMASK, TRIGGER = m.IRQ_ACTION_MASK, m.IRQ_ACTION_UNMASK, m.IRQ_ACTION_TRIGGER
NONE, BOOL, EVENTFD = m.IRQ_DATA_NONE, m.IRQ_DATA_BOOL, m.IRQ_DATA_EVENTFD


class FakeWatcher:
    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}
        self.scheduler = FakeScheduler()

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> None:
        self.readers.pop(fd, None)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        return self.scheduler.call_later(delay, callback)


class Rig:
    """The VM keeps a duplicate of each eventfd."""

    def __init__(self) -> None:
        self.watcher = FakeWatcher()
        self.irqs = EventfdIrqs(self.watcher, intx=True, msi=1, msix=4)
        self.ours: list[int] = []
        self.theirs: list[int] = []

    def fds(self, count: int) -> list[int]:
        ours = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        theirs = [os.dup(fd) for fd in ours]
        self.ours += ours
        self.theirs += theirs
        return list(theirs)

    def set(
        self, index: int, flags: int, count: int = 1, fds: int = 0, start: int = 0, data: bytes = b""
    ) -> None:
        action, kind = flags & m.IRQ_ACTION, flags & m.IRQ_DATA
        self.irqs.set(SetIrqs(index, start, count, action, kind, data), self.fds(fds))

    def came(self, at: int = 0) -> int:
        try:
            return os.eventfd_read(self.ours[at])
        except BlockingIOError:
            return 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    with no_fd_leak():
        rig = Rig()
        yield rig
        rig.irqs.close()
        assert rig.watcher.readers == {}
        for fd in rig.ours:
            os.close(fd)


def test_offered_interrupts(rig: Rig) -> None:
    assert [(info.count, info.flags) for info in rig.irqs.infos] == [(1, 7), (1, 1), (4, 1), (1, 1), (0, 0)]


def test_intx_masks_itself_and_fires_again_when_unmasked(rig: Rig) -> None:
    rig.irqs.set_intx(True)  # no descriptor yet
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    assert rig.came() == 1
    rig.irqs.set_intx(True)
    rig.irqs.set_intx(False)
    rig.irqs.set_intx(True)
    assert rig.came() == 0
    rig.set(m.IRQ_INTX, NONE | UNMASK)
    assert rig.came() == 1
    rig.irqs.set_intx(False)
    rig.set(m.IRQ_INTX, NONE | UNMASK)
    assert rig.came() == 0
    rig.irqs.set_intx(True)
    assert rig.came() == 1


def test_vm_masks_intx(rig: Rig) -> None:
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    rig.set(m.IRQ_INTX, NONE | MASK)
    rig.irqs.set_intx(True)
    assert rig.came() == 0
    rig.set(m.IRQ_INTX, BOOL | UNMASK, data=b"\x00")
    assert rig.came() == 0
    rig.set(m.IRQ_INTX, BOOL | UNMASK, data=b"\x01")
    assert rig.came() == 1


def test_eventfd_unmasks_intx(rig: Rig) -> None:
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    rig.set(m.IRQ_INTX, EVENTFD | UNMASK, fds=1)
    rig.irqs.set_intx(True)
    assert rig.came() == 1
    (unmask,) = rig.watcher.readers.values()
    unmask()  # a spurious wakeup
    assert rig.came() == 0
    os.eventfd_write(rig.ours[1], 1)
    unmask()
    assert rig.came() == 1
    rig.set(m.IRQ_INTX, EVENTFD | UNMASK)
    assert rig.watcher.readers == {}


@pytest.mark.parametrize("level", [False, True])
def test_always_readable_unmask_descriptor_causes_no_busy_loop(rig: Rig, level: bool) -> None:
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    rig.set(m.IRQ_INTX, EVENTFD | UNMASK, fds=1)
    rig.irqs.set_intx(level)
    turns = 0
    while rig.watcher.readers:
        os.eventfd_write(rig.ours[1], 1)
        (unmask,) = rig.watcher.readers.values()
        unmask()
        turns += 1
        assert turns <= SPURIOUS_UNMASKS + 1
    rig.watcher.scheduler.advance(SPURIOUS_PAUSE_S)
    assert rig.watcher.readers, "it is heard again"
    rig.irqs.set_intx(not level)
    os.eventfd_write(rig.ours[1], 1)
    (unmask,) = rig.watcher.readers.values()
    unmask()
    assert rig.watcher.readers, "and is not suspected while the device is at work"


def test_other_descriptor_is_refused_and_closed(rig: Rig) -> None:
    for action in (TRIGGER, UNMASK):
        reading, writing = os.pipe()
        with pytest.raises(Refused, match="no eventfd"):
            rig.irqs.set(SetIrqs(m.IRQ_INTX, 0, 1, action, EVENTFD), [reading])
        assert rig.watcher.readers == {}
        assert not is_open(reading)
        os.close(writing)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_refused_vectors_change_nothing(rig: Rig, at: int) -> None:
    """After a SET_IRQS that is refused half-way, all its descriptors are closed, and the vectors keep theirs."""
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, 3, 3)
    fds = rig.fds(3)
    os.close(fds[at])
    fds[at] = os.memfd_create("memory")
    assert fds[at] in rig.theirs, "the number is that of the one that was closed"
    with pytest.raises(Refused, match="no eventfd"):
        rig.irqs.set(SetIrqs(m.IRQ_MSIX, 0, 3, TRIGGER, EVENTFD), fds)
    assert not any(map(is_open, fds))
    assert rig.irqs.descriptors == 3
    rig.irqs.msix_notify(at)
    assert rig.came(at) == 1


def test_new_intx_descriptor_replaces_old_one(rig: Rig) -> None:
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    rig.irqs.set_intx(True)
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    assert (rig.came(0), rig.came(1)) == (1, 1)
    assert not is_open(rig.theirs[0])
    rig.set(m.IRQ_INTX, NONE | TRIGGER, count=0)
    assert not is_open(rig.theirs[1])
    rig.irqs.set_intx(True)


def test_vectors_are_sent_and_latched(rig: Rig) -> None:
    assert not rig.irqs.msix_notify(0)
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=3, fds=3)
    assert [rig.irqs.msix_notify(vector) for vector in range(3)] == [True] * 3
    assert rig.irqs.msix_notify(3)  # no descriptor yet
    assert not rig.irqs.msix_notify(4)
    assert [rig.came(at) for at in range(3)] == [1, 1, 1]
    assert rig.irqs.msix_pending() == 8
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=1, fds=1, start=3)
    assert rig.came(3) == 1
    assert rig.irqs.msix_pending() == 0
    assert rig.irqs.msix_fd(3) == rig.theirs[3]
    assert rig.irqs.msix_fd(4) is None


def test_newest_descriptor_counts_and_missing_one_latches(rig: Rig) -> None:
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=1, fds=1)
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=1, fds=1)
    rig.irqs.msix_notify(0)
    assert (rig.came(0), rig.came(1)) == (0, 1)
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=1)  # -1
    assert rig.irqs.msix_notify(0)
    rig.set(m.IRQ_MSIX, NONE | TRIGGER, count=0)  # all off: latched interrupts are dropped
    assert rig.irqs.msix_pending() == 0
    assert not rig.irqs.msix_notify(0)
    rig.set(m.IRQ_MSIX, EVENTFD | TRIGGER, count=1, fds=1)
    assert rig.came(2) == 0


def test_msi_and_loop_back(rig: Rig) -> None:
    rig.set(m.IRQ_MSI, EVENTFD | TRIGGER, fds=1)
    assert rig.irqs.msi_notify(0)
    rig.set(m.IRQ_MSI, NONE | TRIGGER)
    rig.set(m.IRQ_MSI, BOOL | TRIGGER, data=b"\x00")
    assert rig.came() == 2
    rig.set(m.IRQ_INTX, EVENTFD | TRIGGER, fds=1)
    rig.set(m.IRQ_INTX, NONE | TRIGGER)
    assert rig.came(1) == 1


def test_error_interrupt_is_accepted_and_never_sent(rig: Rig) -> None:
    rig.set(m.IRQ_ERR, EVENTFD | TRIGGER, fds=1)
    rig.set(m.IRQ_ERR, NONE | TRIGGER, count=0)
    rig.set(4, NONE | TRIGGER, count=0)
    assert rig.came() == 0


@pytest.mark.parametrize(
    ("index", "flags", "count", "fds"),
    [
        (m.IRQ_INTX, EVENTFD | MASK, 1, 1),
        (m.IRQ_INTX, NONE | MASK, 0, 0),
        (m.IRQ_MSIX, EVENTFD | UNMASK, 2, 2),
        (m.IRQ_MSIX, NONE | MASK, 1, 0),
    ],
)
def test_refused_requests_leave_no_descriptor_open(
    rig: Rig, index: int, flags: int, count: int, fds: int
) -> None:
    with pytest.raises(Refused):
        rig.set(index, flags, count, fds)
    assert not any(map(is_open, rig.theirs))


def test_unusable_eventfds_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_epoll(fd: int, callback: Callable[[], object], /) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(rig.watcher, "add_reader", no_epoll)
    eventfd = os.eventfd(0)
    only_path = os.open(f"/proc/self/fd/{eventfd}", os.O_PATH)
    for action, fd in ((UNMASK, eventfd), (TRIGGER, only_path)):
        with pytest.raises(Refused):
            rig.irqs.set(SetIrqs(m.IRQ_INTX, 0, 1, action, EVENTFD), [fd])
        assert not is_open(fd)


def test_full_counter_does_not_block(rig: Rig) -> None:
    ours = os.eventfd(0)  # a blocking one
    os.eventfd_write(ours, 2**64 - 2)
    theirs = os.dup(ours)
    rig.ours.append(ours)
    rig.theirs.append(theirs)
    rig.irqs.set(SetIrqs(m.IRQ_MSIX, 0, 1, TRIGGER, EVENTFD), [theirs])
    assert rig.irqs.msix_notify(0)


def test_bindings_are_saved_and_restored(rig: Rig) -> None:
    rig.set(m.IRQ_INTX, TRIGGER | EVENTFD, fds=1)
    rig.set(m.IRQ_INTX, UNMASK | EVENTFD, fds=1)
    rig.set(m.IRQ_MSIX, TRIGGER | EVENTFD, count=2, fds=2, start=1)
    rig.irqs.set_intx(True)
    rig.irqs.msix_notify(3)
    assert rig.came(0) == 1
    record, fds = rig.irqs.save()
    new = EventfdIrqs(rig.watcher, intx=True, msi=1, msix=4)
    copies = [os.dup(fd) for fd in fds]
    new.restore(decode(EventfdIrqsRecord, encode(record)), copies)
    assert new.save() == (record, copies)
    rig.irqs.close()
    os.eventfd_write(rig.ours[1], 1)
    rig.watcher.readers[copies[1]]()
    assert rig.came(0) == 1  # still asserted
    assert new.msix_notify(2)
    assert rig.came(3) == 1
    assert new.msix_pending() == 8
    new.close()
    assert not any(is_open(fd) for fd in copies)


def test_bindings_that_cannot_be(rig: Rig) -> None:
    rig.set(m.IRQ_MSIX, TRIGGER | EVENTFD, count=4, fds=4)
    record, fds = rig.irqs.save()
    fewer = EventfdIrqs(rig.watcher, intx=True, msi=1, msix=2)
    with pytest.raises(RecordError) as error:
        fewer.restore(record, fds)
    assert error.value.field == "msix.fds"
    with pytest.raises(RecordError, match="of 4 descriptors, not 3"):
        EventfdIrqs(rig.watcher, intx=True, msi=1, msix=4).restore(record, fds[:3])
