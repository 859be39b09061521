"""Packets from one guest's TX ring to another's RX ring, through two device models and delivery, in one thread.

`vnic bench rings` runs it: the cost of the Python data plane without sockets or processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from vnic.lab.bench.report import Row, row
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.network import Network
from vnic.nic.virtio_net.device import VirtioNet

RING_SIZE = 256
SIZES = (64, 1514, 65536)
BURSTS = (256, 1)
PACKETS = 4096
"""Packets of a round at 64 bytes; larger ones take fewer, by their size."""

METHOD = (
    "one thread, two virtio-net models peered straight, real memory and rings; timed from the kick until all are in"
    " the RX ring; filling and emptying the rings is not timed. Ratios: beside a slice copy between two mappings"
)


class _Turns:
    """The loop's turns, without a loop."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[..., object], *args: Any) -> _Turns:
        self._calls.append((callback, args))
        return self

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Turns:
        return self.call_soon(callback, *args)

    def cancel(self) -> None:
        """Never used here."""

    def run(self) -> None:
        while self._calls:
            callback, args = self._calls.popleft()
            callback(*args)


class _Pair:
    """Two guests on one wire."""

    def __init__(self) -> None:
        self.turns = _Turns()
        self.network = Network(self.turns)
        self.memories = [FakeGuestMemory(64 << 20), FakeGuestMemory(64 << 20)]
        self.devices = [VirtioNet(queue_size=RING_SIZE), VirtioNet(queue_size=RING_SIZE)]
        nics = [
            self.network.add_nic(f"nic{index}", "virtio-net", device, mac=bytes((2, 0, 0, 0, 0, index)))
            for index, device in enumerate(self.devices)
        ]
        for nic in nics:
            nic.holds.clear()  # peered without a netdev between them: the shortest wire there is
        self.network.connect(*nics)
        for device in self.devices:
            device.link_status_changed()
        self.drivers = [NetDriver(memory, size=RING_SIZE) for memory in self.memories]
        for driver, device in zip(self.drivers, self.devices, strict=True):
            driver.plug(device)
        self.turns.run()

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()
        self.network.close()
        for memory in self.memories:
            memory.close()

    def round(self, size: int, burst: int, packets: int) -> float:
        """ns per packet."""
        sender, receiver = self.drivers
        tx, rx = sender.rings[1], receiver.rings[0]
        packet = sender.memory.alloc(size + 12)
        # To a broadcast address, so that the receive filter has to look at the frame and lets it pass.
        sender.memory.write(packet, bytes(12) + b"\xff" * 6 + bytes(size - 6))
        room = [receiver.memory.alloc(size + 12) for _ in range(min(burst, 32))]
        spent, done = 0, 0
        while done < packets:
            for index in range(burst):
                rx.add([], [(room[index % len(room)], size + 12)])
                tx.add([(packet, size + 12)])
            rx.publish(kick=False)
            tx.publish(kick=False)
            started = time.perf_counter_ns()
            self.devices[0].kick(1)
            self.turns.run()
            spent += time.perf_counter_ns() - started
            tx.take_used()
            arrived = len(rx.take_used())
            if arrived != burst:
                raise AssertionError(f"{arrived} of {burst} packets arrived")
            done += burst
        return spent / done


def _copy_alone(size: int, packets: int) -> float:
    """ns to copy one packet between memories like the guests': the lower bound of any data plane."""
    with FakeGuestMemory() as source, FakeGuestMemory() as target:
        source.write(source.guest_addr, bytes(size))
        started = time.perf_counter_ns()
        for _ in range(packets):
            target.mapping[:size] = source.mapping[:size]
        return (time.perf_counter_ns() - started) / packets


def measure(rounds: int) -> Iterator[Row]:
    for size in SIZES:
        packets = max(256, PACKETS * 64 // max(size, 64))
        for burst in BURSTS:
            samples, copies = [], []
            for _ in range(rounds):
                pair = _Pair()
                try:
                    samples.append(pair.round(size, burst, packets))
                finally:
                    pair.close()
                copies.append(_copy_alone(size, packets))
            name = f"{size} bytes, burst {burst}"
            yield row(f"{name}: packets/s", "1/s", [1e9 / ns for ns in samples], METHOD, digits=0)
            ratios = [ns / copy for ns, copy in zip(samples, copies, strict=True)]
            yield row(f"{name}: time / bare copy", "x", ratios, METHOD)
