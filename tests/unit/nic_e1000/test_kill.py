"""The process is killed at any step of the e1000, and the next one goes on from its cells and its last record.

No frame is sent twice, from a buffer that the guest has got back, or out of order; no receive buffer is skipped or
filled twice. A kill loses the frame that was in work at most. `Mortal` has one life for each step at which it can die.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from tests.fakes.e1000_driver import DEXT, EOP, IFCS, RS, RX_RING, TX_RING
from tests.fakes.irq import FakeIrq
from tests.fakes.mortal_intel import MortalIntel

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000

SLOT_BYTES = 2048
BUFFERS = GUEST_ADDR + 0x10000
STALE = b"\xee" * SLOT_BYTES


class Mortal(MortalIntel):
    """With an e1000."""

    def make(self) -> E1000:
        return E1000(autonegotiation=False)


def frame(number: int, size: int = 200) -> bytes:
    return struct.pack(">6s6sHI", b"\xff" * 6, b"\x52" * 6, 0x88B5, number).ljust(
        size, bytes((number & 0xFF,))
    )


def number_of(data: bytes) -> int:
    number: int = struct.unpack_from(">I", data, 14)[0]
    assert data == frame(number, len(data)), "a frame of garbage"
    return number


class Sender:
    """The guest's transmit side: a buffer belongs to a descriptor, and is the guest's again once that is done."""

    def __init__(self, rig: Mortal) -> None:
        self.rig = rig
        self.driver = rig.driver
        self.clean = self.driver.tx_tail
        self.last: list[int] = []
        """The last descriptors of the frames under way."""

    def send(self, number: int, pieces: int, rs_everywhere: bool, split: bool) -> None:
        """Send by `pieces` descriptors, with a context first; `split`: the guest kicks after the first piece."""
        driver, data = self.driver, frame(number)
        driver.context(l3=14, l4=34, at=50)
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            index = driver.tx_tail
            driver.memory.write(BUFFERS + index * SLOT_BYTES, data[at : at + size])
            last = at + size >= len(data)
            command = DEXT | IFCS | (EOP | RS if last else RS if rs_everywhere else 0)
            driver.descriptor(BUFFERS + index * SLOT_BYTES, len(data[at : at + size]), command, 1)
            if split and at == 0:
                self.rig.write(regs.TDT, driver.tx_tail)
                if rs_everywhere and pieces > 1:
                    self.rig.turn()
                    assert driver.tx_done(index)
                    driver.memory.write(BUFFERS + index * SLOT_BYTES, STALE)
        self.last.append((driver.tx_tail - 1) % driver.ring_size)
        self.rig.write(regs.TDT, driver.tx_tail)

    def reclaim(self) -> None:
        """Every frame is done once the device had its turn; the buffers are used for something else."""
        self.rig.turn()
        driver = self.driver
        for last in self.last:
            assert driver.tx_done(last), "a frame is never done"
        self.last.clear()
        while self.clean != driver.tx_tail:
            driver.memory.write(BUFFERS + self.clean * SLOT_BYTES, STALE)
            driver.memory.write(TX_RING + self.clean * 16 + 12, bytes(4))
            self.clean = (self.clean + 1) % driver.ring_size


def lives(run: Callable[[Mortal], None]) -> Iterator[Mortal]:
    """One run for each step of the device at which it can be killed."""
    for last_step in range(100_000):
        rig = Mortal(last_step)
        run(rig)
        rig.life.left, kills = None, rig.kills
        yield rig
        rig.close()
        if not kills:
            assert last_step > 50
            return


@pytest.mark.parametrize(
    ("pieces", "rs_everywhere", "split"),
    [(1, False, False), (3, False, False), (3, True, False), (3, False, True), (3, True, True)],
)
def test_sent_frames_survive_a_kill(pieces: int, rs_everywhere: bool, split: bool) -> None:
    def run(rig: Mortal) -> None:
        sender = Sender(rig)
        for batch in range(3):
            for number in range(2):
                sender.send(2 * batch + number, pieces, rs_everywhere, split)
            sender.reclaim()
            rig.read(regs.ICR)
        for number in range(6, 12):  # the ring has wrapped
            sender.send(number, 1, False, False)
            sender.reclaim()

    for rig in lives(run):
        numbers = [number_of(each) for each in rig.sent]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 12 - rig.kills
        if not rig.kills:
            assert len(numbers) == 12


def test_received_frames_survive_a_kill() -> None:
    def run(rig: Mortal) -> None:
        received: list[bytes] = []
        for number in range(24):  # more than the ring has descriptors
            rig.wire_once(frame(number, 1000))
            received += take(rig)
        numbers = [number_of(each) for each in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 24 - rig.kills

    for rig in lives(run):
        assert rig.kills or rig.read(regs.GPRC) == 24


def test_received_frames_of_many_buffers_survive_a_kill() -> None:
    def run(rig: Mortal) -> None:
        rig.write(regs.RCTL, 1 << 1 | 1 << 15 | 1 << 26 | 3 << 16)  # buffers of 256 bytes
        received: list[bytes] = []
        for number in range(12):
            rig.wire_once(frame(number, 1000))
            if number % 2:
                received += take(rig)
        numbers = [number_of(each) for each in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 12 - rig.kills

    for _ in lives(run):
        pass


def take(rig: Mortal) -> list[bytes]:
    """What the guest has received; the buffers go back, and the guest's access is repeated after a kill."""
    driver = rig.driver
    frames, parts = [], []
    count = 0
    while True:
        where = RX_RING + driver.rx_next * 16
        address, length, _, status, _, _ = struct.unpack("<QHHBBH", driver.memory.read(where, 16))
        if not status & 1:
            break
        assert not status & 0x80
        parts.append(driver.memory.read(address, length))
        if status & 2:
            frames.append(b"".join(parts))
            parts = []
        driver.memory.write(where + 12, bytes(1))  # as Linux: only the status, in place
        driver.memory.write(address, STALE[: driver.buffer_bytes])
        driver.rx_next = (driver.rx_next + 1) % driver.ring_size
        count += 1
    assert not parts, "half a frame"
    if count:
        rig.write(regs.RDT, (driver.rx_next - 1) % driver.ring_size)
    return frames


def test_an_interrupt_survives_a_kill() -> None:
    """The guest works only when it is interrupted, and reads the causes then."""

    def run(rig: Mortal) -> None:
        received: list[bytes] = []
        for number in range(6):
            rig.wire_once(frame(number, 100))
            if rig.driver.irq.level:
                assert rig.read(regs.ICR) & regs.ICR_RXT0
                received += take(rig)
        numbers = [number_of(each) for each in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 6 - rig.kills

    for _ in lives(run):
        pass


def test_masks_and_counters_survive_a_kill() -> None:
    def run(rig: Mortal) -> None:
        rig.write(regs.IMC, 0xFFFFFFFF)
        rig.write(regs.IMS, regs.ICR_RXT0)
        rig.write(regs.IMS, regs.ICR_LSC)
        rig.write(regs.IMC, regs.ICR_RXT0)
        counted = 0
        for number in range(4):
            rig.wire_once(frame(number, 100))
            counted += rig.read(regs.GPRC)
        assert counted <= 4
        assert counted >= 4 - rig.kills
        assert rig.read(regs.IMS) == regs.ICR_LSC
        assert not rig.driver.irq.level
        rig.write(regs.CTRL_EXT, 0x123000)
        assert rig.read(regs.CTRL_EXT) == 0x123000

    for rig in lives(run):
        assert isinstance(rig.driver.irq, FakeIrq)
