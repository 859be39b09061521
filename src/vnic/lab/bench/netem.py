"""A delay line of vnic-wire: its rate, how exact its delays, losses and rates are, beside the kernel's netem.

`vnic bench netem` runs it; `native/netem.c` plays both guests' drivers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from vnic.dataplane.wire.impair_messages import (
    ALWAYS,
    MAX_LIMIT,
    GetImpairment,
    Impair,
    ImpairDirection,
    Impairment,
    ImpairReply,
    ImpairState,
)
from vnic.lab.bench.native import library, on_cpu, two_cpus
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.wire_program import BareWire
from vnic.lab.bench.wire_rings import HEADER, Ring
from vnic.lab.played.driver import WRITE, DriverRing, NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory

DELAY_NS: Final = 50_000_000
LARGE: Final = 65536
SMALL: Final = 64
RING: Final = 256
SECONDS: Final = 1.0
WARM_UP_S: Final = 0.2
GBIT: Final = 5.0
"""The rate at which delays are measured."""
FRAMES: Final = 1_000_000
LOSS: Final = 0.1
RATE: Final = 32_000_000
"""Bytes per second: half a million small frames."""
WAITING: Final = 100_000
"""Frames that may wait for it, so that it has some when the sender is late."""
NOTED: Final = 1 << 16
PATIENCE_S: Final = 60.0
VETH_FRAME: Final = 65000

METHOD = (
    f"two CPUs: one worker of vnic-wire on one, both drivers, a loop in C that polls and touches 8 bytes of a frame, on"
    f" the other. An IMPAIR of {DELAY_NS // 10**6} ms for what comes from either port: frames of 64 KiB go from ring to"
    f" ring, and each is answered by one of 64 bytes, so that a round trip takes {2 * DELAY_NS // 10**6} ms."
    f" The rate is that of frames sent as fast as they are taken, for {SECONDS:g} s; delays are measured by time stamps"
    f" in frames sent at {GBIT:g} Gb/s, one at a time. Late: received minus sent minus the delay;"
    " without a line, that is what the wire takes"
)
COUNTED = (
    f"the same, with {FRAMES:,} frames of {SMALL} bytes that come from a port: a loss of {LOSS:.0%}, by vnic-wire's"
    f" counters, and a rate of {RATE / 10**6:g} MB/s, by the time between the first and the last that were received."
    " Ratios are to what was asked for"
)
KERNEL = (
    f"frames of {VETH_FRAME} bytes between packet sockets on a veth pair with `tc qdisc add … netem delay"
    f" {DELAY_NS // 10**6}ms`, one at a time at {GBIT:g} Gb/s, by the same loop"
)


class Flow(ctypes.Structure):
    """`struct flow` of netem.c."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("gap_ns", "ns", "delay_ns", "from_ns", "most", "sent")),
        *((name, ctypes.c_uint64) for name in ("received", "first_ns", "last_ns", "ways", "trips", "room")),
        ("way", ctypes.POINTER(ctypes.c_int32)),
        ("trip", ctypes.POINTER(ctypes.c_int32)),
    ]

    def __init__(self, **values: int) -> None:
        self._way, self._trip = (ctypes.c_int32 * NOTED)(), (ctypes.c_int32 * NOTED)()
        super().__init__(
            **values,
            from_ns=int(WARM_UP_S * 1e9),
            room=NOTED,
            way=ctypes.cast(self._way, ctypes.POINTER(ctypes.c_int32)),
            trip=ctypes.cast(self._trip, ctypes.POINTER(ctypes.c_int32)),
        )

    @property
    def late_us(self) -> list[float]:
        return [each / 1000 for each in self._way[: self.ways]]

    @property
    def trips_late_us(self) -> list[float]:
        return [each / 1000 for each in self._trip[: self.trips]]

    @property
    def frames_a_second(self) -> float:
        if self.received < 2:
            raise Missing("no frames come through the line")
        return float((self.received - 1) * 1e9 / (self.last_ns - self.first_ns))


class Guests:
    """Two guests: frames of one size go from the first to the second, and small ones back."""

    def __init__(self, size: int) -> None:
        self.memories = [FakeGuestMemory((RING * (size + 1024) + (8 << 20)) & ~4095) for _ in range(2)]
        self.drivers = [NetDriver(memory, size=RING) for memory in self.memories]
        one, two = self.drivers
        self._rings = [
            *(_filled(one.rings[1], size, 0), _filled(two.rings[0], size, WRITE)),
            *(_filled(two.rings[1], SMALL, 0), _filled(one.rings[0], SMALL, WRITE)),
        ]
        self.there = [ctypes.byref(each) for each in self._rings[:2]]
        self.back = [ctypes.byref(each) for each in self._rings[2:]]

    def close(self) -> None:
        for driver, memory in zip(self.drivers, self.memories, strict=True):
            driver.close()
            memory.close()


def _filled(ring: DriverRing, size: int, flags: int) -> Ring:
    memory = ring.memory
    for index in range(ring.size):
        buffer = memory.alloc(size + HEADER, 64)
        memory.write(buffer + HEADER, b"\xff" * 6 + bytes(size - 6))
        ring.set_desc(index, buffer, size + HEADER, flags)
        ring.offer(index)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory.mapping)) + memory.at(0)
    places = ring.desc + start, ring.avail + start, ring.used + start, start
    return Ring(*places, ring.size, ring.kick_fd, ring.call_fd)


class Bench:
    """netem.c on one CPU, vnic-wire on the other."""

    def __init__(self) -> None:
        self._moved, self._load = two_cpus()
        self.c = library("netem")

    @contextlib.contextmanager
    def _wire(self, size: int, *impairments: Impairment) -> Iterator[tuple[Guests, BareWire]]:
        guests = Guests(size)
        try:
            with BareWire(cpu=self._moved, spin_us=0) as wire:
                for port, driver in enumerate(guests.drivers):
                    wire.add_guest(port, driver)
                for port, impairment in enumerate(impairments):
                    wire.request(Impair(port, ImpairDirection.IN, impairment, ImpairState(random=1)))
                wire.join(0, 0, 1)
                yield guests, wire
        finally:
            guests.close()

    def trips(self, gap_ns: int, delay_ns: int = DELAY_NS) -> Flow:
        """64 KiB frames through a delay line, and their answers through another. Without a delay there is no line."""
        lines = [Impairment(limit=MAX_LIMIT, delay_ns=delay_ns)] * 2 if delay_ns else []
        flow = Flow(gap_ns=gap_ns, ns=int(SECONDS * 1e9), delay_ns=delay_ns)
        with self._wire(LARGE, *lines) as (guests, _), on_cpu(self._load):
            self.c.rings(*guests.there, *guests.back, ctypes.byref(flow))
        return flow

    def loss(self) -> float:
        """What was lost of FRAMES, as a part of what should have been."""
        flow = Flow(ns=int(PATIENCE_S * 1e9), most=int(FRAMES * (1 - LOSS)))
        with self._wire(SMALL, Impairment(limit=MAX_LIMIT, loss=round(LOSS * ALWAYS))) as (guests, wire):
            with on_cpu(self._load):
                self.c.rings(*guests.there, None, None, ctypes.byref(flow))
            reply = ImpairReply.parse(wire.request(GetImpairment(0, ImpairDirection.IN)))
        return reply.lost / (reply.lost + reply.passed + reply.waiting) / LOSS

    def rate(self) -> float:
        """The rate of FRAMES, as a part of what was asked for."""
        flow = Flow(ns=int(PATIENCE_S * 1e9), most=FRAMES)
        with self._wire(SMALL, Impairment(rate=RATE, limit=WAITING)) as (guests, _), on_cpu(self._load):
            self.c.rings(*guests.there, None, None, ctypes.byref(flow))
        return flow.frames_a_second * SMALL / RATE

    def kernel(self) -> Flow:
        """The same frames through the kernel's netem. Raises Missing where there is none."""
        flow = Flow(gap_ns=_gap(VETH_FRAME), ns=int(SECONDS * 1e9), delay_ns=DELAY_NS)
        with _veth() as (tx, rx), on_cpu(self._load):
            frame = (ctypes.c_uint8 * VETH_FRAME)(*b"\xff" * 12, 0x88, 0xB5)
            error = self.c.packets(tx, rx, frame, VETH_FRAME, ctypes.byref(flow))
        if error:
            raise Missing(f"packet sockets on a veth pair: {os.strerror(error)}")
        return flow


def _gap(size: int) -> int:
    return int(8 * size / GBIT)


@contextlib.contextmanager
def _veth() -> Iterator[tuple[int, int]]:
    """Packet sockets at the ends of a veth pair with netem on the first."""
    names = [f"vnb{os.getpid() % 10**6}{end}" for end in "ab"]
    if os.geteuid() != 0 or not shutil.which("tc"):
        raise Missing("only root, with tc (apt-get install iproute2), can make a qdisc")
    _run("ip", "link", "add", names[0], "mtu", "65535", "type", "veth", "peer", names[1], "mtu", "65535")
    try:
        delay = f"{DELAY_NS // 10**6}ms"
        _run("tc", "qdisc", "add", "dev", names[0], "root", "netem", "delay", delay, "limit", "100000")
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) for _ in names]
            for name, each in zip(names, sockets, strict=True):
                _run("ip", "link", "set", name, "up")
                each.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
                each.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)  # SO_SNDBUFFORCE
                each.bind((name, 0x88B5))
            yield sockets[0].fileno(), sockets[1].fileno()
    finally:
        _run("ip", "link", "del", names[0])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command[:3])}: {done.stderr.strip().splitlines()[0]}")


def _percentile(samples: Sequence[float], part: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * part))] if samples else 0.0


def _late(name: str, runs: Sequence[Sequence[float]], method: str, aim: str = "") -> Iterator[Row]:
    """Two rows: over all rounds, the medians and the 99th percentiles of each."""
    if not all(runs):
        raise Missing(f"{name}: no frames come through")
    yield row(f"{name}: late, p50", "µs", [statistics.median(each) for each in runs], method)
    yield row(f"{name}: late, p99", "µs", [_percentile(each, 0.99) for each in runs], method, aim)


def measure(rounds: int) -> Iterator[Row]:
    bench = Bench()
    fastest = [bench.trips(0).frames_a_second * 8 * LARGE / 1e9 for _ in range(rounds)]
    yield row("100 ms round trip, 64 KiB", "Gb/s", fastest, METHOD, "at least 5", digits=2)
    plain = [bench.trips(_gap(LARGE), 0) for _ in range(rounds)]
    yield from _late("no line", [flow.late_us for flow in plain], METHOD)
    flows = [bench.trips(_gap(LARGE)) for _ in range(rounds)]
    yield from _late("50 ms", [flow.late_us for flow in flows], METHOD, "at most 100")
    yield from _late("100 ms round trip", [flow.trips_late_us for flow in flows], METHOD)
    yield row("loss / what was asked for", "x", [bench.loss()], COUNTED, "0.99 to 1.01", digits=4)
    rates = [bench.rate() for _ in range(min(rounds, 3))]
    yield row("rate / what was asked for", "x", rates, COUNTED, "0.99 to 1.01", digits=4)
    yield from _late("kernel's netem, 50 ms", [bench.kernel().late_us for _ in range(rounds)], KERNEL)
