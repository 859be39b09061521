"""A back-end takes and returns the rings between any other operations: each frame is sent exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from tests.fakes.virtio_lab import VirtioLab, frame

from vnic.net.client import Endpoint
from vnic.net.queue import Frame
from vnic.nic.virtio_net import VirtioNet, features
from vnic.virtio.device import RingBackend, VirtioDevice
from vnic.virtio.queue import SplitQueue

PAIRS = 2
RINGS = range(2 * PAIRS)
STEPS = 200
OPERATIONS = (
    *("send",) * 6,
    *("work", "settle", "link") * 3,
    *("pairs", "memory", "disable", "enable", "enable", "reset", "stop", "answer", "netdev"),
)


class FakeRingBackend(Endpoint, RingBackend):
    """A back-end that processes the rings that it has taken, some chains at a time."""

    ring_features = features.OF_THE_RINGS

    def __init__(self, source: random.Random, out: list[bytes]) -> None:
        self.source = source
        self.out = out
        self.device: VirtioDevice | None = None
        self.rings: dict[int, SplitQueue] = {}
        self.enabled: set[int] = set()
        self.returned: Callable[[Sequence[int | None]], None] | None = None

    def take_rings(self, device: VirtioDevice) -> bool:
        if self.source.random() < 0.1:
            return False
        self.device = device
        self.rings_changed(device)
        return True

    def rings_changed(self, device: VirtioDevice) -> None:
        queues = device.queues
        self.enabled = {q.index for q in queues if q.ready and q.enabled and device.is_data_queue(q.index)}
        for index in self.enabled - set(self.rings):
            device.attachment.hand_over_queue(index)
            told, ring = queues[index], SplitQueue(index)
            ring.size, ring.desc, ring.avail, ring.used = told.size, told.desc, told.avail, told.used
            ring.setup(device.memory, told.last_avail)
            assert ring.used_idx == told.last_avail, "the base is not the ring's used index"
            self.rings[index] = ring

    def work(self) -> None:
        for index, ring in self.rings.items():
            ring.invalidate()
            for _ in range(self.source.randrange(4) if index & 1 else 0):
                chain = ring.pop()
                if chain is not None:
                    if index in self.enabled:
                        self.out.append(chain.read()[12:])
                    ring.push(chain.head, 0)

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        self.returned = done
        if self.source.random() < 0.5:
            self.answer()

    def answer(self) -> None:
        device, returned = self.device, self.returned
        if device is None or returned is None:
            return
        self.work()
        rings, self.rings = self.rings, {}
        self.device = self.returned = None
        for index, ring in rings.items():
            ring.invalidate()
            device.attachment.reclaim_queue(index)
        told = self.source.random() < 0.7  # a back-end that crashed returns no bases
        returned([rings[index].last_avail if told and index in rings else None for index in RINGS])

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.out.append(bytes(frame))
        return True


class Bench:
    """A driver of two pairs, and netdevs that come and go."""

    def __init__(self, lab: VirtioLab, source: random.Random, back_end: FakeRingBackend) -> None:
        self.lab = lab
        self.source = source
        self.back_ends = [back_end]
        self.number = 0
        self.plugged = True
        # At most two rings full of frames are in flight, and no buffer is used again meanwhile.
        lab.driver._tx_buffers = [lab.guest.alloc(2048) for _ in range(1024)]
        lab.plug()

    def step(self, operation: str) -> None:
        lab, device, source = self.lab, self.lab.device, self.source
        index = source.choice(RINGS)
        if operation == "send":
            pair = index // 2
            room = lab.driver.rings[2 * pair + 1].free
            first, self.number = self.number, self.number + min(room, source.randrange(1, 5))
            lab.driver.send(*map(frame, range(first, self.number)), pair=pair)
        elif operation == "link":
            lab.set_link(source.random() < 0.7)
        elif operation == "pairs":
            lab.driver.command(4, 0, bytes((source.randrange(1, PAIRS + 1), 0)))
        elif operation == "memory":
            lab.driver._served.replace([lab.guest.region()])
        elif operation == "disable":
            device.queue_enabled(index, False)
        elif operation == "enable":
            for each in RINGS:
                device.queue_enabled(each, True)
        elif operation == "reset":
            device.reset()
            self.answer()
            lab.driver.start()
        elif operation == "stop":
            bases: list[int] = []
            device.queue_stopped(index, bases.append)
            self.answer()
            assert bases == [lab.driver.rings[index].used_idx]
            assert lab.driver.start_ring(lab.driver.rings[index])
        elif operation == "netdev" and self.plugged:
            lab.network.delete_netdev("net0", "test")
            self.plugged = False
        elif operation == "netdev":
            self.back_ends.append(FakeRingBackend(source, self.back_ends[0].out))
            lab.network.add_netdev("net0", "vhost-user", self.back_ends[-1], PAIRS)
            self.plugged = True
        elif operation == "answer":
            self.answer()
        elif operation == "work":
            self.work()
        else:
            lab.settle()

    def answer(self) -> None:
        for back_end in self.back_ends:
            back_end.answer()

    def work(self) -> None:
        for back_end in self.back_ends:
            back_end.work()
        self.lab.driver.kick()

    def finish(self) -> None:
        """Plug in and enable everything; the back-end then takes all that the driver sent."""
        if not self.plugged:
            self.step("netdev")
        self.step("enable")
        self.lab.set_link(True)
        assert self.lab.driver.command(4, 0, bytes((PAIRS, 0))) == 0
        for _ in range(80):
            self.answer()
            self.work()
            self.lab.settle()
        for ring in self.lab.driver.rings[1 : 2 * PAIRS : 2]:
            ring.take_used()
            assert ring.used_idx == ring.avail_idx


@pytest.mark.parametrize("seed", range(12))
def test_takeover_sends_no_frame_twice(seed: int) -> None:
    source, out = random.Random(seed), list[bytes]()
    back_end = FakeRingBackend(source, out)
    with VirtioLab(VirtioNet(PAIRS), far=back_end, memory_bytes=64 << 20, ring_size=64) as lab:
        bench = Bench(lab, source, back_end)
        for _ in range(STEPS):
            bench.step(source.choice(OPERATIONS))
        bench.finish()
        assert len(set(out)) == len(out)
        assert out
