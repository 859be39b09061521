"""Every kind of PCI NIC in a QEMU that does not share its memory: what a NIC reads and writes there are messages.

One guest serves all tests of this file; each test leaves the link of its NIC up.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import Apart, interfaces, pci_nic, qemu, transfer

from vnic.lab.guest.qemu import QemuGuest

KINDS = {
    "msix": ("virtio-net-pci", {}),
    "intx": ("virtio-net-pci", {"msix": "off"}),
    "e1000": ("e1000", {}),
}
Bench = tuple[Vnic, QemuGuest, dict[str, str]]
"""And the interface of each NIC in the guest."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    options = []
    for network, (nic, (driver, properties)) in enumerate(KINDS.items()):
        options += ["-netdev", f"echo,id=net-{nic},ip=10.0.{network}.2"]
        options += pci_nic(nic, driver, f"net-{nic}", **properties)
    # Two more with a wire from one to the other.
    options += ["-netdev", "hubport,id=port0,hubid=1", "-netdev", "hubport,id=port1,hubid=1"]
    options += pci_nic("left", "virtio-net-pci", "port0") + pci_nic("right", "e1000", "port1")
    with vnic_run(*options) as running, qemu(running, *KINDS, "left", "right", share_memory=False) as guest:
        names = interfaces(running, guest, [*KINDS, "left", "right"])
        for network, nic in enumerate(KINDS):
            guest.set_address(f"10.0.{network}.15/24", names[nic])
        yield running, guest, names


@pytest.mark.parametrize("nic", KINDS)
def test_carrier_and_pings(bench: Bench, nic: str) -> None:
    running, guest, names = bench
    address = f"10.0.{list(KINDS).index(nic)}.2"
    for up in (False, True):
        running.qmp.set_link(nic, up)
        assert guest.wait_carrier(up, names[nic])
    assert guest.ping(address) is not None
    assert running.qmp.link(nic)["guest"]["seen"] == "up"
    guest.run(f"ping -q -c 20 -i 0.01 -s 1400 {address}")


@pytest.mark.parametrize("nic", KINDS)
def test_unbinding_and_binding_the_driver(bench: Bench, nic: str) -> None:
    _, guest, names = bench
    network, interface = list(KINDS).index(nic), names[nic]
    where = guest.run(f"readlink -f /sys/class/net/{interface}/device/driver")
    device = guest.run(f"basename $(readlink -f /sys/class/net/{interface}/device)")
    guest.run(f"echo {device} >{where}/unbind; ! test -e /sys/class/net/{interface}")
    guest.run(f"echo {device} >{where}/bind; ip link set {interface} up")
    assert guest.wait_carrier(True, interface)
    guest.set_address(f"10.0.{network}.15/24", interface)
    assert guest.ping(f"10.0.{network}.2") is not None


def test_transfers_both_ways(bench: Bench) -> None:
    _, guest, names = bench
    left = Apart(guest, names["left"], "10.9.0.1/24")
    right = Apart(guest, names["right"], "10.9.0.2/24")
    left.wait_carrier(True)
    right.wait_carrier(True)
    transfer(left, right, "10.9.0.1", "/tmp/left", size_mib=1)
    transfer(right, left, "10.9.0.2", "/tmp/right", size_mib=1)
