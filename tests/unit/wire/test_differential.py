"""Any traffic between two guests through vnic-wire and through the Python reference: the same bytes in the same
buffers, and the counters that follow from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.wire_ends import HEADER, tcp_frame
from tests.fakes.wire_program import MAX_FRAME, WireProgram, until

from vnic.dataplane.wire.messages import RingBroken
from vnic.lab.played.driver import DriverRing, NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.client import Endpoint
from vnic.net.clock import Clock
from vnic.net.network import Network
from vnic.net.offload import OffloadError, complete
from vnic.net.queue import Frame
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net import features as net
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import INDIRECT_DESC, VERSION_1

MEMORY_BYTES = 24 << 20
RING = 1024
SENDER = (net.CSUM, net.CSUM | net.HOST_TSO4, net.CSUM | net.HOST_TSO4 | net.HOST_TSO6 | net.HOST_ECN, 0)
RECEIVER = (
    *(net.GUEST_CSUM, net.GUEST_CSUM | net.GUEST_TSO4, 0),
    net.GUEST_CSUM | net.GUEST_TSO4 | net.GUEST_TSO6 | net.GUEST_ECN,
)
FORMATS = (VERSION_1 | net.MRG_RXBUF, VERSION_1, net.MRG_RXBUF, 0)
LAYOUTS = (
    ((70000,), 100),
    ((1526,), 900),
    ((12, 1514), 400),
    ((10, 2, 60, 9000), 200),
    ((5, 7, 100, 3, 1411), 200),
)
"""The pieces of one receive buffer, and how many buffers there are."""


@dataclass(frozen=True)
class Packet:
    data: bytes
    cuts: tuple[int, ...]
    indirect: bool

    def pieces(self) -> list[bytes]:
        at = sorted({0, len(self.data), *(cut for cut in self.cuts if cut < len(self.data))})
        return [self.data[begin:end] for begin, end in itertools.pairwise(at)]


@dataclass(frozen=True)
class Traffic:
    sender: int
    """Features of the guest that sends."""
    receiver: int
    layout: tuple[tuple[int, ...], int]
    indirect: bool
    packets: tuple[Packet, ...]


def header_bytes(features: int) -> int:
    return 12 if features & (VERSION_1 | net.MRG_RXBUF) else 10


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A virtio_net_hdr, and a frame that it may belong to."""
    if draw(st.booleans()):
        size = draw(
            st.sampled_from([0, 1, 13, 14, 15, 35, 36, 60, 256, 257, 1514, 9000, 69632, 69633, 70000])
        )
        header = draw(st.sampled_from([bytes(10), b"\1" + bytes(9), b"\xff" * 10]))
        return header, (bytes(range(256)) * 300)[:size]
    data, transport = tcp_frame(bytes(range(251)) * draw(st.sampled_from([0, 1, 8, 40, 80])))
    fields = [
        1,
        draw(st.sampled_from([0, 1, 1, 1, 0x81])),
        54,
        draw(st.sampled_from([1000, 1460, 9000])),
        transport,
        16,
    ]
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, 5))
        odd = [0, 0xFFFF] if at == 3 else [0, 1, 2, 3, 4, 5, 6, 14, 255]  # short segments would fill the ring
        fields[at] = draw(st.sampled_from(odd))
    return HEADER.pack(*fields), data


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    form = draw(st.sampled_from(FORMATS))
    sender = form | draw(st.sampled_from(SENDER)) | draw(st.sampled_from([0, INDIRECT_DESC]))
    receiver = draw(st.sampled_from(FORMATS)) | draw(st.sampled_from(RECEIVER))
    receiver |= draw(st.sampled_from([0, INDIRECT_DESC]))
    packets = []
    for _ in range(draw(st.integers(1, 4))):
        header, data = draw(frames())
        packet = header.ljust(header_bytes(sender), b"\0") + data
        if draw(st.integers(0, 30)) == 0:
            packet = packet[: draw(st.integers(1, 12))]  # a broken ring, if it is shorter than a header
        cuts = tuple(draw(st.lists(st.sampled_from([1, 9, 10, 12, 13, 26, 30, 66, 500]), max_size=4)))
        packets.append(Packet(packet, cuts, bool(sender & INDIRECT_DESC) and draw(st.booleans())))
    indirect = bool(receiver & INDIRECT_DESC) and draw(st.booleans())
    return Traffic(sender, receiver, draw(st.sampled_from(LAYOUTS)), indirect, tuple(packets))


class Receiver:
    """The receive ring of a guest with its buffers, and what is found in them."""

    def __init__(self, driver: NetDriver, case: Traffic) -> None:
        self._memory, self._ring = driver.memory, driver.rings[0]
        self._buffers: dict[int, list[tuple[int, int]]] = {}
        sizes, count = case.layout
        for _ in range(count if case.indirect else min(count, RING // len(sizes))):
            pieces = [(self._memory.alloc(size, 1), size) for size in sizes]
            self._buffers[self._ring.add([], pieces, indirect=case.indirect)] = pieces

    def start(self) -> None:
        self._ring.publish()

    def found(self) -> list[bytes]:
        """The content of each used buffer, header and all."""
        return [self._content(head, written) for head, written in self._ring.take_used()]

    def _content(self, head: int, written: int) -> bytes:
        parts = []
        for address, size in self._buffers[head]:
            parts.append(self._memory.read(address, min(size, written)))
            written -= len(parts[-1])
        assert not written, "more was written than there is room"
        return b"".join(parts)


def send(driver: NetDriver, packets: Sequence[Packet]) -> DriverRing:
    """Offer all packets at once."""
    ring = driver.rings[1]
    for packet in packets:
        buffers = []
        for piece in packet.pieces():
            buffers.append((driver.memory.alloc(len(piece), 1), len(piece)))
            driver.memory.write(buffers[-1][0], piece)
        ring.add(buffers, indirect=packet.indirect)
    ring.publish()
    return ring


@dataclass
class Outcome:
    buffers: list[bytes]
    broken: bool
    frames_in: int
    bytes_in: int
    bad_offload: int


class Cable(Endpoint):
    """One end of a cable between two NICs; frames keep what is pending in them."""

    wants_offload = True
    other: Cable

    def __init__(self) -> None:
        self.passed: list[tuple[bytes, bytes]] = []

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.passed.append((bytes(frame), bytes(offload)))
        self.other.client.send(queue, frame, offload)
        return True


def by_reference(case: Traffic) -> Outcome:
    scheduler = FakeScheduler()
    ticks = itertools.count(1_000_000, 1000)
    network = Network(scheduler, Clock(lambda: next(ticks), lambda: next(ticks)))
    cables = Cable(), Cable()
    cables[0].other, cables[1].other = cables[1], cables[0]
    drivers, devices = [], []
    for number, features in enumerate((case.sender, case.receiver)):
        network.add_netdev(f"net{number}", "stream", cables[number], 1)
        device, name = VirtioNet(), f"net{number}"
        network.add_nic(f"nic{number}", "virtio-net", device, mac=bytes(6), queues=1, netdev_id=name)
        driver = NetDriver(FakeGuestMemory(MEMORY_BYTES), size=RING, header_bytes=header_bytes(features))
        driver.plug(device, features)
        drivers.append(driver)
        devices.append(device)
    scheduler.run_soon()
    receiver = Receiver(drivers[1], case)
    receiver.start()
    drivers[1].kick(0)
    send(drivers[0], case.packets)
    drivers[0].kick(1)
    scheduler.run_soon()
    taken = cables[0].passed
    bad = sum(
        is_refused(frame, offload)
        for frame, offload in taken
        if offload and not takes(case.receiver, offload)
    )
    found = receiver.found()
    outcome = Outcome(
        found, not devices[0].queues[1].ready, len(taken), sum(len(each) for each, _ in taken), bad
    )
    for driver in drivers:
        driver.close()
        driver.memory.close()
    network.close()
    return outcome


def takes(features: int, offload: bytes) -> bool:
    """Whether the driver takes the frame as it is; no DHCP reply is among them."""
    kinds = {0: net.GUEST_CSUM, 1: net.GUEST_TSO4, 4: net.GUEST_TSO6, 0x81: net.GUEST_TSO4 | net.GUEST_ECN}
    kinds[0x84] = net.GUEST_TSO6 | net.GUEST_ECN
    wanted = kinds.get(offload[1])
    return wanted is not None and bool(features & net.GUEST_CSUM) and features & wanted == wanted


def is_refused(frame: bytes, offload: bytes) -> bool:
    try:
        complete(offload, frame)
    except OffloadError:
        return True
    return False


def by_program(wire: WireProgram, case: Traffic) -> Outcome:
    guests = []
    for port, features in ((1, case.sender), (2, case.receiver)):
        guest = wire.guest(port, size=RING, header_bytes=header_bytes(features), memory_bytes=MEMORY_BYTES)
        guest.start(features | vu.F_PROTOCOL_FEATURES)
        guests.append(guest)
    one, two = guests
    receiver = Receiver(two.driver, case)
    receiver.start()
    ring = send(one.driver, case.packets)
    wire.wire(1, 1, 2)

    def is_broken() -> bool:
        wire.all_stats()  # events come before its reply
        return any(isinstance(event, RingBroken) for event in wire.events)

    until(lambda: ring.used_idx == ring.avail_idx or is_broken())
    found, broken = receiver.found(), is_broken()
    stats, got = wire.stats(1), wire.stats(2)
    sizes = [len(each.data) - header_bytes(case.sender) for each in case.packets]
    if not broken:
        assert stats.too_short == sum(size < 14 for size in sizes)
        assert stats.too_long == sum(size > MAX_FRAME for size in sizes)
    merged = case.receiver & net.MRG_RXBUF
    if not merged:
        assert got.frames_out == len(found)
        assert got.bytes_out == sum(map(len, found)) - header_bytes(case.receiver) * len(found)
    for guest in guests:
        wire.remove(guest.port)
        guest.close()
    wire.forget_guests()
    wire.events.clear()
    return Outcome(found, broken, stats.frames_in, stats.bytes_in, got.bad_offload)


@pytest.fixture(scope="module")
def wire(program: Path) -> Iterator[WireProgram]:
    with WireProgram(program) as wire:
        yield wire


@settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=traffic())
def test_program_and_reference_agree(wire: WireProgram, case: Traffic) -> None:
    assert by_program(wire, case) == by_reference(case)
