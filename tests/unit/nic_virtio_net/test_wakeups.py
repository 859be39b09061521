"""No wake-up is lost between the device and a driver in another process, which a fake loop cannot test."""

from __future__ import annotations

import os
import random
import select

from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.lab.played.driver import NetDriver
from vnic.net.queue import Frame

ROUNDS = 1500
PATIENCE_MS = 30_000
OK, LOST_WAKE_UP, WRONG_FRAMES = 0, 1, 2


class Mirror(FarEnd):
    """Sends back what it gets."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.client.send(queue, frame)
        return True


def drive(driver: NetDriver, seed: int) -> int:
    """The driver: bursts out, the same frames back; it sleeps and asks for interrupts only when it has to."""
    source = random.Random(seed)
    driver.device = None
    rx, tx = driver.rings[:2]
    sleep = select.poll()
    sleep.register(rx.call_fd, select.POLLIN)
    tx.set_no_interrupt(True)
    for number in range(ROUNDS):
        burst = [frame(number + at) for at in range(source.randrange(1, 6))]
        tx.take_used()
        for each in burst:
            driver.queue_tx(each)
        tx.publish()
        got: list[bytes] = []
        rx.set_no_interrupt(True)
        while len(got) < len(burst):
            got += driver.received()
            if len(got) == len(burst):
                break
            if source.random() < 0.5:
                continue
            rx.set_no_interrupt(False)
            if rx.used_idx == rx.last_used:
                if not sleep.poll(PATIENCE_MS):
                    return LOST_WAKE_UP
                rx.calls()
            rx.set_no_interrupt(True)
        if got != burst:
            return WRONG_FRAMES
        driver.fill_rx(len(burst))
    return OK


def serve(lab: VirtioLab, child: int) -> int:
    """The device's loop, until the driver is done; its exit code."""
    kicks = select.poll()
    for ring in lab.driver.rings:
        kicks.register(ring.kick_fd, select.POLLIN)
    done = os.pidfd_open(child)
    kicks.register(done, select.POLLIN)
    while True:
        ready = {fd for fd, _ in kicks.poll(PATIENCE_MS * 2)}
        assert ready, "the driver sleeps, and so does the device"
        lab.driver.kick()
        lab.settle()
        if done in ready:
            os.close(done)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_wake_up_is_lost() -> None:
    with VirtioLab(far=Mirror(), memory_bytes=32 << 20) as lab:
        lab.plug()
        lab.driver.fill_rx(128)
        lab.settle()
        child = os.fork()
        if child == 0:
            try:
                os._exit(drive(lab.driver, seed=1))
            finally:
                os._exit(99)
        assert serve(lab, child) == OK


def test_interrupt_survives_memory_change() -> None:
    with VirtioLab() as lab:
        lab.plug()
        lab.driver.fill_rx(4)
        lab.settle()
        lab.driver.rings[0].calls()
        assert lab.netdev.send(0, frame(1))
        memory = lab.device.memory
        memory.remove(lab.guest.guest_addr, lab.guest.size)
        memory.add(lab.guest.region())
        lab.settle()
        assert lab.driver.rings[0].calls() == 1
        assert lab.driver.received() == [frame(1)]


def test_pending_interrupt_is_sent_before_ring_stops() -> None:
    """GET_VRING_BASE takes the call descriptor away, and a VM that goes on later would wait for the interrupt."""
    with VirtioLab() as lab:
        lab.plug()
        rx = lab.driver.rings[0]
        lab.driver.fill_rx(4)
        lab.settle()
        rx.calls()
        assert lab.netdev.send(0, frame(1))
        bases: list[int] = []
        lab.device.queue_stopped(0, bases.append)
        assert (bases, rx.calls()) == ([1], 1)
        lab.driver.start_ring(rx)
        lab.settle()
        assert rx.calls() == 0, "and not twice"
        assert lab.netdev.send(0, frame(2))
        lab.settle()
        assert rx.calls() == 1
        assert lab.driver.received() == [frame(1), frame(2)]
