"""The process is killed at any step of the vmxnet3, and the next one goes on from its last record and the rings.

No frame is sent twice, from a buffer that the guest has got back, or out of order; no receive buffer is skipped or
filled twice. A kill loses the frame that was in work at most. `Mortal` has one life for each step at which it can die,
and its record is as old as the test says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_vmxnet3.conftest import Rig

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.nic.vmxnet3 import Vmxnet3
from vnic.nic.vmxnet3.device import Vmxnet3Record
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

SLOT_BYTES = 2048
BUFFERS = GUEST_ADDR + 0x20000
STALE = b"\xee" * SLOT_BYTES


class Killed(BaseException):
    """The process ends here."""


class Mortal(Rig):
    """A rig whose device dies at step `last_step` of its first life, and once more so many steps later."""

    def __init__(self, last_step: int, turns: int, size: int) -> None:
        """The record is saved every `turns` turns of the loop."""
        super().__init__(size=size)
        self.lives = [last_step, 7 + last_step % 11]
        self.turns = turns
        self.kills = self.turn_number = self.steps = 0
        self.left: int | None = None
        self.dead = False
        self.sent: list[bytes] = []
        self.driver.probe()
        self.driver.start()
        self.record = encode(self.device.save())
        vars(self.netdev)["receive"] = self._receive
        self._begin()

    def step(self) -> None:
        """A dead process does nothing."""
        self.steps += 1
        if self.dead or self.steps - 1 == self.left:
            self.dead = True
            raise Killed

    # --- vnic.keep.Kept ---

    def changed(self) -> None:
        """It is saved at the end of some turn."""

    def handles_changed(self) -> None:
        """There are none."""

    def end(self) -> None:
        """The rig ends."""

    def commit(self) -> None:
        self.step()
        self.record = encode(self.device.save())

    # --- Life and death ---

    def _receive(self, queue: int, frame: bytes, offload: bytes = b"") -> bool:
        self.step()
        self.sent.append(bytes(frame))
        self.step()
        return True

    def _begin(self) -> None:
        """The device that is there goes on in a life of its own."""
        self.dead, self.steps = False, 0
        self.left = self.lives.pop(0) if self.lives else None
        memory = self.driver.served

        def write(addr: int, data: bytes | memoryview) -> None:
            self.step()
            GuestMemory.write(memory, addr, data)

        vars(memory)["write"] = write
        self.device.kept = self

    def _next_life(self) -> None:
        """Another process takes the place of the one that was killed."""
        self.kills += 1
        self.scheduler.cancel_all()
        new = Vmxnet3()
        Network(FakeScheduler()).add_nic("new", new.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        self.nic.rebind()
        del vars(self.driver.served)["write"]
        new.restore(decode(Vmxnet3Record, self.record), PciHandles(self.driver.irq, self.driver.served))
        self.device = self.driver.device = new
        self._begin()

    def do(self, act: Callable[[], object]) -> None:
        """What another process repeats if this one dies at it: an access, or a turn of the loop."""
        while True:
            try:
                act()
                self._end_turn()
                return
            except Killed:
                self._revive()

    def wire_once(self, frame: bytes) -> None:
        """A frame comes from the wire; it is lost if the process dies."""
        try:
            self.wire(frame)
            self._end_turn()
        except Killed:
            self._revive()

    def _end_turn(self) -> None:
        self.turn_number += 1
        if self.turn_number % self.turns == 0:
            self.commit()

    def _revive(self) -> None:
        while True:
            try:
                self._next_life()
                self.device.look_at_rings()
                return
            except Killed:
                pass


def frame(number: int, size: int = 200) -> bytes:
    head = struct.pack(">6s6sHI", b"\xff" * 6, b"\x52" * 6, 0x88B5, number)
    return head.ljust(size, bytes((number & 0xFF,)))


def number_of(data: bytes) -> int:
    number: int = struct.unpack_from(">I", data, 14)[0]
    assert data == frame(number, len(data)), "a frame of garbage"
    return number


def lives(run: Callable[[Mortal], None], turns: int, size: int) -> Iterator[Mortal]:
    """One run for each step of the device at which it can be killed."""
    for last_step in range(100_000):
        rig = Mortal(last_step, turns, size)
        run(rig)
        rig.left, kills = None, rig.kills
        yield rig
        rig.close()
        if not kills:
            assert last_step > 30
            return


def assert_in_order(numbers: list[int], sent: int, kills: int) -> None:
    assert numbers == sorted(set(numbers))
    assert sent - kills <= len(numbers) <= sent


@pytest.mark.parametrize(("pieces", "turns"), [(1, 1000), (3, 1)])
def test_sent_frames_survive_a_kill(pieces: int, turns: int) -> None:
    def run(rig: Mortal) -> None:
        driver, last = rig.driver, -1
        for number in range(0, 14, 2):  # the rings wrap
            first = driver.tx[0].next
            expected = []
            for each in (number, number + 1):
                data, size = frame(each), -(-200 // pieces)
                for at in range(0, 200, size):
                    where = BUFFERS + driver.tx[0].next * SLOT_BYTES
                    driver.memory.write(where, data[at : at + size])
                    last = driver.descriptor(where, len(data[at : at + size]), eop=at + size >= 200)
                expected.append(last)
            rig.do(driver.kick)
            rig.do(rig.scheduler.run_soon)
            assert driver.completed() == expected
            for index in range(first, first + 2 * pieces):
                driver.memory.write(BUFFERS + index % driver.size * SLOT_BYTES, STALE)

    for rig in lives(run, turns, size=8):
        assert_in_order([number_of(each) for each in rig.sent], 14, rig.kills)


@pytest.mark.parametrize(("size", "turns"), [(200, 1), (5000, 1000)])
def test_received_frames_survive_a_kill(size: int, turns: int) -> None:
    def run(rig: Mortal) -> None:
        received: list[bytes] = []
        for number in range(12):
            rig.wire_once(frame(number, size))
            if number % 2:
                received += rig.driver.received()
        assert_in_order([number_of(each) for each in received], 12, rig.kills)

    for _ in lives(run, turns, size=8):
        pass
