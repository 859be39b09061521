"""How the guest is notified of its link: status, config interrupt, seen, and the journal's steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.virtio_lab import MAC, FarEnd, VirtioLab, frame

from vnic.net.network import Network
from vnic.net.records import HoldKind
from vnic.nic.virtio_net import VirtioNet, features
from vnic.nic.virtio_net.control import CLASS_ANNOUNCE


@pytest.fixture
def lab() -> Iterator[VirtioLab]:
    with VirtioLab() as lab:
        yield lab


def status(lab: VirtioLab) -> int:
    """`status`, read by the guest."""
    return int.from_bytes(lab.device.read_config(6, 2), "little")


def test_config_interrupt_is_sent_only_for_changes(lab: VirtioLab) -> None:
    lab.plug()
    counts = []
    for up in (True, False, False, True, True, False):
        lab.set_link(up)
        counts.append((lab.driver.config_interrupts, status(lab), lab.device.generation))
    assert counts == [(0, 1, 0), (1, 0, 1), (1, 0, 1), (2, 1, 2), (2, 1, 2), (3, 0, 3)]
    assert lab.driver.links == [False, True, False]


def test_no_interrupt_before_driver_ok(lab: VirtioLab) -> None:
    lab.driver.plug(lab.device, start=False)
    lab.device.set_status(11)
    lab.set_link(False)
    assert lab.driver.config_interrupts == 0
    assert lab.driver.links == [False], "a transport may show it by its socket"
    lab.driver.start()
    assert status(lab) == 0
    lab.set_link(True)
    assert lab.driver.config_interrupts == 1


def test_link_change_without_guest_sends_no_interrupt(lab: VirtioLab) -> None:
    lab.set_link(False)
    lab.plug()
    assert status(lab) == 0


@pytest.mark.parametrize("cause", ["far hold", "netdev_del", "set_link net0"])
def test_every_hold_changes_guests_link(lab: VirtioLab, cause: str) -> None:
    lab.plug()
    network = lab.network
    if cause == "far hold":
        lab.netdev.hold(HoldKind.DISCONNECTED, "net0", "gone")
    elif cause == "netdev_del":
        network.delete_netdev("net0", "test")
    else:
        lab.set_link(False, "net0")
    assert (lab.driver.config_interrupts, status(lab)) == (1, 0)
    if cause == "far hold":
        lab.netdev.release(HoldKind.DISCONNECTED, "net0", "back")
    elif cause == "netdev_del":
        network.add_netdev("net0", "stream", FarEnd())
    else:
        lab.set_link(True, "net0")
    assert (lab.driver.config_interrupts, status(lab)) == (2, 1)


def test_guest_boots_with_link_down_status(lab: VirtioLab) -> None:
    network = Network(lab.scheduler)
    device = VirtioNet()
    nic = network.add_nic("nic1", "virtio-net", device, mac=MAC, link=False)
    assert device.read_config(6, 2) == b"\0\0"
    assert not nic.link_up
    network.close()


def test_driver_reset_keeps_link(lab: VirtioLab) -> None:
    lab.plug()
    lab.set_link(False)
    lab.device.set_status(0)
    assert lab.device.read_config(6, 2) == b"\0\0"
    lab.set_link(True)
    lab.device.set_status(0)
    assert lab.device.read_config(6, 2) == b"\1\0"
    assert lab.driver.config_interrupts == 1


def test_guest_without_status_feature_is_interrupted(lab: VirtioLab) -> None:
    """As QEMU does [L]; it makes nothing of it."""
    lab.plug(lab.device.host_features & ~features.STATUS)
    lab.set_link(False)
    assert lab.driver.config_interrupts == 1


# -- seen ---------------------------------------------------------------------------------------------------------


def test_steps_of_change_are_recorded(lab: VirtioLab) -> None:
    lab.plug()
    lab.set_link(False)
    change = lab.nic.last_change
    assert change is not None
    assert change.notified_us is not None
    assert change.interrupt_us is not None
    assert 0 < change.notified_us < change.interrupt_us
    assert "LINK_SEEN" not in lab.names()
    assert status(lab) == 0
    assert change.seen_us is not None
    assert lab.names()[-2:] == ["LINK_CHANGED", "LINK_SEEN"]


@pytest.mark.parametrize(
    ("offset", "length", "seen"), [(0, 6, False), (0, 7, True), (7, 1, True), (8, 9, False), (0, 17, True)]
)
def test_only_read_of_status_is_seen(lab: VirtioLab, offset: int, length: int, seen: bool) -> None:
    lab.plug()
    lab.set_link(False)
    lab.device.read_config(offset, length)
    assert lab.nic.guest.seen == ("down" if seen else "unknown")


@pytest.mark.parametrize(
    ("offset", "length", "seen"), [(6, 2, True), (0, 8, True), (0, 10, None), (0, 24, None)]
)
def test_status_read_at_probe_is_seen_at_driver_ok(
    lab: VirtioLab, offset: int, length: int, seen: bool | None
) -> None:
    """QEMU reads the whole config space of a vhost-user device itself, before any guest runs."""
    lab.driver.plug(lab.device, start=False)
    lab.device.read_config(offset, length)
    assert str(lab.nic.guest.seen) == "unknown"
    lab.device.set_status(15)
    assert str(lab.nic.guest.seen) == ("up" if seen else "unknown")
    status(lab)
    assert str(lab.nic.guest.seen) == "up"


def test_seen_is_probed_value_after_later_change(lab: VirtioLab) -> None:
    lab.driver.plug(lab.device, start=False)
    status(lab)
    lab.set_link(False)
    lab.device.set_status(15)
    assert lab.nic.guest.seen == "up", "no interrupt before DRIVER_OK: it does not know"
    assert "LINK_SEEN" not in lab.names()


def test_reset_clears_probed_status(lab: VirtioLab) -> None:
    lab.driver.plug(lab.device, start=False)
    status(lab)
    lab.device.set_status(0)
    lab.device.set_status(15)
    assert lab.nic.guest.seen == "unknown"


def test_read_of_old_status_is_not_seen(lab: VirtioLab) -> None:
    lab.plug()
    lab.set_link(False)
    lab.set_link(True)
    assert status(lab) == 1
    log = lab.network.journal.select("nic0")
    assert [(entry.seen_us is not None, entry.link) for entry in log][-2:] == [(False, "down"), (True, "up")]


def test_driver_ok_is_shown(lab: VirtioLab) -> None:
    lab.plug()
    shown = [lab.nic.guest.driver_ok]
    lab.device.set_status(0)
    shown.append(lab.nic.guest.driver_ok)
    assert shown == [True, False]


# -- announce -----------------------------------------------------------------------------------------------------


def test_announce_is_cleared_by_ack(lab: VirtioLab) -> None:
    lab.plug()
    lab.device.announce()
    assert (status(lab), lab.driver.config_interrupts) == (3, 1)
    lab.set_link(False)
    assert status(lab) == 2
    assert lab.driver.command(CLASS_ANNOUNCE, 1) == 1
    assert status(lab) == 2
    assert lab.driver.command(CLASS_ANNOUNCE, 0) == 0
    assert status(lab) == 0
    assert lab.driver.command(CLASS_ANNOUNCE, 0) == 1, "nothing to acknowledge"


def test_reset_clears_announce(lab: VirtioLab) -> None:
    lab.plug()
    lab.device.announce()
    lab.device.set_status(0)
    assert lab.device.read_config(6, 2) == b"\1\0"


@pytest.mark.parametrize("missing", [features.GUEST_ANNOUNCE, features.CTRL_VQ])
def test_announce_requires_both_features(lab: VirtioLab, missing: int) -> None:
    lab.plug(lab.device.host_features & ~missing)
    lab.device.announce()
    assert (status(lab), lab.driver.config_interrupts) == (1, 0)


# -- what the link does to packets ----------------------------------------------------------------------------------


def test_link_down_completes_tx_unsent_and_drops_rx(lab: VirtioLab) -> None:
    lab.plug()
    lab.driver.fill_rx(4)
    lab.set_link(False)
    lab.driver.send(frame(1), frame(2))
    lab.settle()
    assert len(lab.driver.rings[1].take_used()) == 2
    assert lab.netdev.send(0, frame(3))
    assert lab.driver.received() == []
    lab.set_link(True)
    lab.settle()
    lab.driver.send(frame(4))
    lab.netdev.send(0, frame(5))
    assert lab.sent == [frame(4)]
    assert lab.driver.received() == [frame(5)]


def test_link_down_completes_waiting_tx(lab: VirtioLab) -> None:
    assert isinstance(lab.far, FarEnd)
    lab.plug()
    lab.far.room = 1
    lab.driver.send(frame(1), frame(2), frame(3))
    assert lab.driver.rings[1].used_idx == 2
    lab.set_link(False)
    lab.settle()
    assert lab.driver.rings[1].used_idx == 3
    assert lab.sent == [frame(1)]


def test_link_down_drops_frames_waiting_for_room(lab: VirtioLab) -> None:
    lab.plug()
    assert not lab.netdev.send(0, frame(1))
    lab.set_link(False)
    lab.set_link(True)
    lab.driver.fill_rx(2)
    assert lab.netdev.send(0, frame(2))
    assert lab.driver.received() == [frame(2)]


def test_many_flaps_are_all_recorded(lab: VirtioLab) -> None:
    lab.plug()
    for number in range(2001):
        lab.set_link(bool(number & 1))
    assert lab.driver.config_interrupts == 2001
    assert status(lab) == 0
    lab.settle()
