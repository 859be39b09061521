"""The process is killed at any step of the e1000e: by MSI-X with auto-clear, the guest hears of every frame and link
change all the same; both queues go on where they were."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from tests.fakes.e1000_driver import EOP, IFCS, RS, RX_BUFFERS, TX_BUFFERS, TX_RING
from tests.fakes.e1000e_driver import OTHER_VECTOR, RX_VECTOR, E1000eDriver
from tests.fakes.mortal_intel import MortalIntel
from tests.unit.nic_e1000.test_kill import frame, number_of

from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import E1000e
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.rx_formats import RXE

SLOT_BYTES = 2048


class Mortal(MortalIntel):
    """With an e1000e."""

    driver: E1000eDriver
    driver_type = E1000eDriver

    def make(self) -> E1000e:
        return E1000e()


def lives(run: Callable[[Mortal], None]) -> Iterator[Mortal]:
    """One run for each step of the device at which it can be killed."""
    for last_step in range(100_000):
        rig = Mortal(last_step)
        run(rig)
        rig.life.left, kills = None, rig.kills
        yield rig
        rig.close()
        if not kills:
            assert last_step > 40
            return


def take(rig: Mortal) -> list[bytes]:
    """What the guest has received; the buffers go back, as Linux gives them."""
    driver, given = rig.driver, False
    frames: list[bytes] = []
    for _, _, status, length, _, index in driver.extended():
        assert status & 3 == 3
        if not status & RXE:
            frames.append(driver.memory.read(RX_BUFFERS + index * driver.buffer_bytes, length))
        driver._post(index)
        given = True
    if given:
        rig.write(regs.RDT, (driver.rx_next - 1) % driver.ring_size)
    return frames


def test_received_frames_are_told_by_their_vector() -> None:
    """The guest works only when a vector comes, and enables it again then."""

    def run(rig: Mortal) -> None:
        received: list[bytes] = []
        for number in range(5):
            rig.wire_once(frame(number, 300))
            if RX_VECTOR in rig.driver.vectors():
                received += take(rig)
                rig.write(regs.IMS, irq.ICR_RXQ0)
        numbers = [number_of(each) for each in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 5 - rig.kills

    for _ in lives(run):
        pass


def test_sent_frames_of_both_queues() -> None:
    def run(rig: Mortal) -> None:
        driver, ring = rig.driver, TX_RING + 0x1000
        for at, value in ((0, ring), (4, 0), (8, 256), (16, 0), (24, 0)):
            rig.write(regs.TDBAL + regs.QUEUE_BYTES + at, value)
        for number in range(4):
            for queue, first in ((0, TX_RING), (1, ring)):
                data = frame(2 * number + queue)
                buffer = TX_BUFFERS + SLOT_BYTES * queue
                driver.memory.write(buffer, data)
                descriptor = struct.pack("<QII", buffer, len(data) | (EOP | IFCS | RS) << 24, 0)
                driver.memory.write(first + 16 * number, descriptor)
                rig.write(regs.TDT + regs.QUEUE_BYTES * queue, number + 1)
                rig.turn()
                assert driver.memory.read(first + 16 * number + 12, 1)[0] & 1

    for rig in lives(run):
        numbers = [number_of(each) for each in rig.sent]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 8 - rig.kills


def test_link_change_is_told() -> None:
    """LSC stays until the guest has read it, whoever of the processes sent the vector."""

    def run(rig: Mortal) -> None:
        for _ in range(6):
            rig.write(regs.ICS, regs.ICR_LSC)
            assert OTHER_VECTOR in rig.driver.vectors()
            assert rig.read(regs.ICR) & regs.ICR_LSC
            rig.write(regs.IMS, irq.ICR_OTHER)

    for _ in lives(run):
        pass
