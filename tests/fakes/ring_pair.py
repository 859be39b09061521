"""Both sides of one ring in one process: a fake guest's driver, and the SplitQueue under test."""

from __future__ import annotations

from vnic.lab.played.closing import Closing
from vnic.lab.played.driver import Buffer, DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.virtio.chain import Chain
from vnic.virtio.queue import SplitQueue


class RingPair(Closing):
    """`driver` and `queue` are the two sides of one ring in `guest`'s memory."""

    def __init__(self, size: int = 16, *, indirect: bool = True) -> None:
        self.guest = FakeGuestMemory(1 << 20)
        self.memory = self.guest.served()
        self.driver = DriverRing(self.guest, 0, size)
        self.queue = SplitQueue(0, 1024)
        self.queue.indirect = indirect
        self.setup()

    def close(self) -> None:
        self.queue.stop()
        self.driver.close()
        self.guest.close()

    def setup(self, base: int | None = None) -> None:
        """Start the device's side where the driver's is."""
        queue, driver = self.queue, self.driver
        queue.size, queue.desc, queue.avail, queue.used = driver.size, driver.desc, driver.avail, driver.used
        queue.setup(self.memory, base)

    def begin_at(self, index: int) -> None:
        """Start both sides with these indices."""
        driver = self.driver
        driver.avail_idx = driver.last_used = driver.shown_idx = index
        for area in (driver.avail, driver.used):
            self.guest.write(area + 2, index.to_bytes(2, "little"))
        self.setup(index)
        driver.take_used()

    def queue_one(self) -> int:
        """Add one chain and pop it; its head."""
        self.driver.add([self.buffer(b"x")])
        self.driver.publish()
        return self.take().head

    def buffer(self, data: bytes | int) -> Buffer:
        """A fresh buffer, with this content or of this size."""
        size = data if isinstance(data, int) else len(data)
        addr = self.guest.alloc(max(size, 1), 1)
        if not isinstance(data, int):
            self.guest.write(addr, data)
        return addr, size

    def take(self) -> Chain:
        """The next chain, which must be there."""
        chain = self.queue.pop()
        assert chain is not None
        return chain
