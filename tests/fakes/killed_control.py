"""A control that is killed at random while two guests exchange frames through vnic-wire, and its successors.

Run as `python -m tests.fakes.killed_control KILLS SEED`, in a process of its own, since it forks: this process plays
the keeper and both guests, and each child is a control. It prints one line of JSON, see `Result`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import select
import signal
import sys
import time
from typing import Final, NamedTuple

import msgspec
from tests.fakes.keeper import FakeKeeper
from tests.fakes.wire_lab import Guest, WireLab
from tests.fakes.wire_program import Flow, Sink

from vnic.dataplane.wire.process import find_program
from vnic.dataplane.wire.recall import Recall
from vnic.dataplane.wire.settle import settle
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.wire import SEGMENTS_PER_TURN
from vnic.nic.virtio_net import features as net
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier
from vnic.virtio.features import INDIRECT_DESC, VERSION_1

SIZE: Final = 64
BUFFERS: Final = 128
FEATURES: Final = VERSION_1 | net.MRG_RXBUF | INDIRECT_DESC
KICKS_S: Final = 0.0005
PATIENCE_S: Final = 30.0
_PR_SET_CHILD_SUBREAPER: Final = 36


class Result(msgspec.Struct):
    """What came of it."""

    kills: int
    sent: list[int]
    """Frames of each guest."""
    wrong: list[str]
    """What the other one got instead."""
    programs: int
    """How many processes vnic-wire was, once the first one was kept."""
    while_dead: int
    """Frames that arrived while there was no control."""
    descriptors: int
    """The most that the keeper held."""


class PlayedGuest(NamedTuple):
    memory: FakeGuestMemory
    driver: NetDriver


# -- a control ------------------------------------------------------------------------------------------------------


def plug(guest: Guest) -> None:
    """Attach a driver that runs already: its rings go on from what is in memory."""
    device, driver = guest.device, guest.driver
    driver.plug(device, start=False)
    for status in (0, 1, 3):
        device.set_status(status)
    device.set_features(FEATURES)
    device.set_status(11)
    for ring in driver.rings[:2]:
        driver.start_ring(ring)
    device.set_status(15)


def control(address: str, files: list[tuple[str, int]], played: list[PlayedGuest]) -> None:
    loop = asyncio.new_event_loop()
    keep = StoredKeep(Notifier(address), files, loop.call_soon)
    recall = Recall(keep)
    recall.run()
    lab = WireLab(loop, [str(find_program())], keep=keep)
    lab.engine.program.restore(recall)
    for number, each in enumerate(played):
        lab.netdev_again("hubport", f"port{number}", hubid=1)
        guest = Guest(lab, f"nic{number}", f"port{number}", number=number + 1, played=each)
        lab.guests.append(guest)
        plug(guest)
    goes_on = lab.engine.program.will_run
    settle(recall, lab.network.clients, lab.engine.impairments if goes_on else None)
    lab.engine.adopt()
    lab.network.wires.settle(SEGMENTS_PER_TURN)
    keep.settle()

    def kick() -> None:
        lab.kick()
        loop.call_later(KICKS_S, kick)

    kick()
    loop.run_forever()


# -- the keeper and the guests ---------------------------------------------------------------------------------------


class Rig:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.keeper = FakeKeeper()
        self.played = []
        for _ in range(2):
            memory = FakeGuestMemory(16 << 20)
            self.played.append(PlayedGuest(memory, NetDriver(memory)))
        self.flows = [Flow(each, SIZE) for each in self.played]
        self.sinks = [Sink(each, BUFFERS) for each in self.played]
        self.pid = 0
        self.programs: set[str] = set()
        self.descriptors = 0

    def start(self) -> None:
        files = self.keeper.passed()
        self.pid = os.fork()
        if not self.pid:
            try:
                control(self.keeper.address, files, self.played)
            finally:
                os._exit(1)
        for _, fd in files:
            os.close(fd)

    def turn(self) -> None:
        self.keeper.read()
        for flow, sink in zip(self.flows, self.sinks, strict=True):
            flow.push(self.random.randrange(24))
            sink.take()

    def run_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()
            select.select([], [], [], 0.0002)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "the control has failed"
        self.keeper.read()
        self.descriptors = max(self.descriptors, len(self.keeper.files))
        self._note_program()

    def _note_program(self) -> None:
        for _, fd in self.keeper.files:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
                self.programs.update(line.split()[1] for line in lines if line.startswith("Pid:"))

    @property
    def arrived(self) -> int:
        return sum(len(sink.take()) for sink in self.sinks)

    def finish(self) -> None:
        """Until all has arrived."""
        end = time.monotonic() + PATIENCE_S
        while self.arrived < sum(flow.sent for flow in self.flows) and time.monotonic() < end:
            self.keeper.read()
            select.select([], [], [], 0.001)
        time.sleep(0.02)  # nothing comes twice

    def wrong(self) -> list[str]:
        found = []
        for flow, sink in zip(self.flows, reversed(self.sinks), strict=True):
            numbers = [int.from_bytes(each[14:18], "big") for each in sink.frames]
            wanted = list(range(flow.sent))
            if numbers != wanted:
                pairs = enumerate(zip(numbers, wanted, strict=False))
                at = next((at for at, (number, right) in pairs if number != right), -1)
                found.append(f"{len(numbers)} of {flow.sent}, from {at} on {numbers[at : at + 8]}")
        return found


def main(kills: int, seed: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rig = Rig(seed)
    rig.start()
    rig.run_for(0.5)
    while_dead = 0
    for _ in range(kills):
        rig.run_for(rig.random.choice((0.002, 0.01, 0.03, 0.05)) * rig.random.random())
        rig.kill()
        before = rig.arrived
        rig.run_for(0.002 * rig.random.random())
        while_dead += rig.arrived - before
        rig.start()
    rig.finish()
    rig.kill()
    result = Result(
        kills,
        [flow.sent for flow in rig.flows],
        rig.wrong(),
        len(rig.programs),
        while_dead,
        rig.descriptors,
    )
    rig.keeper.close()
    while True:
        try:
            os.wait()  # vnic-wire ends with its channel
        except ChildProcessError:
            break
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
