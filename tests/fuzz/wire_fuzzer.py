"""Attacks vnic-wire through all its sockets while it runs: rings and memory of hostile guests, vhost-user messages,
control's requests, the bytes of peers. `make fuzz` runs it for some minutes, test_wire_fuzz.py for some seconds.

What must hold: the program lives until control ends, the frames of other wires pass meanwhile, and of what was removed
nothing is left. A case is repeated by its seed, but for the timing of the threads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from tests.fakes.tunnel_peer import CONFIG
from tests.fakes.wire_ends import framed, sockaddr_in
from tests.fakes.wire_program import (
    MAX_FRAME,
    Flow,
    Refused,
    Sink,
    WireProgram,
    build_sanitized,
    frame,
    until,
)
from tests.fuzz.wire_guest import HostileGuest
from tests.fuzz.wire_kicks import Kicks
from tests.fuzz.wire_tunnel import HostileTunnel

from vnic.dataplane.wire.impair_messages import (
    ALWAYS,
    MAX_LIMIT,
    MAX_NS,
    GetImpairment,
    Impair,
    ImpairDirection,
    Impairment,
    ImpairState,
)
from vnic.dataplane.wire.messages import (
    VLAN_BYTES,
    AddDoorbell,
    Direction,
    Dump,
    FilterBit,
    GetStats,
    Inject,
    Kind,
    PortAdd,
    PortFlag,
    PortLost,
    PortRemove,
    Request,
    SetFilter,
    WireSet,
    pack_request,
)
from vnic.dataplane.wire.tunnel_messages import CcmMode, CcmSet, SocketAdd, SocketRemove

STEPS = 400
CHECK_EVERY = 25
HOSTILE_PORTS = range(1, 9)
HOSTILE_WIRES = range(1, 5)
OURS = 0xF0000
"""Ports and wires from here on are those of the bystanders. What control sends by mutation does not name them."""


class Peer:
    """A stream or datagram port whose far end sends what it likes, and reads when it likes."""

    def __init__(self, source: random.Random, wire: WireProgram, port: int) -> None:
        self.source = source
        self.stream = source.random() < 0.5
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.sock.setblocking(False)
        if source.random() < 0.5:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # frames are sent in parts
        with theirs:
            if self.stream:
                memory = wire.new_memory(port, framed(frame(1)) if source.random() < 0.3 else b"")
                wire.request(PortAdd(port, Kind.STREAM, max_frame=MAX_FRAME), [theirs.fileno(), memory.fd])
            else:
                wire.request(PortAdd(port, Kind.DGRAM, max_frame=MAX_FRAME), [theirs.fileno()])

    def close(self) -> None:
        self.sock.close()

    def step(self) -> None:
        source = self.source
        try:
            match source.randrange(6):
                case 0 | 1:
                    data = b"".join(self._frame() for _ in range(source.randrange(1, 40)))
                    self.sock.send(
                        data[: source.randrange(1, len(data) + 1)] if self.stream else self._frame()
                    )
                case 2:
                    self.sock.send(source.randbytes(source.choice([1, 3, 4, 13, 100, 5000])))
                case 3:
                    self.sock.send(
                        struct.pack(">I", source.choice([0, 1, 13, 69632, 69633, 2**31, 2**32 - 1]))
                    )
                case 4:
                    for _ in range(source.randrange(20)):
                        self.sock.recv(1 << 17)
                case 5 if source.random() < 0.1:
                    self.sock.shutdown(source.choice([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR]))
        except OSError:
            pass  # full, or ended by the program

    def _frame(self) -> bytes:
        source = self.source
        data = source.randbytes(
            source.choice([14, 60, 64, 200, 1514, 9000, 65000, source.randrange(1, 70000)])
        )
        return framed(data) if self.stream else data


class Bystanders:
    """Two guests with a cable between them for each worker, whose frames have to arrive."""

    def __init__(self, wire: WireProgram, workers: int) -> None:
        self.pairs: list[tuple[Flow, Sink]] = []
        for number in range(workers):
            ports = OURS + 2 * number, OURS + 2 * number + 1
            one, two = (wire.started_guest(port, size=32, memory_bytes=1 << 20) for port in ports)
            wire.wire(OURS + number, *ports)
            self.pairs.append((Flow(one), Sink(two, 16)))

    def check(self) -> None:
        for flow, sink in self.pairs:
            flow.push(8)
            until(lambda flow=flow, sink=sink: len(sink.take()) == flow.sent)  # type: ignore[misc]  # bound
            assert sink.frames == [frame(number) for number in range(flow.sent)]


class Case:
    """One program, attacked for STEPS steps by the random numbers of one seed."""

    def __init__(self, program: Path, seed: int) -> None:
        self.source = source = random.Random(seed)
        self.workers = source.choice([1, 1, 2, 3])
        self.wire = WireProgram(program, workers=self.workers, spin_us=source.choice([0, 0, 50, 1000]))
        self.ports: dict[int, HostileGuest | Peer | HostileTunnel] = {}
        self.kicks: dict[int, Kicks] = {}
        self.lost: set[int] = set()
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def run(self) -> None:
        with self.wire as wire:
            bystanders = Bystanders(wire, self.workers)
            bystanders.check()
            before = descriptors(wire)
            scribbler = threading.Thread(target=self._scribble, args=(self.source.random(),))
            scribbler.start()
            try:
                for step in range(STEPS):
                    self._step()
                    self.lost |= {event.port for event in wire.events if isinstance(event, PortLost)}
                    wire.events.clear()
                    if step % CHECK_EVERY == 0:
                        bystanders.check()
            finally:
                self.ended.set()
                scribbler.join()
                for port in list(self.ports):
                    self._forget(port)
            self._remove_all()
            bystanders.check()
            assert descriptors(wire) == before, "descriptors of removed ports are open"
            assert HostileGuest.NAME not in maps(wire), "memory of removed ports is mapped"

    # -- one step -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        source = self.source
        port = source.choice(HOSTILE_PORTS)
        with self.lock:
            far = self.ports.get(port)
            if far is None:
                self._add(port)
                self._join()
            elif source.random() < (0.5 if port in self.lost else 0.02):
                self.lost.discard(port)
                self._forget(port)
                self._remove(port)
            elif source.random() < 0.15:
                self._control(port)
            else:
                for _ in range(source.randrange(1, 8)):
                    far.step()
                    if port in self.kicks:
                        self.kicks[port].step()

    def _add(self, port: int) -> None:
        self._remove(port)
        kind = self.source.choices((HostileGuest, Peer, HostileTunnel), (5, 3, 3))[0]
        try:
            far = kind(self.source, self.wire, port)
        except Refused:
            return  # a mutated request made a port of that number
        self.ports[port] = far
        if isinstance(far, HostileGuest) and self.source.random() < 0.5:
            with contextlib.suppress(Refused):  # the guest has broken off already
                self.kicks[port] = Kicks(self.source, self.wire, port)

    def _remove(self, port: int) -> None:
        self._ask(PortRemove(port))
        self._ask(SocketRemove(port))

    def _forget(self, port: int) -> None:
        self.ports.pop(port).close()
        kicks = self.kicks.pop(port, None)
        if kicks is not None:
            kicks.close()

    def _join(self) -> None:
        source = self.source
        members = [port for port in self.ports if source.random() < 0.4][: source.randrange(5)]
        self._ask(WireSet(source.choice(HOSTILE_WIRES), tuple(members)))

    def _ask(self, request: Request, fds: Sequence[int] = ()) -> None:
        try:
            self.wire.request(request, fds)
        except Refused:
            pass

    def _control(self, port: int) -> None:
        source = self.source
        far = self.ports[port]
        match source.randrange(11):
            case 0 | 1 | 2:
                self._join()
            case 7 if isinstance(far, HostileTunnel):
                self._ask(far.request())
            case 3:
                self._ask(Inject(port, source.randrange(3), self._frame(), source.random() < 0.5))
            case 4:
                self._ask(self._filter(port))
            case 5:
                self._ask(GetStats())
            case 6:
                file = os.memfd_create("dump", os.MFD_CLOEXEC)
                direction = Direction(source.randrange(4))
                self._ask(Dump(port, source.randrange(3), 96, direction), [file] if direction else [])
                os.close(file)
            case 8 | 9:
                self._ask(self._impairment(port))
            case _:
                self._mutated(port)

    def _frame(self) -> bytes:
        return self.source.randbytes(self.source.choice([14, 15, 60, 1514, 9000]))

    def _filter(self, port: int) -> SetFilter:
        source = self.source
        macs = [source.randbytes(6) for _ in range(source.randrange(8))]
        bits, mac, vlans = FilterBit(source.randrange(128)), source.randbytes(6), source.randbytes(VLAN_BYTES)
        return SetFilter(port, bits, mac, unicast=tuple(macs), vlans=vlans)

    def _impairment(self, port: int) -> Impair | GetImpairment:
        source = self.source
        direction = source.choice(list(ImpairDirection))

        def some(*values: int) -> int:
            return source.choice([0, 0, *values])

        if source.random() < 0.2:
            return GetImpairment(port, direction)
        if source.random() < 0.2:
            return Impair(port, direction)
        impairment = Impairment(
            limit=source.choice([1, 10, 1000, MAX_LIMIT]),
            rate=some(1, 10**6, 10**10),
            delay_ns=some(10**6, MAX_NS),
            jitter_ns=some(10**5, 2 * 10**6, MAX_NS),
            loss=some(ALWAYS // 10, ALWAYS),
            duplicate=some(ALWAYS // 5, ALWAYS),
            corrupt=some(ALWAYS // 3, ALWAYS),
            reorder=some(ALWAYS // 2),
            gap=some(1, 5, ALWAYS),
            max_frame=some(1, 100, 2000),
            correlation=tuple(some(1, ALWAYS // 2, ALWAYS) for _ in range(5)),
            table=tuple(source.randrange(-32768, 32768) for _ in range(some(1, 100))),
        )
        last = tuple(source.randrange(1 << 32) for _ in range(5))
        state = ImpairState(source.randrange(1 << 64), last, some(1, ALWAYS))
        return Impair(port, direction, impairment, state, source.random() < 0.3)

    def _mutated(self, port: int) -> None:
        """A request with wrong bytes, or of a wrong length. Shorter than its head, it would end the program."""
        source = self.source
        requests: list[Request] = [
            *(Inject(port, 0, self._frame()), self._filter(port), WireSet(1, (port,)), GetStats(port)),
            *(
                PortAdd(port, source.choice(list(Kind)), queues=1, flags=PortFlag(0), max_frame=1514),
                Dump(port, 1),
                AddDoorbell(port, 4, 0x3000, 0x1000, 4),
                self._impairment(port),
            ),
            *(CcmSet(port, 1), SocketAdd(port), tunnel(port)),
        ]
        data = bytearray(pack_request(0, source.choice(requests)))
        for _ in range(source.randrange(4)):
            data[source.randrange(len(data))] = source.choice([0, 1, 2, 127, 128, 255])
        if source.random() < 0.3:
            data = data[: source.randrange(8, len(data) + 1)] + source.randbytes(source.choice([0, 4, 90]))
        words = struct.unpack_from(f"<{(len(data) - 8) // 4}I", data, 8)
        if any(OURS <= word < OURS + 64 for word in words):
            return
        ends = socket.socketpair()
        with ends[0], ends[1]:
            self.wire.send_raw(bytes(data), [each.fileno() for each in ends[: source.randrange(3)]])

    def _remove_all(self) -> None:
        """Also the ports that a mutated request made."""
        for port in self.wire.all_stats():
            if not OURS <= port < OURS + 64:
                self._ask(PortRemove(port))
        for port in HOSTILE_PORTS:
            self._ask(SocketRemove(port))

    def _scribble(self, seed: float) -> None:
        """What a guest's other processors do meanwhile: write anything anywhere."""
        source = random.Random(seed)
        while not self.ended.is_set():
            with self.lock:
                guests = [each for each in self.ports.values() if isinstance(each, HostileGuest)]
                if guests:
                    source.choice(guests).scribble(source, 50)
            self.ended.wait(0.0002)


def tunnel(port: int) -> PortAdd:
    config = msgspec.structs.replace(CONFIG, socket=port, interval_us=3333, mode=CcmMode.ON)
    dest = sockaddr_in(("127.0.0.1", 9))
    return PortAdd(port, Kind.TUNNEL, max_frame=1514, dest=dest, own=config.pack())


def descriptors(wire: WireProgram) -> int:
    return len(os.listdir(f"/proc/{wire.child.pid}/fd"))


def maps(wire: WireProgram) -> str:
    return Path(f"/proc/{wire.child.pid}/maps").read_text()


def attack(program: Path, first: int, ends: Callable[[int], bool]) -> int:
    """Run cases of ascending seeds until `ends(count)`. The number of cases. A failure tells its seed."""
    count = 0
    while not ends(count):
        seed = first + count
        try:
            Case(program, seed).run()
        except BaseException as error:
            error.add_note(f"make fuzz FUZZ_SEED={seed}")
            raise
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="attack vnic-wire")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=None, help="of the first case; a new one each time")
    parser.add_argument("--sanitizer", default="address,undefined", help="or thread")
    chosen = parser.parse_args()
    first = chosen.seed if chosen.seed is not None else int(time.time())
    end = time.monotonic() + chosen.seconds
    with tempfile.TemporaryDirectory() as folder:
        program = build_sanitized(Path(folder), chosen.sanitizer)
        print(f"vnic-wire with {chosen.sanitizer}: {chosen.seconds:g} s from seed {first}", flush=True)
        count = attack(program, first, lambda count: count > 0 and time.monotonic() > end)
    print(f"{count} cases of {STEPS} steps: it is well")


if __name__ == "__main__":
    main()
