"""All that a device writes to a guest's memory passes GuestMapping, where its writes can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.fakes.virtio_lab import VirtioLab, frame
from tests.unit.nic_e1000.conftest import Rig

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.memory.guest import GuestMemory
from vnic.memory.mapping import GuestMapping


class CountedView:
    """A view that notes the bytes of its mapping that are written by it."""

    def __init__(self, view: memoryview, start: int, written: set[int]) -> None:
        self._view = view
        self._start = start
        self._written = written

    def cast(self, shape: Any) -> CountedView:
        return CountedView(self._view.cast(shape), self._start, self._written)

    def __getitem__(self, where: int | slice) -> Any:
        found: Any = self._view[where]
        if isinstance(where, slice):
            first = where.indices(len(self._view))[0] * self._view.itemsize
            return CountedView(found, self._start + first, self._written)
        return found

    def __setitem__(self, where: int, value: int) -> None:
        size = self._view.itemsize
        self._written.update(range(self._start + where * size, self._start + (where + 1) * size))
        self._view[where] = value


class CountedMapping(GuestMapping):
    written: set[int]

    def __setitem__(self, where: Any, data: Any) -> None:
        assert isinstance(where, slice)
        self.written.update(range(*where.indices(len(self))))
        super().__setitem__(where, data)

    def view(self, start: int, stop: int) -> memoryview:
        return CountedView(super().view(start, stop), start, self.written)  # type: ignore[return-value]  # it plays one


class Counter:
    """Counts what is written to one guest's memory, as a log of dirty pages would."""

    def __init__(self, guest: FakeGuestMemory, memory: GuestMemory) -> None:
        self._guest = guest
        (region,) = memory.regions
        mapping = region.mapping
        assert mapping is not None
        mapping.__class__ = CountedMapping
        assert isinstance(mapping, CountedMapping)
        self.written = mapping.written = set()
        memory.replace_views()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every byte that changes meanwhile is counted, and some do. The driver must not write."""
        before = self._guest.mapping[:]
        self.written.clear()
        yield
        after = self._guest.mapping[:]
        changed = {at for at in range(len(before)) if before[at] != after[at]}
        assert changed
        assert changed <= self.written


@pytest.fixture
def lab() -> Iterator[VirtioLab]:
    with VirtioLab(memory_bytes=1 << 20, ring_size=16) as lab:
        lab.plug()
        yield lab


@pytest.fixture
def counter(lab: VirtioLab) -> Counter:
    return Counter(lab.guest, lab.device.memory)


def test_writes_of_sent_packets_are_counted(lab: VirtioLab, counter: Counter) -> None:
    for number in range(3):
        lab.driver.queue_tx(frame(number), indirect=number == 1)
    lab.driver.rings[1].publish(kick=False)
    with counter.watching():
        lab.device.kick(1)
        lab.settle()
    assert len(lab.sent) == 3


@pytest.mark.parametrize("buffer_bytes", [1526, 70])
def test_writes_of_received_packets_are_counted(lab: VirtioLab, counter: Counter, buffer_bytes: int) -> None:
    """In one buffer each, and merged from several."""
    lab.driver.fill_rx(8, size=buffer_bytes)
    with counter.watching():
        for number in range(2):
            lab.netdev.send(0, frame(number, 200))
        lab.settle()
    assert lab.driver.received() == [frame(0, 200), frame(1, 200)]


def test_writes_of_ring_flags_are_counted(lab: VirtioLab, counter: Counter) -> None:
    lab.driver.fill_rx(1)
    with counter.watching():
        for number in range(3):
            lab.netdev.send(0, frame(number))
        lab.settle()


def test_writes_of_control_queue_are_counted(lab: VirtioLab, counter: Counter) -> None:
    driver, ring = lab.driver, lab.driver.rings[2]
    command, answer = driver.memory.alloc(3), driver.memory.alloc(1)
    driver.memory.write(command, b"\0\0\0")
    driver.memory.write(answer, b"\xff")
    ring.add([(command, 3)], [(answer, 1)])
    ring.publish(kick=False)
    with counter.watching():
        lab.device.kick(2)
    assert driver.memory.read(answer, 1) == b"\0"


def test_writes_at_end_of_rings_are_counted(lab: VirtioLab, counter: Counter) -> None:
    lab.driver.fill_rx(1)
    lab.netdev.send(0, frame(1))
    lab.driver.fill_rx(1)
    assert lab.driver.rings[0].used_flags == 1
    with counter.watching():
        lab.device.set_status(0)


def test_e1000() -> None:
    """Buffers, and the descriptors of both rings."""
    rig = Rig()
    driver = rig.driver
    driver.start()
    (memory,) = driver.memory._served
    counter = Counter(driver.memory, memory)
    with counter.watching():
        rig.wire(frame(1))
    assert driver.received() == [frame(1)]
    driver.memory.write(0x4000_8000, frame(2))
    driver.descriptor(0x4000_8000, 60, 0x0B)
    with counter.watching():
        driver.kick()
        rig.scheduler.run_soon()
    assert driver.tx_done(0)
    rig.close()
