"""The process is killed at any step of the RTL8139, and the next one goes on from its last record.

No frame is sent twice or out of order, no descriptor stays the chip's or is filled twice, and no interrupt is lost. A
kill loses the frame that was in work at most. `Mortal` has one life for each step at which it can die.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Generic

import pytest
from tests.fakes.mortal_intel import Killed, Life
from tests.fakes.rtl8139_driver import FIRST, LAST, SLOT_BYTES, TX_BUFFERS, OldDriver, PlusDriver
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_rtl8139.conftest import D, Rig

from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.nic.rtl8139 import RTL8139
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139.record import RTL8139Record
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

STALE = b"\xee" * SLOT_BYTES


class Mortal(Rig[D], Generic[D]):
    """A rig whose device dies at step `last_step` of its first life, and once more so many steps later."""

    def __init__(self, driver: Callable[[RTL8139], D], last_step: int) -> None:
        super().__init__(driver)
        self.lives = [last_step, 7 + last_step % 11]
        self.kills = 0
        self.dirty = True
        self.record = b""
        self.life = Life(None)
        self.sent: list[bytes] = []

    def begin(self) -> None:
        """The driver has started."""
        self.device.kept = self
        self.dirty = True
        self.commit()
        vars(self.netdev)["receive"] = self._receive
        write = self.driver.write
        vars(self.driver)["write"] = lambda *words: self.do(lambda: write(*words))
        self._begin()

    # --- vnic.keep.Kept ---

    def changed(self) -> None:
        self.dirty = True

    def handles_changed(self) -> None:
        """There are none."""

    def end(self) -> None:
        """The rig ends."""

    def commit(self) -> None:
        if self.dirty:
            self.life.step()
            self.record, self.dirty = encode(self.device.save()), False

    # --- Life and death ---

    def _receive(self, queue: int, frame: bytes, offload: bytes = b"") -> bool:
        self.life.step()
        self.sent.append(bytes(frame))
        self.life.step()
        return True

    def _begin(self) -> None:
        life = self.life = Life(None)
        memory = self.driver.served

        def write(addr: int, data: bytes | memoryview) -> None:
            life.step()
            GuestMemory.write(memory, addr, data)

        vars(memory)["write"] = write
        life.left = self.lives.pop(0) if self.lives else None

    def _next_life(self) -> None:
        """Another process takes the place of the one that was killed."""
        self.kills += 1
        self.dirty = False
        self.scheduler.cancel_all()
        self.driver.irq.level = False
        self.life = Life(None)
        memory = self.driver.served
        del vars(memory)["write"]
        new = RTL8139()
        Network(FakeScheduler()).add_nic("new", new.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.kept = self
        new.restore(decode(RTL8139Record, self.record), PciHandles(self.driver.irq, memory))
        self.device = self.driver.device = new
        self._begin()

    def do(self, act: Callable[[], object]) -> None:
        """What another process repeats if this one dies before its commit: an access."""
        while True:
            try:
                act()
                self.commit()
                return
            except Killed:
                self._next_life()

    def once(self, act: Callable[[], object]) -> None:
        """What is not repeated: a frame from the wire, a turn of the loop."""
        try:
            act()
            self.commit()
        except Killed:
            self._next_life()

    def turns(self) -> None:
        """Until nothing is left to do."""
        kills = -1
        while kills != self.kills:
            kills = self.kills
            self.once(self.turn)

    def acknowledge(self) -> int:
        """The guest's handler, which runs only if the pin is asserted."""
        if not self.driver.irq.level:
            return 0
        cause = self.driver.read(r.ISR)
        self.driver.write(r.ISR, cause)
        return cause


def frame(number: int, size: int = 200) -> bytes:
    head = struct.pack(">6s6sHI", b"\xff" * 6, b"\x52" * 6, 0x88B5, number)
    return head.ljust(size, bytes((number & 0xFF,)))


def number_of(data: bytes) -> int:
    number: int = struct.unpack_from(">I", data, 14)[0]
    assert data == frame(number, len(data)), "a frame of garbage"
    return number


def lives(driver: Callable[[RTL8139], D], run: Callable[[Mortal[D]], None]) -> Iterator[Mortal[D]]:
    """One run for each step of the device at which it can be killed."""
    for last_step in range(100_000):
        rig = Mortal(driver, last_step)
        rig.driver.start()  # type: ignore[attr-defined]
        rig.begin()
        run(rig)
        rig.life.left, kills = None, rig.kills
        yield rig
        rig.close()
        if not kills:
            assert last_step > 30
            return


def check_sent(rig: Mortal[D], count: int) -> None:
    numbers = [number_of(each) for each in rig.sent]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= count - rig.kills


@pytest.mark.parametrize("pieces", [1, 3])
def test_frames_sent_by_the_ring_survive_a_kill(pieces: int) -> None:
    def run(rig: Mortal[PlusDriver]) -> None:
        driver = rig.driver
        for number in range(8):  # in pieces, the ring wraps
            data, size = frame(number), -(-200 // pieces)
            last = 0
            for at in range(0, 200, size):
                where = TX_BUFFERS + driver.tx_next * SLOT_BYTES
                driver.memory.write(where, data[at : at + size])
                flags = FIRST * (not at) | LAST * (at + size >= 200)
                last = driver.descriptor(where, len(data[at : at + size]), flags)
            driver.write(r.TPPOLL, 0x40)
            rig.turns()
            assert driver.done(last), "a frame is never done"
            assert rig.acknowledge() & r.TX_OK
            driver.memory.write(TX_BUFFERS, STALE * driver.ring_size)

    for rig in lives(PlusDriver, run):
        check_sent(rig, 8)


def test_frames_sent_by_the_four_descriptors_survive_a_kill() -> None:
    def run(rig: Mortal[OldDriver]) -> None:
        driver = rig.driver
        for number in range(10):
            at = driver.tx_next
            assert driver.read(r.TSD + 4 * at) & 0x2000
            driver.memory.write(TX_BUFFERS + at * SLOT_BYTES, frame(number))
            driver.write(r.TSD + 4 * at, 200)
            driver.tx_next = (at + 1) % 4
            rig.turns()
            assert driver.read(r.TSD + 4 * at) & 0xA000 == 0xA000, "a frame is never done"
            assert rig.acknowledge() & r.TX_OK
            driver.memory.write(TX_BUFFERS + at * SLOT_BYTES, STALE)

    for rig in lives(OldDriver, run):
        check_sent(rig, 10)


@pytest.mark.parametrize("driver", [PlusDriver, OldDriver])
def test_received_frames_survive_a_kill(driver: type[PlusDriver] | type[OldDriver]) -> None:
    def run(rig: Mortal[PlusDriver] | Mortal[OldDriver]) -> None:
        received: list[bytes] = []
        for number in range(20):  # more than the ring has descriptors
            rig.once(lambda number=number: rig.wire(frame(number, 1000)))  # type: ignore[misc]
            rig.turns()
            if rig.acknowledge() & r.RX_OK:
                received += rig.driver.received()
        assert rig.driver.received() == [], "a frame came without an interrupt"
        numbers = [number_of(each) for each in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 20 - rig.kills

    for _ in lives(driver, run):  # type: ignore[arg-type]
        pass


def test_link_change_survives_a_kill() -> None:
    def run(rig: Mortal[PlusDriver]) -> None:
        for up in (False, True) * 8:
            rig.once(lambda up=up: rig.set_link(up))  # type: ignore[misc]
            if rig.device.link.up is not up:
                rig.device.link_status_changed()  # as Links.resume has it after a restart
            assert bool(rig.driver.read(r.BMSR) & 4) is up
            assert rig.acknowledge() & r.LINK_CHANGE

    for _ in lives(PlusDriver, run):
        pass
