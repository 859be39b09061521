"""Hundreds of deaths of a vhost-user back-end under a guest that keeps sending: nothing leaks, nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.loops import open_fds

from vnic.lab.bench.process import VnicProcess
from vnic.lab.played.back_end import BackEnd
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.net.client import Endpoint
from vnic.net.queue import Frame

RESTARTS = 300
WARM_UP = 50
"""Restarts before memory is looked at: Python's own pools grow at first."""
GROWTH_LIMIT_KIB = 2048
FRAME = b"\xff" * 6 + bytes.fromhex("525400123456") + b"\x88\xb5" + bytes(50)


class Counter(Endpoint):
    """Counts the frames that arrive whole."""

    def __init__(self) -> None:
        self.frames = 0

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        assert bytes(frame[:64]) == FRAME
        self.frames += 1
        return True


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.timeout(600)
def test_hundreds_of_restarts_of_a_back_end_under_traffic() -> None:
    arguments = (
        *(
            "-chardev",
            "socket,id=c0,path=@/c0.sock,reconnect-ms=1",
            "-netdev",
            "vhost-user,id=vu0,chardev=c0",
        ),
        *("-device", "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=@/nic0.sock"),
    )
    counter = Counter()
    with VnicProcess(*arguments) as vnic, FakeGuestMemory() as memory:
        driver = NetDriver(memory)
        client = VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
        back_end = BackEnd(vnic.folder / "c0.sock", counter)
        pid = vnic.process.pid
        tx = driver.rings[1]
        sent = 0
        try:
            client.start()
            for restart in range(RESTARTS + WARM_UP):
                if restart == WARM_UP:
                    fds, memory_kib = open_fds(pid), resident_kib(pid)
                back_end.open()
                assert back_end.until(lambda: back_end.running), f"restart {restart}: the rings did not come"
                burst = min(16, tx.free)
                driver.send(*[FRAME] * burst)
                sent += burst
                if restart % 2:  # every other death comes in the middle of the traffic
                    back_end.run(0)
                back_end.lose()
                back_end.run(0)
                driver.send(FRAME)
                sent += 1
            back_end.open()
            assert back_end.until(lambda: back_end.running)
            arrived = counter.frames
            driver.send(FRAME)
            sent += 1
            assert back_end.until(lambda: counter.frames > arrived)
            assert back_end.until(lambda: tx.take_used() is not None and tx.free == tx.size), (
                "a buffer was lost"
            )
            assert tx.used_idx == sent & 0xFFFF, "each buffer came back exactly once"
            assert client.link_up()
            nic = vnic.link("nic0")
            assert nic["link"] == "up"
            assert nic["carrier-up-changes"] == RESTARTS + WARM_UP + 1
            assert nic["carrier-down-changes"] == RESTARTS + WARM_UP
            assert open_fds(pid) <= fds + 8, "descriptors leak"
            assert resident_kib(pid) - memory_kib < GROWTH_LIMIT_KIB, "memory grows"
        finally:
            client.close()
            driver.close()
            back_end.close()
