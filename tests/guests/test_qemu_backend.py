"""A vhost-user back-end runs the rings of PCI NICs, by MSI-X and by INTx; the link follows it.

The back-end is a second vnic: its NICs are the ends of vhost-user sockets, and a hub is the cable between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import Vnic, nic, vnic_run
from tests.guests.qemu_lab import Apart, interfaces, pci_nic, qemu, resize_rings, transfer
from tests.places import short_folder

from vnic.lab.guest.qemu import QemuGuest

NICS: dict[str, dict[str, str]] = {"nic0": {}, "nic1": {"msix": "off"}}
CABLE = ["-netdev", "hubport,id=end0,hubid=1", "-netdev", "hubport,id=end1,hubid=1"]


class Lab:
    """A guest on the front, its two NICs in namespaces of their own, and a back-end that may be there or not.

    What is started is ended by `ends`.
    """

    def __init__(self, folder: Path, ends: contextlib.ExitStack, front: Vnic, guest: QemuGuest) -> None:
        self._folder = folder
        self._ends = ends
        self.front = front
        self.guest = guest
        self.back: Vnic | None = None
        self.booted()

    def booted(self) -> None:
        """Give each NIC its namespace."""
        names = interfaces(self.front, self.guest, list(NICS))
        self.ends = [
            Apart(self.guest, names[name], f"10.9.0.{index + 1}/24") for index, name in enumerate(NICS)
        ]

    def start(self) -> None:
        """The back-end, in a new process."""
        options = ["-name", "back", *CABLE, *nic("nic0", "end0"), *nic("nic1", "end1")]
        self.back = self._ends.enter_context(Vnic(self._folder, options))

    def kill(self) -> None:
        """SIGKILL; its sockets stay behind, as they would."""
        if self.back is not None:
            self.back.kill()
            self.back = None

    def wait(self, up: bool) -> None:
        for end in self.ends:
            end.wait_carrier(up)

    def assert_pings(self) -> None:
        assert " 0% packet loss" in self.ends[0].run("ping -c 3 -i 0.1 -W 10 10.9.0.2")


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    with short_folder() as folder, contextlib.ExitStack() as ends:
        options = []
        for index, (name, more) in enumerate(NICS.items()):
            options += ["-chardev", f"socket,id=c{index},path={folder / name}.sock,reconnect-ms=50"]
            options += ["-netdev", f"vhost-user,id=vu{index},chardev=c{index}"]
            options += pci_nic(name, netdev=f"vu{index}", **more)
        with vnic_run("-name", "front", *options) as front, qemu(front, *NICS, tools=True) as guest:
            yield Lab(folder, ends, front, guest)


@pytest.fixture
def lab(module_lab: Lab) -> Lab:
    """With the back-end there and the link up, whatever the test before left."""
    if module_lab.back is None:
        module_lab.start()
    for name in NICS:
        module_lab.front.qmp.set_link(name, True)
    module_lab.wait(True)
    return module_lab


def test_without_its_back_end_the_link_waits(lab: Lab) -> None:
    lab.kill()
    lab.wait(False)
    assert lab.front.qmp.holds("nic0") == {"disconnected"}


def test_the_back_end_carries_the_packets(lab: Lab) -> None:
    lab.assert_pings()
    transfer(lab.ends[0], lab.ends[1], "10.9.0.1", "/tmp/out")
    transfer(lab.ends[1], lab.ends[0], "10.9.0.2", "/tmp/out")


def test_the_link_follows_a_back_end_that_is_killed_and_started_again(lab: Lab) -> None:
    for _ in range(3):
        lab.wait(True)
        lab.kill()
        lab.wait(False)
        lab.start()
    lab.wait(True)
    lab.assert_pings()
    assert lab.front.qmp.link("nic0")["carrier-changes"] >= 6


def test_set_link_stops_the_rings_and_starts_them_where_they_were(lab: Lab) -> None:
    for _ in range(3):
        lab.front.qmp.set_link("nic1", False)
        lab.ends[1].wait_carrier(False)
        lab.front.qmp.set_link("nic1", True)
        lab.ends[1].wait_carrier(True)
        lab.assert_pings()


def test_rings_get_another_size(lab: Lab) -> None:
    for end in lab.ends:
        resize_rings(end, end.interface)
        lab.assert_pings()


def test_operator_hold_survives_a_returning_back_end(lab: Lab) -> None:
    lab.front.qmp.set_link("nic0", False)
    lab.kill()
    lab.ends[1].wait_carrier(False)
    lab.start()
    lab.ends[1].wait_carrier(True)
    assert lab.front.qmp.holds("nic0") == {"operator"}
    lab.ends[0].wait_carrier(False)
    lab.front.qmp.set_link("nic0", True)
    lab.wait(True)
    lab.assert_pings()


def test_a_reset_of_the_vm_takes_the_rings_back_and_hands_them_over_again(lab: Lab) -> None:
    """In the middle of traffic. QEMU unmaps and splits the memory; the back-end stays connected through that."""
    before = lab.front.qmp.link("vu0")["carrier-changes"]
    lab.ends[0].run("ping -i 0.01 10.9.0.2 >/dev/null 2>&1 &")
    lab.guest.system_reset()
    lab.booted()
    lab.wait(True)
    lab.assert_pings()
    assert lab.front.qmp.link("vu0")["carrier-changes"] == before
