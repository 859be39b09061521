"""The process is killed at any step of the chip, and the next one goes on from its cells and its last record.

No frame is sent twice or out of order, no receive buffer is skipped or filled twice, no descriptor is kept for ever.
A kill loses the frame that was in work at most.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from tests.fakes.mortal_intel import Killed, Life, MortalCells
from tests.fakes.pcnet_driver import INEA, OWN, PcnetDriver
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_pcnet.conftest import Rig

from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.nic.pcnet import Pcnet
from vnic.nic.pcnet.registers import COUNT
from vnic.pci.device import PciHandles


class Mortal(Rig):
    """A rig whose device dies at step `last_step` of its first life, and once more so many steps later."""

    def __init__(self, last_step: int, style: int) -> None:
        super().__init__(style=style, buffer_bytes=512, log_size=3)
        self.lives = [last_step, 7 + last_step % 11]
        self.kills = 0
        self.values = memoryview(bytearray(8 * COUNT)).cast("Q")
        self.life = Life(None)
        self.driver.start()
        self.device.use_cells(self.values)
        self.record = self.device.save()
        vars(self.netdev)["receive"] = self._receive
        self.sent: list[int] = []
        self._begin()

    def _receive(self, queue: int, frame: bytes, offload: bytes = b"") -> bool:
        self.life.step()
        self.sent.append(number_of(bytes(frame)))
        self.life.step()
        return True

    def _begin(self) -> None:
        """The device that is there goes on in a life of its own."""
        life = self.life = Life(None)
        memory = self.driver.served

        def write(addr: int, data: bytes | memoryview) -> None:
            life.step()
            GuestMemory.write(memory, addr, data)

        vars(memory)["write"] = write
        self.device.registers.cells = cast(memoryview, MortalCells(self.values, life))
        life.steps = 0
        life.left = self.lives.pop(0) if self.lives else None

    def do(self, act: Callable[[], object], again: bool = True) -> None:
        """What another process repeats if this one dies at it, as an access of the guest."""
        while True:
            try:
                act()
                return
            except Killed:
                self._next_life()
                if not again:
                    return

    def _next_life(self) -> None:
        """Another process takes the place of the one that was killed."""
        self.kills += 1
        self.scheduler.cancel_all()
        memory = self.driver.served
        del vars(memory)["write"]
        new = Pcnet()
        Network(FakeScheduler()).add_nic("new", "pcnet", new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(self.record, PciHandles(self.driver.irq, memory, cells=self.values))
        self.device = self.driver.device = new
        self._begin()


def frame(number: int, size: int) -> bytes:
    return struct.pack(">6s6sHI", b"\xff" * 6, b"\x52" * 6, 0x88B5, number).ljust(
        size, bytes((number & 0xFF,))
    )


def number_of(data: bytes) -> int:
    number: int = struct.unpack_from(">I", data, 14)[0]
    assert data == frame(number, len(data)), "a frame of garbage"
    return number


def lives(style: int, run: Callable[[Mortal], None], stride: int = 1) -> Iterator[Mortal]:
    """One run for each step of the device at which it can be killed, or for every so many."""
    for last_step in range(0, 100_000, stride):
        rig = Mortal(last_step, style)
        run(rig)
        rig.life.left, kills = None, rig.kills
        yield rig
        rig.close()
        if not kills:
            assert last_step > 50
            return


@pytest.mark.parametrize(("style", "pieces"), [(0, 1), (2, 3)])
def test_sent_frames_survive_a_kill(style: int, pieces: int) -> None:
    def run(rig: Mortal) -> None:
        driver = rig.driver
        for number in range(0, 10, 2):
            first = driver.tx_next
            for each in (number, number + 1):
                driver.put_frame(frame(each, 200), pieces)
            rig.do(driver.demand)
            rig.do(rig.scheduler.run_soon)
            assert not any(driver.sent((first + at) % 8)[0] & OWN for at in range(2 * pieces)), "never done"

    for rig in lives(style, run, pieces):
        assert rig.sent == sorted(set(rig.sent))
        assert len(rig.sent) >= 10 - rig.kills


@pytest.mark.parametrize(("style", "size"), [(0, 100), (3, 1400)])
def test_received_frames_survive_a_kill(style: int, size: int) -> None:
    def run(rig: Mortal) -> None:
        got: list[int] = []
        for number in range(10):
            rig.do(lambda number=number: rig.wire(frame(number, size)), again=False)  # type: ignore[misc]
            if number % 2:
                got += [number_of(each) for each in rig.driver.received()]
        assert got == sorted(set(got))
        assert len(got) >= 10 - rig.kills

    for _ in lives(style, run, 2 if size > 1000 else 1):
        pass


def test_interrupt_survives_a_kill() -> None:
    """The guest works only when it is interrupted."""

    def run(rig: Mortal) -> None:
        got: list[int] = []
        driver = rig.driver
        rig.do(driver.take_interrupt)
        for number in range(6):
            rig.do(lambda number=number: rig.wire(frame(number, 100)), again=False)  # type: ignore[misc]
            if driver.irq.level:
                rig.do(lambda: driver.write_csr(0, 0x7F00 | INEA))
                got += [number_of(each) for each in driver.received()]
        assert got == sorted(set(got))
        assert len(got) >= 6 - rig.kills

    for _ in lives(2, run):
        pass


def test_life_of_the_driver_survives_a_kill() -> None:
    """Each access of a reset, an initialization and a stop is repeated by the next process."""

    def run(rig: Mortal) -> None:
        driver = rig.driver
        accesses = vars(driver)
        accesses["read_port"] = lambda number: repeated(lambda: PcnetDriver.read_port(driver, number))
        accesses["write_port"] = lambda number, value: repeated(
            lambda: PcnetDriver.write_port(driver, number, value)
        )

        def repeated(access: Callable[[], int | None]) -> int:
            values: list[int] = []
            rig.do(lambda: values.append(access() or 0))
            return values[-1]

        driver.start(0x8000)
        assert driver.csr(0) & 0x33 == 0x33
        assert driver.csr(15) == 0x8000
        driver.write_csr(0, 4)
        assert driver.csr(0) == 4
        assert driver.bcr(20) == 0x0302

    for _ in lives(2, run, 2):
        pass
