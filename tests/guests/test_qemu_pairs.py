"""Two VMs cabled through one vnic: what they send arrives whole, and one that dies leaves the other and its socket."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import interface, pci_nic, qemu, qemu_guest, transfer, wait_detached

from vnic.lab.guest.errors import BootFailed
from vnic.lab.guest.qemu import QemuGuest

GOLDEN = Path(__file__).with_name("golden")
CABLES = [
    word for end, hub in enumerate((1, 1, 2, 2)) for word in ("-netdev", f"hubport,id=end{end},hubid={hub}")
]


class Pair:
    """Two guests: 10.9.0.1 on virtio-net-pci by MSI-X, 10.9.0.2 on an e1000; 10.9.1.1 and 10.9.1.2 on others by INTx.

    What is started is ended by `ends`.
    """

    def __init__(self, ends: contextlib.ExitStack, running: Vnic) -> None:
        self._ends = ends
        self.running = running
        self.first = self._boot("nic0", "nic2")
        self.second = self._boot("nic1", "nic3")

    def _boot(self, *nics: str) -> QemuGuest:
        return self._ends.enter_context(qemu(self.running, *nics, tools=True))

    def restore(self) -> None:
        """Both run, with their links up and their addresses, and serve nothing."""
        if not self.second.running:
            for nic in ("nic1", "nic3"):
                wait_detached(self.running, nic)
            self.second = self._boot("nic1", "nic3")
        for number, guest in enumerate((self.first, self.second)):
            guest.run("killall -q httpd; rm -rf /tmp/out*")
            for nic in (f"nic{number}", f"nic{number + 2}"):
                self.running.qmp.set_link(nic, True)
                address(self.running, guest, nic)


@pytest.fixture(scope="module")
def module_pair() -> Iterator[Pair]:
    nics = [
        *pci_nic("nic0", netdev="end0"),
        *pci_nic("nic1", "e1000", netdev="end1"),
        *pci_nic("nic2", netdev="end2", msix="off"),
        *pci_nic("nic3", netdev="end3", msix="off"),
    ]
    with vnic_run("-name", "pair", *CABLES, *nics) as running, contextlib.ExitStack() as ends:
        yield Pair(ends, running)


@pytest.fixture
def pair(module_pair: Pair) -> Pair:
    module_pair.restore()
    return module_pair


def address(running: Vnic, guest: QemuGuest, nic: str) -> None:
    """Guests name their interfaces in the order in which drivers come through, so that it is asked for."""
    cable, host = divmod(int(nic[-1]), 2)
    name = interface(running, guest, nic)
    guest.set_address(f"10.9.{cable}.{host + 1}/24", name)
    assert guest.wait_carrier(True, name)


@pytest.mark.parametrize("cable", [0, 1], ids=["msix-e1000", "intx"])
def test_ten_megabytes_arrive_whole_in_both_directions(pair: Pair, cable: int) -> None:
    first, second = pair.first, pair.second
    transfer(first, second, f"10.9.{cable}.1", f"/tmp/out{cable}")
    transfer(second, first, f"10.9.{cable}.2", f"/tmp/out{cable}")


@pytest.mark.parametrize(
    ("which", "slot", "name"),
    [("first", 2, "virtio-msix"), ("first", 3, "virtio-intx")],
)
def test_lspci_shows_a_sane_device(pair: Pair, which: str, slot: int, name: str) -> None:
    guest = {"first": pair.first, "second": pair.second}[which]
    text = guest.run(f"lspci -nvvv -s {slot}.0 2>/dev/null").strip() + "\n"
    text = re.sub(r"(Memory|I/O ports) at [0-9a-f]+", r"\1 at *", text)
    text = re.sub(r"IRQ \d+", "IRQ *", text)
    assert text == (GOLDEN / f"{name}.lspci").read_text()


def test_a_rebooted_guest_finds_its_link_as_it_was(pair: Pair) -> None:
    running, first, second = pair.running, pair.first, pair.second
    running.qmp.set_link("nic0", False)
    first.reboot()
    assert not first.carrier(interface(running, first, "nic0"))
    assert running.qmp.link("nic0")["guest"]["seen"] == "down"
    running.qmp.set_link("nic0", True)
    address(running, first, "nic0")
    assert second.ping("10.9.0.1") is not None


def test_traffic_resumes_after_a_reset(pair: Pair) -> None:
    running, first, second = pair.running, pair.first, pair.second
    second.run("ping -i 0.01 10.9.0.1 >/dev/null 2>&1 &")
    second.system_reset()
    address(running, second, "nic1")
    assert first.ping("10.9.0.2") is not None


def test_a_vm_that_is_killed_leaves_the_other_and_its_socket_to_the_next(pair: Pair) -> None:
    running, first, second = pair.running, pair.first, pair.second
    first.run("mkdir /tmp/out; dd if=/dev/zero of=/tmp/out/file bs=1M count=50; httpd -h /tmp/out")
    second.start("wget -q -O /dev/null http://10.9.0.1/file")
    time.sleep(0.5)
    second.kill()
    second.close()
    for seconds in (0.2, 0.6, 1.5):
        with contextlib.closing(qemu_guest(running, "nic1")) as dying:
            with pytest.raises(BootFailed, match="did not boot"):
                dying.boot(timeout=seconds)
            dying.kill()
    with qemu(running, "nic1") as third:
        address(running, third, "nic1")
        assert third.ping("10.9.0.1") is not None
        assert running.qmp.link("nic1")["guest"]["driver-ok"]
        assert first.carrier(interface(running, first, "nic0"))
    wait_detached(running, "nic1")
