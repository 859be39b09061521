"""A real kernel's carrier follows every cause, and the kernel is interrupted only when the link changed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from tests.guests.lab import ECHO, Qmp, Vnic, interrupts, nic, uml, vnic_run

from vnic.lab.guest.uml import UmlGuest

Lab = tuple[Vnic, UmlGuest]


@pytest.fixture(scope="module")
def booted() -> Iterator[Lab]:
    with (
        vnic_run("-name", "carrier", *ECHO, *nic("nic0")) as running,
        uml(running, "nic0") as guest,
    ):
        guest.set_address("10.0.2.15/24")
        yield running, guest


@pytest.fixture
def lab(booted: Lab) -> Iterator[Lab]:
    """With the link up and net0 an echo, before the test and after it."""
    running, guest = booted
    running.qmp.forget_events()
    yield booted
    running.qmp.set_link("nic0", True)
    if running.qmp.link("net0")["model"] != "echo":
        replug(running.qmp, type="echo", ip="10.0.2.2")
    running.qmp.set_link("net0", True)
    assert guest.wait_carrier(True)


def replug(qmp: Qmp, **options: object) -> None:
    qmp.execute("netdev_del", id="net0")
    qmp.execute("netdev_add", id="net0", **options)


def quiet(running: Vnic, guest: UmlGuest) -> int:
    """The guest's interrupts, once no more come by themselves."""
    last = interrupts(guest)
    while True:
        time.sleep(0.15)
        now = interrupts(guest)
        if now == last:
            return now
        last = now


def test_boots_with_carrier_and_pings(lab: Lab) -> None:
    running, guest = lab
    assert guest.carrier()
    assert guest.ping("10.0.2.2") is not None
    found = running.qmp.link("nic0")
    assert found["guest"]["driver-ok"]
    assert found["guest"]["seen"] == "up"
    assert guest.run("cat /sys/class/net/eth0/address") == found["mac"]


@pytest.mark.parametrize("name", ["nic0", "net0"])
def test_carrier_follows_set_link(lab: Lab, name: str) -> None:
    running, guest = lab
    running.qmp.set_link(name, False)
    assert guest.wait_carrier(False)
    assert guest.ping("10.0.2.2", timeout=1) is None
    assert running.qmp.holds("nic0") == {"operator"}
    running.qmp.set_link(name, True)
    assert guest.wait_carrier(True)
    assert guest.ping("10.0.2.2") is not None


def test_the_netdevs_hold_stays_when_only_the_nics_is_lifted(lab: Lab) -> None:
    running, guest = lab
    running.qmp.set_link("net0", False)
    assert guest.wait_carrier(False)
    running.qmp.set_link("nic0", True)
    assert running.qmp.link("nic0")["link"] == "down"
    assert not guest.carrier()


def test_netdev_del_and_add_of_the_same_id(lab: Lab) -> None:
    running, guest = lab
    running.qmp.execute("netdev_del", id="net0")
    assert guest.wait_carrier(False)
    assert running.qmp.holds("nic0") == {"no-peer"}
    running.qmp.execute("netdev_add", type="echo", id="net0", ip="10.0.2.2")
    assert guest.wait_carrier(True)
    assert guest.ping("10.0.2.2") is not None


def test_a_streams_peer_comes_and_goes(lab: Lab) -> None:
    running, guest = lab
    replug(running.qmp, type="stream", server=True, addr={"type": "unix", "path": "net0.sock"})
    assert guest.wait_carrier(False)
    for _ in range(3):
        assert running.qmp.holds("nic0") == {"disconnected"}
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(running.socket("net0")))
            assert guest.wait_carrier(True)
        assert guest.wait_carrier(False)


def test_operator_hold_survives_a_returning_peer(lab: Lab) -> None:
    running, guest = lab
    replug(running.qmp, type="stream", server=True, addr={"type": "unix", "path": "net0.sock"})
    running.qmp.set_link("nic0", False)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(running.socket("net0")))
        running.qmp.wait_event("NETDEV_STREAM_CONNECTED")
        assert running.qmp.holds("nic0") == {"operator"}
        assert not guest.carrier()
        running.qmp.set_link("nic0", True)
        assert guest.wait_carrier(True)


def test_link_seen_is_emitted_once_for_each_change(lab: Lab) -> None:
    running, guest = lab
    for up in (False, True):
        running.qmp.set_link("nic0", up)
        word = "up" if up else "down"
        changed = running.qmp.wait_event("LINK_CHANGED", name="nic0")["data"]
        seen = running.qmp.wait_event("LINK_SEEN", name="nic0")["data"]
        assert changed["link"] == seen["link"] == word
        assert changed["id"] == seen["id"]
        assert seen["latency-us"] > 0
        assert guest.carrier() is up


def test_the_guest_is_interrupted_only_when_its_link_changed(lab: Lab) -> None:
    running, guest = lab
    before = quiet(running, guest)
    link = True
    for up in (True, True, False, False, False, True, True):
        running.qmp.set_link("nic0", up)
        if up is not link:  # two changes that the guest is slow to look at may come as one interrupt
            running.qmp.wait_event("LINK_SEEN", name="nic0", link="up" if up else "down")
        link = up
    assert guest.wait_carrier(True)
    assert quiet(running, guest) - before == 2


def test_a_second_hold_under_the_first_does_not_interrupt(lab: Lab) -> None:
    running, guest = lab
    running.qmp.set_link("nic0", False)
    assert guest.wait_carrier(False)
    before = quiet(running, guest)
    replug(running.qmp, type="stream", server=True, addr={"type": "unix", "path": "net0.sock"})
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(running.socket("net0")))
        running.qmp.wait_event("NETDEV_STREAM_CONNECTED")
    running.qmp.wait_event("NETDEV_STREAM_DISCONNECTED")
    assert quiet(running, guest) == before


@pytest.mark.parametrize("up", [False, True])
def test_unbinding_and_binding_the_driver_keeps_the_link(lab: Lab, up: bool) -> None:
    running, guest = lab
    running.qmp.set_link("nic0", up)
    device = guest.run("basename $(readlink /sys/class/net/eth0/device)")
    guest.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/unbind; ! test -e /sys/class/net/eth0")
    assert not running.qmp.link("nic0")["guest"]["driver-ok"]
    guest.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/bind; ip link set eth0 up")
    assert guest.wait_carrier(up)
    running.qmp.set_link("nic0", not up)
    assert guest.wait_carrier(not up)
    guest.set_address("10.0.2.15/24")


def test_reloading_the_module_keeps_the_link(lab: Lab) -> None:
    running, guest = lab
    running.qmp.set_link("nic0", False)
    guest.run("rmmod virtio_net && insmod /modules/*virtio_net.ko && ip link set eth0 up")
    assert guest.wait_carrier(False)
    running.qmp.set_link("nic0", True)
    assert guest.wait_carrier(True)
    guest.set_address("10.0.2.15/24")
    assert guest.ping("10.0.2.2") is not None


def test_link_change_while_interface_is_down_is_seen_when_up(lab: Lab) -> None:
    running, guest = lab
    guest.run("ip link set eth0 down")
    running.qmp.set_link("nic0", False)
    guest.run("ip link set eth0 up")
    assert guest.wait_carrier(False)
    running.qmp.set_link("nic0", True)
    assert guest.wait_carrier(True)
    guest.set_address("10.0.2.15/24")
    assert guest.ping("10.0.2.2") is not None
