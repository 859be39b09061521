"""Two VMs cabled through one vnic: what they send arrives whole, and one that dies leaves the other and its socket."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import pci_nic, qemu, qemu_guest, transfer, wait_detached

from vnic.guest.errors import BootFailed
from vnic.guest.qemu import QemuGuest

Pair = tuple[Vnic, QemuGuest, QemuGuest]

GOLDEN = Path(__file__).with_name("golden")
CABLE = ["-netdev", "hubport,id=end0,hubid=1", "-netdev", "hubport,id=end1,hubid=1"]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """10.9.0.1 on virtio-net-pci by MSI-X, 10.9.0.2 on an e1000; a third NIC, by INTx, waits for its VM."""
    nics = [*pci_nic("nic0", netdev="end0"), *pci_nic("nic1", "e1000", netdev="end1")]
    echo = ["-netdev", "echo,id=net2,ip=10.0.2.2"]
    with (
        vnic_run(
            "-name", "pair", *CABLE, *echo, *nics, *pci_nic("nic2", netdev="net2", msix="off")
        ) as running,
        qemu(running, "nic0", "nic2", tools=True) as first,
        qemu(running, "nic1", tools=True) as second,
    ):
        address(first, 1)
        address(second, 2)
        yield running, first, second


def address(guest: QemuGuest, host: int) -> None:
    guest.set_address(f"10.9.0.{host}/24")
    assert guest.wait_carrier(True, timeout=8)


def test_ten_megabytes_arrive_whole_in_both_directions(pair: Pair) -> None:
    _, first, second = pair
    assert transfer(first, second, "10.9.0.1", "/tmp/out") < 30
    assert transfer(second, first, "10.9.0.2", "/tmp/out") < 30


@pytest.mark.parametrize(
    ("which", "slot", "name"), [(0, 2, "virtio-msix"), (0, 3, "virtio-intx"), (1, 2, "e1000")]
)
def test_lspci_shows_a_sane_device(pair: Pair, which: int, slot: int, name: str) -> None:
    text = pair[1:][which].run(f"lspci -nvvv -s {slot}.0 2>/dev/null").strip() + "\n"
    text = re.sub(r"(Memory|I/O ports) at [0-9a-f]+", r"\1 at *", text)
    text = re.sub(r"IRQ \d+", "IRQ *", text)
    assert text == (GOLDEN / f"{name}.lspci").read_text()


def test_a_rebooted_guest_finds_its_link_as_it_was(pair: Pair) -> None:
    running, first, second = pair
    running.qmp.set_link("nic0", False)
    first.reboot()
    assert not first.carrier()
    assert running.qmp.link("nic0")["guest"]["seen"] == "down"
    running.qmp.set_link("nic0", True)
    address(first, 1)
    assert second.ping("10.9.0.1") is not None


def test_a_reset_in_the_middle_of_traffic(pair: Pair) -> None:
    _, first, second = pair
    second.run("ping -i 0.01 10.9.0.1 >/dev/null 2>&1 &")
    second.system_reset()
    address(second, 2)
    assert first.ping("10.9.0.2") is not None


def test_a_vm_that_is_killed_leaves_the_other_and_its_socket_to_the_next(pair: Pair) -> None:
    running, first, second = pair
    first.run("mkdir /tmp/out; dd if=/dev/zero of=/tmp/out/file bs=1M count=50; httpd -h /tmp/out")
    second.start("wget -q -O /dev/null http://10.9.0.1/file")
    time.sleep(0.5)
    second.kill()
    second.close()
    for seconds in (0.2, 0.6, 2.5):
        with contextlib.closing(qemu_guest(running, "nic1")) as dying:
            with pytest.raises(BootFailed, match="did not boot"):
                dying.boot(timeout=seconds)
            dying.kill()
    with qemu(running, "nic1") as third:
        address(third, 2)
        assert third.ping("10.9.0.1") is not None
        assert running.qmp.link("nic1")["guest"]["driver-ok"]
        assert first.carrier()
    wait_detached(running, "nic1")
