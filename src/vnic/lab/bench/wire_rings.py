"""Packets from ring to ring through vnic-wire on one CPU, beside a loop in C that checks nothing, and bare copies.

`vnic bench wire-rings` runs it; `native/rings.c` plays both guests' drivers.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Final

from vnic.lab.bench.native import CThread, library, on_cpu, two_cpus
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.wire_program import BareWire, cpu_ns
from vnic.lab.played.driver import WRITE, DriverRing, NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.virtio.features import EVENT_IDX

SIZES: Final = {64: 1024, 1514: 1024, 65536: 256}
"""Bytes of a frame, and the size of the rings."""
BATCH: Final = 32
"""The polling driver gives chains out again when so many came back."""
HEADER: Final = 12
BYTES: Final = 512 << 20
PACKETS: Final = 1 << 20
"""A round moves so many bytes or packets, whichever is less."""
WARM_UP_S: Final = 0.1
SECONDS: Final = 0.5
AIMS: Final = {64: 0.6, 1514: 0.8, 65536: 0.9}
"""By size: at least so much of the bare loop's rate, which at 1514 bytes and more is mostly that of memcpy."""

STEPPED = (
    "CPU time of the device's process or thread, all on one CPU, by turns: vnic-wire without spinning; a loop in C"
    " that takes descriptors unchecked; memcpy alone. The driver gives out all chains of both rings, kicks, and sleeps"
    " until the last is back, with EVENT_IDX; one buffer a packet with a 12-byte header. Ratios are of rates"
)
POLLED = (
    f"two CPUs: vnic-wire, or the loop in C, on one; both drivers, a loop in C, on the other. They poll, give chains"
    f" out again and touch no packet; received in {SECONDS:g} s. Only a quiet machine shows what can be reached"
)


class Ring(ctypes.Structure):
    """`struct ring` of rings.c."""

    _fields_ = [
        ("desc", ctypes.c_uint64),
        ("avail", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("memory", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("kick", ctypes.c_int32),
        ("call", ctypes.c_int32),
        ("idx", ctypes.c_uint16),
        ("seen", ctypes.c_uint16),
        ("done", ctypes.c_uint16),
    ]


class Guests:
    """Two guests with all buffers of one size in their rings: the first sends to the second."""

    def __init__(self, size: int) -> None:
        self.packet = size + HEADER
        self.ring_size = SIZES[size]
        room = self.ring_size * (self.packet + 64) + (
            8 << 20
        )  # also the driver's rings, and buffers of its own
        self.memories = [FakeGuestMemory(room), FakeGuestMemory(room)]
        self.drivers = [NetDriver(memory, size=self.ring_size) for memory in self.memories]
        self._tx = self._filled(self.drivers[0].rings[1], 0)
        self._rx = self._filled(self.drivers[1].rings[0], WRITE)
        self.pair = ctypes.byref(self._tx), ctypes.byref(self._rx)

    def _filled(self, ring: DriverRing, flags: int) -> Ring:
        memory = ring.memory
        for index in range(ring.size):
            buffer = memory.alloc(self.packet, 64)
            memory.write(buffer + HEADER, b"\xff" * 6 + bytes(self.packet - HEADER - 6))
            ring.set_desc(index, buffer, self.packet, flags)
            ring.offer(index)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory.mapping)) + memory.at(0)
        places = ring.desc + start, ring.avail + start, ring.used + start, start
        return Ring(*places, ring.size, ring.kick_fd, ring.call_fd)

    def close(self) -> None:
        for driver, memory in zip(self.drivers, self.memories, strict=True):
            driver.close()
            memory.close()


class Loops:
    """rings.c on two CPUs."""

    def __init__(self) -> None:
        self._moved, self._load = two_cpus()
        self._c = library("rings", sixty_four=("drive", "step", "sleeping_device", "copy"))

    # -- by CPU time: packets per CPU-second --------------------------------------------------------------------

    def step(self, guests: Guests) -> int:
        """How many packets went through."""
        rounds = min(PACKETS, BYTES // guests.packet) // guests.ring_size
        with on_cpu(self._moved):
            moved: int = self._c.step(*guests.pair, rounds, guests.packet)
        if not moved:
            raise Missing(f"packets of {guests.packet - HEADER} bytes do not come through")
        return moved

    def wire(self, size: int) -> float:
        with guests_on_a_wire(size, self._moved, spin_us=0, features=EVENT_IDX) as (guests, wire):
            self.step(guests)
            before = cpu_ns(wire.process.pid)
            moved = self.step(guests)
            return moved * 1e9 / (cpu_ns(wire.process.pid) - before)

    def bare_loop(self, size: int) -> float:
        with guests_with(size) as guests:
            self.step_bare(guests)
            return self.step_bare(guests)

    def step_bare(self, guests: Guests) -> float:
        with CThread(self._moved, self._c.sleeping_device, *guests.pair) as device:
            moved = self.step(guests)
        return moved * 1e9 / float(device.result)

    def copies(self, size: int) -> float:
        with guests_with(size) as guests, on_cpu(self._moved):
            rounds = min(PACKETS, BYTES // guests.packet) // guests.ring_size
            self._c.copy(*guests.pair, rounds)
            return rounds * guests.ring_size * 1e9 / float(self._c.copy(*guests.pair, rounds))

    # -- polled: packets per second -----------------------------------------------------------------------------

    def drive(self, guests: Guests) -> float:
        with on_cpu(self._load):
            for seconds in (WARM_UP_S, SECONDS):
                received: int = self._c.drive(
                    *guests.pair, ctypes.c_uint64(int(seconds * 1e9)), BATCH, guests.packet
                )
        if not received:
            raise Missing(f"packets of {guests.packet - HEADER} bytes do not come through")
        return received / SECONDS

    def wire_polled(self, size: int) -> float:
        with guests_on_a_wire(size, self._moved) as (guests, _):
            return self.drive(guests)

    def bare_loop_polled(self, size: int) -> float:
        with guests_with(size) as guests, CThread(self._moved, self._c.polling_device, *guests.pair):
            return self.drive(guests)


@contextlib.contextmanager
def guests_with(size: int) -> Iterator[Guests]:
    guests = Guests(size)
    try:
        yield guests
    finally:
        guests.close()


@contextlib.contextmanager
def guests_on_a_wire(
    size: int, cpu: int, features: int = 0, **options: int
) -> Iterator[tuple[Guests, BareWire]]:
    with guests_with(size) as guests, BareWire(cpu=cpu, **options) as wire:
        for port, driver in enumerate(guests.drivers):
            wire.add_guest(port, driver, features)
        wire.join(0, 0, 1)
        yield guests, wire


def measure(rounds: int) -> Iterator[Row]:
    loops = Loops()
    stepped = {"vnic-wire": loops.wire, "bare loop": loops.bare_loop, "copies": loops.copies}
    for size in SIZES:
        rates: dict[str, list[float]] = {name: [] for name in stepped}
        for _ in range(rounds):
            for name, subject in stepped.items():
                rates[name].append(subject(size) / 1e6)
        for name, samples in rates.items():
            yield row(f"{size} bytes: {name}", "M/s", samples, STEPPED, digits=3)
        for name in ("bare loop", "copies"):
            aim = f"at least {AIMS[size]:g}" if name == "bare loop" else ""
            ratios = [ours / theirs for ours, theirs in zip(rates["vnic-wire"], rates[name], strict=True)]
            yield row(f"{size} bytes: vnic-wire / {name}", "x", ratios, STEPPED, aim, digits=2)
    polled = {"vnic-wire": loops.wire_polled, "bare loop": loops.bare_loop_polled}
    for size in SIZES:
        for name, subject in polled.items():
            samples = [subject(size) / 1e6 for _ in range(rounds)]
            aim = "at least 15" if (name, size) == ("vnic-wire", 64) else ""
            yield row(f"{size} bytes: {name}, polled", "M/s", samples, POLLED, aim, digits=3)
