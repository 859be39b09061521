"""The NE2000 on PCI with a guest at one end and a netdev that records at the other; it has no link to see."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.fakes.irq import FakeIrq
from tests.fakes.ne2k_driver import RX_START, RX_STOP, START, Ne2kDriver
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.conftest import MAC, Netdev

from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.ne2k_pci import Ne2kPci
from vnic.nic.ne2k_pci import registers as r
from vnic.nic.ne2k_pci.record import Ne2kPciRecord
from vnic.pci.config import CLASS_CODE, VENDOR_ID
from vnic.pci.device import PciHandles
from vnic.record import RecordError, decode, encode

EVERYONE = b"\xff" * 6


def frame(destination: bytes = MAC, size: int = 100, fill: int = 7) -> bytes:
    return destination + MAC + b"\x88\xb5" + bytes((fill,)) * (size - 14)


class Rig:
    """All parts of a test; `driver` is the guest's, started."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = Ne2kPci()
        self.nic = self.network.add_nic("nic0", "ne2k_pci", self.device, mac=MAC, netdev_id="net0")
        self.driver = Ne2kDriver(self.device)
        self.nic.report.guest_attached(ShownBy.NOTHING)
        assert self.driver.probe() == MAC
        self.driver.start(MAC)

    def wire(self, data: bytes) -> None:
        self.netdev.client.send(0, data)

    def turn(self) -> None:
        self.scheduler.run_soon()

    def restore(self, cells: memoryview | None = None) -> None:
        """Put a new NIC in the place of the one that is there, by its record; by cells, if there are any."""
        old = self.device
        record = old.save_kept() if cells is not None else old.save()
        old.cleanup()
        new = Ne2kPci()
        Network(FakeScheduler()).add_nic("new", new.name, new, mac=MAC)
        new.client, self.nic.endpoint = self.nic, new
        handles = PciHandles(self.driver.irq, self.driver.memory, cells=cells)
        new.restore(decode(Ne2kPciRecord, encode(record)), handles)
        self.device = self.driver.device = new

    def close(self) -> None:
        self.driver.close()
        self.network.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_identity(rig: Rig) -> None:
    assert rig.device.config_read(VENDOR_ID, 4) == bytes.fromhex("ec102980")
    assert rig.device.config_read(CLASS_CODE, 3) == bytes.fromhex("000002")
    assert rig.device.info_text(0) == "model=ne2k_pci,macaddr=52:54:00:12:34:56"
    assert (rig.driver.read(r.ID0), rig.driver.read(r.ID1)) == (ord("P"), ord("C"))
    assert rig.driver.read_page(r.PSTART_READ) == RX_START
    assert rig.driver.read_page(r.PSTOP_READ) == RX_STOP


def test_guest_sees_nothing_of_a_link_change_and_frames_are_dropped(rig: Rig) -> None:
    before = bytes(rig.driver.read_page(0x30 + at) for at in range(1, 16))
    rig.network.set_link("nic0", False, "test")
    rig.wire(frame())
    rig.driver.send(frame(EVERYONE))
    rig.turn()
    assert rig.driver.handle_interrupt() & ~r.ISR_REMOTE_DONE == r.ISR_TX  # as if it were sent
    assert bytes(rig.driver.read_page(0x30 + at) for at in range(1, 16)) == before
    assert rig.netdev.frames == []
    rig.network.set_link("nic0", True, "test")
    assert rig.driver.received() == []
    assert rig.nic.guest.seen == "unknown"
    rig.wire(frame())
    assert rig.driver.received() == [frame()]


def test_frames_are_received_in_order_around_the_ring(rig: Rig) -> None:
    for number in range(200):
        sent = frame(size=60 + number * 37 % 1455, fill=number)
        rig.wire(sent)
        assert rig.driver.irq.level
        assert rig.driver.handle_interrupt() & r.ISR_RX
        assert rig.driver.received() == [sent]


def test_frames_wait_for_room(rig: Rig) -> None:
    sent = [frame(size=1514, fill=number) for number in range(30)]
    for each in sent:
        rig.wire(each)
    found: list[bytes] = []
    while len(found) < 30:
        found += rig.driver.received()
    assert found == sent


@pytest.mark.parametrize(
    ("destination", "rcr", "arrives"),
    [
        (MAC, 0, True),
        (EVERYONE, r.ACCEPT_BROADCAST, True),
        (EVERYONE, r.ACCEPT_MULTICAST, False),
        (bytes.fromhex("525400aaaaaa"), 0x0C, False),
        (bytes.fromhex("525400aaaaaa"), r.PROMISCUOUS, True),
        (bytes.fromhex("01005e0000fb"), r.ACCEPT_MULTICAST, True),
        (bytes.fromhex("01005e0000fb"), r.ACCEPT_BROADCAST, False),
        (MAC, r.MONITOR, False),
    ],
)
def test_filter(rig: Rig, destination: bytes, rcr: int, arrives: bool) -> None:
    rig.driver.write(r.RCR, rcr)
    rig.wire(frame(destination))
    assert bool(rig.driver.received()) is arrives


def test_frames_are_sent(rig: Rig) -> None:
    for number in range(10):
        rig.driver.send(frame(EVERYONE, 60 + 100 * number, number))
        rig.turn()
        assert rig.driver.handle_interrupt() == r.ISR_TX
        assert rig.driver.read(r.TSR) == r.TSR_OK
        assert rig.netdev.frames[-1][: 60 + 100 * number] == frame(EVERYONE, 60 + 100 * number, number)


def test_loopback_sends_nothing(rig: Rig) -> None:
    rig.driver.write(r.TCR, 2)
    rig.driver.send(frame())
    rig.turn()
    assert rig.netdev.frames == []


def test_transmitter_waits_for_a_peer_without_room(rig: Rig) -> None:
    rig.netdev.room = False
    rig.driver.send(frame(fill=1))
    rig.turn()
    rig.driver.send(frame(fill=2))
    rig.turn()
    assert rig.driver.read(r.COMMAND) & r.TRANSMIT
    rig.netdev.room = True
    rig.netdev.client.flush(0)
    rig.turn()
    assert rig.netdev.frames == [frame(fill=1), frame(fill=2)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_data_port_takes_any_width(rig: Rig, size: int) -> None:
    rig.driver.write(r.DCR, 0x48 if size == 1 else 0x49)
    rig.driver.store(0x4000, bytes(range(64)), size)
    assert rig.driver.fetch(0x4000, 64, 4) == bytes(range(64))
    assert rig.driver.fetch(0x4000, 64, size) == bytes(range(64))
    assert rig.driver.fetch(0x2000, 4) == b"\xff" * 4


def test_driver_ok_follows_the_chip(rig: Rig) -> None:
    shown = []
    for command in (r.STOP, START):
        shown.append(rig.nic.guest.driver_ok)
        rig.driver.write(r.COMMAND, r.ABORT | command)
        rig.wire(frame(fill=command))
    assert shown == [True, False]
    assert rig.driver.received() == [frame(fill=START)]


def test_it_goes_on_from_its_record_with_and_without_cells(rig: Rig) -> None:
    rig.wire(frame(fill=1))
    rig.restore()
    assert rig.driver.irq.level
    cells = memoryview(bytearray(8 * Ne2kPci.cells_wanted)).cast("Q")
    rig.device.use_cells(cells)
    rig.wire(frame(fill=2))
    assert len(encode(rig.device.save_kept())) < 3000
    rig.restore(cells)
    rig.driver.send(frame(EVERYONE))
    rig.restore(cells)
    rig.scheduler.cancel_all()
    rig.device._timer = None
    rig.device.sent(0)
    rig.device._later()
    rig.turn()
    assert rig.netdev.frames == [frame(EVERYONE)]
    assert rig.driver.received() == [frame(fill=1), frame(fill=2)]


def test_record_without_memory_is_refused(rig: Rig) -> None:
    rig.device.use_cells(memoryview(bytearray(8 * Ne2kPci.cells_wanted)).cast("Q"))
    record = rig.device.save_kept()
    new = Ne2kPci()
    Network(FakeScheduler()).add_nic("new", new.name, new, mac=MAC)
    with pytest.raises(RecordError, match="memory"):
        new.restore(record, PciHandles(FakeIrq(), GuestMemory()))


@pytest.mark.parametrize("seed", range(6))
def test_random_accesses_do_not_raise(rig: Rig, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3000):
        at, size = (
            rng.choice((rng.randrange(32), r.COMMAND, r.DATA_PORT, 0x80)),
            rng.choice((1, 2, 3, 4, 8, 64)),
        )
        rig.device.window_write(0, at, rng.randbytes(size))
        rig.device.window_read(0, at, size)
        if not rng.randrange(20):
            rig.wire(frame(size=rng.randrange(14, 1600)))
            rig.turn()
    rig.device.save()
    rig.device.reset()
    assert rig.driver.probe() == MAC
    rig.driver.start(MAC)
    rig.wire(frame())
    assert rig.driver.received() == [frame()]
