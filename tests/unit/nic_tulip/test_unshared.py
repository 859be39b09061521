"""A VM that does not share its memory: descriptors and buffers are fetched, and polled for, by messages."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from tests.fakes.tulip_driver import FS, IC, LS, MEMORY_BYTES, OWN, TX_RING, TulipDriver
from tests.fakes.unshared_vm import UnsharedBench, with_bench

from vnic.lab.played.closing import Closing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.nic.tulip import Tulip
from vnic.protocol.vfio_user import messages as m


class UnsharedTulip(TulipDriver, Closing):
    """A 21143 driver in such a VM, started, with an INTx line."""

    def __init__(self, bench: UnsharedBench, chained: bool) -> None:
        self.client = client = VfioUserClient(bench.attachment.path)
        self.device = cast(Tulip, client)  # it has the calls of one
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.chained, self.region = chained, 1
        client.attach(self.memory, shared=False)
        client.set_eventfds(m.IRQ_INTX, 0, 1)
        self.start()
        client.serve(lambda: not self.status(TX_RING, 0) & OWN)

    def close(self) -> None:
        self.client.close()
        self.memory.close()


def frame(number: int, size: int = 100) -> bytes:
    return b"\xff" * 6 + b"\x52" * 6 + number.to_bytes(size - 12, "big")


@pytest.mark.parametrize("chained", [False, True])
def test_sends_and_receives(tmp_path: Path, chained: bool) -> None:
    def vm(bench: UnsharedBench) -> None:
        with UnsharedTulip(bench, chained) as guest:
            for number in range(3):
                guest.piece(frame(number), FS | LS | IC)
            guest.write(1, 0)
            guest.client.serve(lambda: len(bench.far.frames) == 3)
            for number in range(3, 40):  # several times around both lists
                guest.send(frame(number, 200), 2)
                bench.receive(frame(number, 300))
                got: list[bytes] = []
                while not got or len(bench.far.frames) <= number:
                    guest.client.serve_waiting(0.01)
                    got += guest.received()
                assert got == [frame(number, 300)]
            sizes = [100] * 3 + [200] * 37
            assert bench.far.frames == [frame(number, size) for number, size in enumerate(sizes)]
            bench.receive(*(frame(number) for number in range(50)))
            got = []
            while len(got) < 50:
                guest.client.serve_waiting(0.01)
                got += guest.received()
            assert got == [frame(number) for number in range(50)]

    with_bench(tmp_path / "nic0.sock", Tulip, vm)
