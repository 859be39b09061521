"""A VM that does not share its memory: block, descriptors and buffers are fetched, and polled for, by messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.pcnet_driver import ENP, OWN, STOP, STP, TINT
from tests.fakes.unshared_vm import UnsharedBench, UnsharedPcnet, with_bench

from vnic.nic.pcnet import Pcnet
from vnic.protocol.vfio_user import messages as m


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nic0.sock"


def pcnet(path: Path, vm: Callable[[UnsharedBench, UnsharedPcnet], None]) -> None:
    def run(bench: UnsharedBench) -> None:
        with UnsharedPcnet(bench) as guest:
            vm(bench, guest)

    with_bench(path, Pcnet, run)


def frame(number: int, size: int = 100) -> bytes:
    return b"\xff" * 6 + b"\x52" * 6 + number.to_bytes(size - 12, "big")


def test_sends_and_receives(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedPcnet) -> None:
        client = guest.client
        guest.take_interrupt()
        guest.send(frame(1), 3)
        client.serve(lambda: not guest.sent(2)[0] & OWN)
        assert bench.far.frames == [frame(1)]
        client.serve(lambda: bool(guest.csr(0) & TINT))
        assert client.interrupts(m.IRQ_INTX) >= 1
        for number in range(40):  # several times around both rings
            guest.send(frame(number, 200))
            bench.receive(frame(number, 300))
            got: list[bytes] = []
            while not got or bench.far.frames[-1] != frame(number, 200):
                client.serve_waiting(0.01)
                got += guest.received()
            assert got == [frame(number, 300)]
        assert bench.far.frames[1:] == [frame(number, 200) for number in range(40)]

    pcnet(path, vm)


def test_frames_wait_for_descriptors(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedPcnet) -> None:
        bench.receive(*(frame(number) for number in range(50)))
        got: list[bytes] = []
        while len(got) < 50:
            guest.client.serve_waiting(0.01)
            got += guest.received()
        assert got == [frame(number) for number in range(50)]

    pcnet(path, vm)


def test_whole_ring_is_sent_by_one_demand(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedPcnet) -> None:
        for number in range(16):
            guest.piece(frame(number), OWN | STP | ENP)
        guest.demand()
        guest.client.serve(lambda: not guest.sent(15)[0] & OWN)
        assert bench.far.frames == [frame(number) for number in range(16)]

    pcnet(path, vm)


def test_stop_and_start_forget_what_was_fetched(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedPcnet) -> None:
        for number in range(3):
            bench.receive(frame(number))
            guest.client.serve(lambda: not guest.look(0x4000, 0)[0] & OWN)
            assert guest.received() == [frame(number)]
            guest.write_csr(0, STOP)
            guest.buffer_bytes -= 64
            guest.start()
            guest.client.serve(lambda: bool(guest.csr(0) & 0x100))

    pcnet(path, vm)


def test_refusals_are_bus_errors(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedPcnet) -> None:
        guest.put(0x1000, 0, 0x10, 100, OWN | STP | ENP)
        guest.tx_next = 1
        guest.send(frame(1))
        guest.client.serve(lambda: not guest.sent(1)[0] & OWN)
        assert bench.far.frames == [frame(1)]
        assert guest.csr(5) & 0x0800

    pcnet(path, vm)
    assert sum("said once" in record.getMessage() for record in caplog.records) == 1
