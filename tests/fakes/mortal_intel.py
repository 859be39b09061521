"""An Intel NIC whose process is killed at any step, and the next one goes on from its cells and its last record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tests.fakes.intel_rig import IntelRig
from tests.fakes.scheduler import FakeScheduler

from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.pci.device import PciHandles
from vnic.record import decode, encode


class Killed(BaseException):
    """The process ends here."""


class Life:
    """Counts the steps of one process, and ends it before one of them; a dead process does nothing."""

    def __init__(self, last_step: int | None) -> None:
        self.left = last_step
        self.dead = False
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.dead or self.steps - 1 == self.left:
            self.dead = True
            raise Killed


class MortalCells:
    """Cells whose every write is a step."""

    def __init__(self, values: memoryview, life: Life) -> None:
        self._values = values
        self._life = life

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return MortalCells(self._values[at], self._life)
        return self._values[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._life.step()
        self._values[at] = value


class MortalIntel(IntelRig):
    """A rig whose device dies at step `last_step` of its first life, and once more so many steps later."""

    def __init__(self, last_step: int) -> None:
        super().__init__()
        self.lives = [last_step, 7 + last_step % 11]
        self.kills = self.accesses = 0
        self.values = memoryview(bytearray(8 * self.device.cells_wanted)).cast("Q")
        self.dirty = False
        self.record = b""
        self.life = Life(None)
        self.driver.start()
        self.device.kept = self
        self.device.use_cells(self.values)
        self.dirty = True
        self.commit()
        vars(self.netdev)["receive"] = self._receive
        self.sent: list[bytes] = []
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
        """The device that is there goes on in a life of its own."""
        life = self.life = Life(None)
        memory = self.driver.served

        def write(addr: int, data: bytes | memoryview) -> None:
            life.step()
            GuestMemory.write(memory, addr, data)

        vars(memory)["write"] = write
        cells = cast(memoryview, MortalCells(self.values, life))
        self.device.use_cells(cells)
        life.steps = 0
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
        new = self.make()
        Network(FakeScheduler()).add_nic("new", new.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(new.record, self.record), PciHandles(self.driver.irq, memory, cells=self.values))
        new.kept = self
        self.device = self.driver.device = new
        self._begin()

    def do(self, act: Callable[[], object]) -> None:
        """What another process repeats if this one dies at it: an access, or a turn of the loop."""
        self.accesses += 1
        while True:
            try:
                self.device.access[0] = self.accesses
                act()
                self.commit()
                return
            except Killed:
                self._next_life()
                self.device.undo_read(self.accesses)

    def wire_once(self, frame: bytes) -> None:
        """A frame comes from the wire; it is lost if the process dies."""
        try:
            self.wire(frame)
            self.commit()
        except Killed:
            self._next_life()

    def write(self, offset: int, value: int) -> None:
        self.do(lambda: self.driver.write(offset, value))

    def read(self, offset: int) -> int:
        values: list[int] = []
        self.do(lambda: values.append(self.driver.read(offset)))
        return values[-1]

    def turn(self) -> None:
        self.do(self.scheduler.run_soon)
