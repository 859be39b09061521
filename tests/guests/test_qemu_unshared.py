"""Every kind of PCI NIC in a QEMU that does not share its memory: each read and write of the NIC is a message.

One guest serves all tests of this file.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import Apart, interface, interfaces, pci_nic, qemu, transfer

from vnic.lab.guest.qemu import QemuGuest
from vnic.virtio.features import EVENT_IDX

KINDS = {
    "msix": ("virtio-net-pci", {}),
    "intx": ("virtio-net-pci", {"msix": "off"}),
    "e1000": ("e1000", {}),
}


class Bench:
    """A vnic, and a guest on its NICs; two more than KINDS have a wire from one to the other."""

    def __init__(self, running: Vnic, guest: QemuGuest) -> None:
        self.running = running
        self.guest = guest
        names = interfaces(running, guest, ["left", "right"])
        self.ends = [
            Apart(guest, names[name], f"10.9.0.{index + 1}/24")
            for index, name in enumerate(("left", "right"))
        ]

    def interface(self, nic: str) -> str:
        """Its interface in the guest, which has its address."""
        name = interface(self.running, self.guest, nic)
        self.guest.set_address(f"10.0.{list(KINDS).index(nic)}.15/24", name)
        return name


@pytest.fixture(scope="module")
def module_bench() -> Iterator[Bench]:
    options = []
    for network, (nic, (driver, properties)) in enumerate(KINDS.items()):
        options += ["-netdev", f"echo,id=net-{nic},ip=10.0.{network}.2"]
        options += pci_nic(nic, driver, f"net-{nic}", **properties)
    options += ["-netdev", "hubport,id=port0,hubid=1", "-netdev", "hubport,id=port1,hubid=1"]
    options += pci_nic("left", "virtio-net-pci", "port0") + pci_nic("right", "e1000", "port1")
    with vnic_run(*options) as running, qemu(running, *KINDS, "left", "right", share_memory=False) as guest:
        yield Bench(running, guest)


@pytest.fixture
def bench(module_bench: Bench) -> Bench:
    """With all links up, whatever the test before left."""
    for nic in KINDS:
        module_bench.running.qmp.set_link(nic, True)
    return module_bench


@pytest.mark.parametrize("nic", KINDS)
def test_carrier_follows_set_link_and_guest_pings(bench: Bench, nic: str) -> None:
    running, guest, name = bench.running, bench.guest, bench.interface(nic)
    address = f"10.0.{list(KINDS).index(nic)}.2"
    for up in (False, True):
        running.qmp.set_link(nic, up)
        assert guest.wait_carrier(up, name)
    assert guest.ping(address) is not None
    assert running.qmp.link(nic)["guest"]["seen"] == "up"
    guest.run(f"ping -q -c 20 -i 0.01 -s 1400 {address}")


@pytest.mark.parametrize("nic", KINDS)
def test_unbinding_and_binding_the_driver_keeps_the_link(bench: Bench, nic: str) -> None:
    guest, name = bench.guest, bench.interface(nic)
    where = guest.run(f"readlink -f /sys/class/net/{name}/device/driver")
    device = guest.run(f"basename $(readlink -f /sys/class/net/{name}/device)")
    guest.run(f"echo {device} >{where}/unbind; ! test -e /sys/class/net/{name}")
    guest.run(f"echo {device} >{where}/bind")
    name = bench.interface(nic)  # the first name that is free, which may be another
    guest.run(f"ip link set {name} up")
    assert guest.wait_carrier(True, name)
    assert guest.ping(f"10.0.{list(KINDS).index(nic)}.2") is not None


def test_guest_is_not_offered_what_a_shadow_copy_cannot_have(bench: Bench) -> None:
    bits = bench.guest.run(f"cat /sys/class/net/{bench.interface('msix')}/device/features")
    assert bits[EVENT_IDX.bit_length() - 1] == "0"


def test_transfers_arrive_whole_both_ways(bench: Bench) -> None:
    left, right = bench.ends
    left.wait_carrier(True)
    right.wait_carrier(True)
    transfer(left, right, "10.9.0.1", "/tmp/left", size_mib=1)
    transfer(right, left, "10.9.0.2", "/tmp/right", size_mib=1)
