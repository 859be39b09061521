"""A second vnic as the vhost-user back-end of the first, under a real kernel: killed, brought back, held, flapped.

The NIC's rings are run by the second process; the first one only hands them on and shows the link.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import ECHO, Vnic, nic, uml, vnic_run
from tests.guests.qemu_lab import pci_nic, qemu

from vnic.lab.guest.linux import LinuxGuest
from vnic.lab.played.closing import Closing

BACKEND = [
    "-chardev",
    "socket,id=c0,path=backend.sock,reconnect-ms=20",
    "-netdev",
    "vhost-user,id=vu0,chardev=c0",
]


class BackEnd(Closing):
    """The second vnic, which comes and goes in the first one's folder; the `with` around it ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = contextlib.ExitStack()
        self.running: Vnic | None = None

    def close(self) -> None:
        self._ends.close()

    def start(self) -> Vnic:
        self._folder.mkdir(exist_ok=True)
        far = nic("far0")
        far[1] = far[1].replace("attach.path=far0.sock", "attach.path=../backend.sock")
        self.running = self._ends.enter_context(Vnic(self._folder, [*ECHO, *far]))
        return self.running

    def kill(self) -> None:
        """SIGKILL: its sockets stay behind."""
        if self.running is not None:
            self.running.kill()
            self.running = None


Lab = tuple[Vnic, BackEnd, LinuxGuest]


@contextlib.contextmanager
def lab_on(kind: str) -> Iterator[Lab]:
    options = nic("nic0", "vu0") if kind == "uml" else pci_nic("nic0", netdev="vu0")
    with (
        vnic_run("-name", "front", *BACKEND, *options) as running,
        BackEnd(running.folder / "second") as back_end,
        uml(running, "nic0") if kind == "uml" else qemu(running, "nic0") as guest,
    ):
        guest.set_address("10.0.2.15/24")
        yield running, back_end, guest


@pytest.fixture(scope="module", params=["uml", "qemu"])
def module_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_on(request.param) as made:
        yield made


@pytest.fixture
def lab(module_lab: Lab) -> Lab:
    """With a back-end that runs, and no hold of an operator, whatever the test before left."""
    running, back_end, _ = module_lab
    if back_end.running is None:
        back_end.start()
    running.qmp.set_link("nic0", True)
    assert back_end.running is not None
    back_end.running.qmp.set_link("far0", True)
    if not any(link["name"] == "vu0" for link in running.qmp.execute("query-links")):
        running.qmp.execute("netdev_add", type="vhost-user", id="vu0", chardev="c0")
    return module_lab


def wait_ping(guest: LinuxGuest) -> None:
    """The guest may still be resolving the address that did not answer before."""
    deadline = time.monotonic() + 30
    while guest.ping("10.0.2.2") is None:
        assert time.monotonic() < deadline, "no answer through the back-end"


def test_packets_pass_through_the_second_process(lab: Lab) -> None:
    running, _, guest = lab
    assert guest.wait_carrier(True)
    wait_ping(guest)
    assert running.qmp.link("vu0")["link"] == "up"


def test_link_follows_a_back_end_killed_and_restarted(lab: Lab) -> None:
    running, back_end, guest = lab
    for _ in range(3):
        assert guest.wait_carrier(True)
        wait_ping(guest)
        back_end.kill()
        assert guest.wait_carrier(False)
        assert running.qmp.holds("vu0") == {"disconnected"}
        back_end.start()
        assert guest.wait_carrier(True)
    wait_ping(guest)


def test_operator_hold_survives_reconnect(lab: Lab) -> None:
    running, back_end, guest = lab
    assert guest.wait_carrier(True)
    running.qmp.set_link("nic0", False)
    assert guest.wait_carrier(False)
    back_end.kill()
    running.qmp.forget_events()
    back_end.start()
    running.qmp.wait_event("NETDEV_VHOST_USER_CONNECTED")
    assert not guest.wait_carrier(True, timeout=1)
    running.qmp.set_link("nic0", True)
    assert guest.wait_carrier(True)
    wait_ping(guest)


def test_guest_link_follows_the_far_nics_link(lab: Lab) -> None:
    _, back_end, guest = lab
    assert back_end.running is not None
    for up in (False, True, False, True):
        back_end.running.qmp.set_link("far0", up)
        assert guest.wait_carrier(up)
    wait_ping(guest)


def test_flaps_keep_the_rings_whole(lab: Lab) -> None:
    running, _, guest = lab
    for _ in range(200):
        running.qmp.set_link("nic0", False)
        running.qmp.set_link("nic0", True)
    assert guest.wait_carrier(True)
    wait_ping(guest)


def test_carrier_follows_netdev_del_and_add(lab: Lab) -> None:
    running, _, guest = lab
    assert guest.wait_carrier(True)
    running.qmp.execute("netdev_del", id="vu0")
    assert guest.wait_carrier(False)
    running.qmp.execute("netdev_add", type="vhost-user", id="vu0", chardev="c0")
    assert guest.wait_carrier(True)
    wait_ping(guest)
