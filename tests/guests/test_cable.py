"""Two real kernels joined by a cable: what happens at one end is seen by the other's driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.guests.lab import Vnic, nic, uml, vnic_run

from vnic.lab.guest.uml import UmlGuest

Lab = tuple[Vnic, UmlGuest, UmlGuest]
CABLE = ["-netdev", "cable,id=a,cable=c0", "-netdev", "cable,id=b,cable=c0"]
NIC_A, NIC_B = "nic-a", "nic-b"


@pytest.fixture(scope="module")
def running() -> Iterator[Vnic]:
    with vnic_run("-name", "cable", *CABLE, *nic(NIC_A, "a"), *nic(NIC_B, "b")) as vnic:
        yield vnic


@pytest.fixture(scope="module")
def far(running: Vnic) -> Iterator[UmlGuest]:
    """B, which stays while guests come and go at A."""
    with uml(running, NIC_B) as guest:
        guest.set_address("10.0.2.2/24")
        yield guest


@pytest.fixture
def near(running: Vnic, far: UmlGuest) -> Iterator[UmlGuest]:
    """A, booted anew for each test."""
    assert (
        running.qmp.link(NIC_B)["holds"][0]["text"]
        == f"{NIC_A} at the other end of cable c0: its VM is not attached"
    )
    with uml(running, NIC_A) as guest:
        guest.set_address("10.0.2.15/24")
        assert far.wait_carrier(True)
        running.qmp.forget_events()
        yield guest
    assert far.wait_carrier(False)


def reason(running: Vnic) -> str:
    """Why B is down."""
    [hold] = running.qmp.link(NIC_B)["holds"]
    assert (hold["client"], hold["kind"]) == ("b", "far-end")
    text: str = hold["text"]
    return text.removeprefix(f"{NIC_A} at the other end of cable c0")


def test_frames_pass_and_pulled_at_one_end_is_seen_at_other(
    running: Vnic, near: UmlGuest, far: UmlGuest
) -> None:
    assert near.ping("10.0.2.2") is not None
    running.qmp.set_link(NIC_A, False)
    down = running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="down")
    assert far.wait_carrier(False)
    assert near.wait_carrier(False)
    assert reason(running) == f" is held, operator: set_link {NIC_A} off"
    log = {each["id"]: each for each in running.qmp.execute("query-link-log", limit=4)}
    change, chain = log[down["data"]["id"]], [NIC_B]
    while "caused-by" in change:
        change = log[change["caused-by"]]
        chain.append(change["name"])
    assert chain == [NIC_B, "b", NIC_A]
    running.qmp.set_link(NIC_A, True)
    running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="up")
    assert far.wait_carrier(True)
    assert far.ping("10.0.2.15") is not None


def test_killed_vm_is_seen_at_other_end(running: Vnic, near: UmlGuest, far: UmlGuest) -> None:
    near.kill()
    running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="down")
    assert far.wait_carrier(False)
    assert reason(running) == ": its VM is not attached"


def test_power_off_is_seen_at_other_end(running: Vnic, near: UmlGuest, far: UmlGuest) -> None:
    near.start("poweroff -f")
    running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="down")
    assert far.wait_carrier(False)
    assert reason(running) == ": its VM is not attached"


def test_unbound_driver_is_seen_at_other_end(running: Vnic, near: UmlGuest, far: UmlGuest) -> None:
    device = near.run("basename $(readlink /sys/class/net/eth0/device)")
    near.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/unbind")
    running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="down")
    assert far.wait_carrier(False)
    assert reason(running) == ": its driver is not ready"
    near.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/bind; ip link set eth0 up")
    running.qmp.wait_event("LINK_SEEN", name=NIC_B, link="up")
    assert far.wait_carrier(True)


def test_schedule_of_flaps_is_seen_at_other_end(running: Vnic, near: UmlGuest, far: UmlGuest) -> None:
    arguments = {"name": NIC_A, "down-ms": 20, "up-ms": 50, "count": 5, "jitter": 20, "seed": 1}
    started = running.qmp.execute("flap-start", **arguments)
    for _ in range(5):
        running.qmp.wait_event("LINK_CHANGED", name=NIC_B, link="down")
        running.qmp.wait_event("LINK_CHANGED", name=NIC_B, link="up")
    assert far.wait_carrier(True)
    assert near.wait_carrier(True)
    assert running.qmp.execute("query-flaps") == []
    changes = running.qmp.execute("query-link-log", name=NIC_B, limit=10)
    assert {change["cause"]["by"] for change in changes} == {started["id"], "b"}
    assert near.ping("10.0.2.2") is not None
