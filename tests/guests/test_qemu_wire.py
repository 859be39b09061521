"""A QEMU guest whose packets vnic-wire moves, and whose kicks it takes from the VM's own connection.

One guest, with two NICs on one wire, serves all tests of this file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.guests.lab import TIMEOUT_S, Vnic, vnic_run
from tests.guests.qemu_lab import Apart, interfaces, pci_nic, qemu, transfer
from tests.integration.test_datapath import programs

from vnic.lab.guest.errors import GuestError

NICS = ("left", "right")
OPTIONS = [
    *("-netdev", "hubport,id=port0,hubid=1", "-netdev", "hubport,id=port1,hubid=1"),
    *pci_nic("left", netdev="port0"),
    *pci_nic("right", netdev="port1"),
]
pytestmark = pytest.mark.needs("vnic-wire")


class Bench:
    """A running vnic, a guest, and the two ends of the wire in it."""

    def __init__(self, running: Vnic, stack: contextlib.ExitStack) -> None:
        self.running = running
        self._stack = stack
        self._boot()

    def _boot(self) -> None:
        self.guest = self._stack.enter_context(qemu(self.running, *NICS))
        names = interfaces(self.running, self.guest, NICS)
        self.left, self.right = (
            Apart(self.guest, names[nic], f"10.9.0.{index + 1}/24") for index, nic in enumerate(NICS)
        )
        self.killed = False

    def boot_again(self) -> None:
        """If a test has killed the guest."""
        if self.killed:
            self._boot()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, self.running.log()
            time.sleep(0.01)

    def on_wire(self) -> bool:
        return all(self.running.qmp.link(nic)["datapath"] == "wire" for nic in NICS)

    @contextlib.contextmanager
    def control_stopped(self) -> Iterator[None]:
        os.kill(self.running.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.running.process.pid, signal.SIGCONT)

    def pings_without_control(self) -> bool:
        """Whether packets move while vnic itself is stopped: neither they nor kicks need it."""
        with self.control_stopped():
            try:
                self.left.run("ping -q -c 3 -i 0.2 -W 1 10.9.0.2")
            except GuestError:
                return False
        return True


@pytest.fixture(scope="module")
def module_bench() -> Iterator[Bench]:
    with vnic_run(*OPTIONS) as running, contextlib.ExitStack() as stack:
        yield Bench(running, stack)


@pytest.fixture
def bench(module_bench: Bench) -> Bench:
    """With a guest that runs, all links up, and all at vnic-wire."""
    module_bench.boot_again()
    for nic in NICS:
        module_bench.running.qmp.set_link(nic, True)
    module_bench.left.wait_carrier(True)
    module_bench.right.wait_carrier(True)
    module_bench.until(module_bench.on_wire)
    module_bench.left.run("ping -q -c 1 -W 30 10.9.0.2")  # now each has the other's address
    return module_bench


def test_kicks_do_not_pass_vnic(bench: Bench) -> None:
    bench.until(bench.pings_without_control)


def test_transfers_arrive_whole_both_ways(bench: Bench) -> None:
    transfer(bench.left, bench.right, "10.9.0.1", "/tmp/left", size_mib=20)
    transfer(bench.right, bench.left, "10.9.0.2", "/tmp/right", size_mib=20)


def test_link_changes_are_seen_while_vnic_wire_reads_the_connection(bench: Bench) -> None:
    for _ in range(3):
        bench.until(bench.pings_without_control)
        for up in (False, True):
            bench.running.qmp.set_link("left", up)
            bench.left.wait_carrier(up)
        bench.until(bench.on_wire)
        bench.left.run("ping -q -c 1 -W 5 10.9.0.2")


def test_vnic_wire_is_killed_while_it_reads_the_connection(bench: Bench) -> None:
    before = bench.running.qmp.link("left")["carrier-changes"]
    bench.left.run("ping -q -c 1 10.9.0.2")
    for _ in range(3):
        bench.until(bench.pings_without_control)
        (program,) = programs(bench.running.process.pid)
        os.kill(program, signal.SIGKILL)
        transfer(bench.left, bench.right, "10.9.0.1", "/tmp/left", size_mib=2)
        bench.until(bench.on_wire)
    assert bench.running.qmp.link("left")["carrier-changes"] == before


def test_driver_leaves_and_comes_back(bench: Bench) -> None:
    bench.until(bench.pings_without_control)
    name = bench.right.interface
    device = bench.right.run(f"basename $(readlink -f /sys/class/net/{name}/device)")
    where = "/sys/bus/virtio/drivers/virtio_net"
    bench.guest.run(f"echo {device} >{where}/unbind; echo {device} >{where}/bind")
    (new,) = interfaces(bench.running, bench.guest, ["right"]).values()
    bench.right = Apart(bench.guest, new, "10.9.0.2/24")
    bench.right.wait_carrier(True)
    bench.until(bench.on_wire)
    bench.left.run("ping -q -c 3 -i 0.2 -W 5 10.9.0.2")
    bench.until(bench.pings_without_control)


def test_vm_that_is_killed_is_detached(bench: Bench) -> None:
    bench.until(bench.pings_without_control)
    bench.guest.kill()
    bench.killed = True
    bench.until(lambda: not any(bench.running.qmp.link(nic)["guest"]["attached"] for nic in NICS))
    bench.until(lambda: all(bench.running.qmp.link(nic)["datapath"] == "none" for nic in NICS))
