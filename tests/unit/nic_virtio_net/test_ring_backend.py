"""Rings that a back-end takes over and gives back, as the vhost-user netdev does: who touches them, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.ring_backend import ALL, FakeRingBackend
from tests.fakes.virtio_lab import FarEnd, VirtioLab, frame

from vnic.memory.guest import Region
from vnic.net.records import HoldKind
from vnic.nic.virtio_net import VirtioNet, features
from vnic.virtio.attachment import QueueFds
from vnic.virtio.features import INDIRECT_DESC, VERSION_1


@pytest.fixture
def back_end() -> FakeRingBackend:
    return FakeRingBackend()


@pytest.fixture
def lab(back_end: FakeRingBackend) -> Iterator[VirtioLab]:
    with VirtioLab(far=back_end) as lab:
        yield lab


def test_back_end_takes_rings_at_driver_ok(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    assert lab.datapath == "taken"
    fds = [QueueFds(ring.kick_fd, ring.call_fd) for ring in lab.driver.rings]
    assert back_end.taken == {0: (0, fds[0]), 1: (0, fds[1])}
    assert back_end.times == 1
    assert lab.driver.handed_over == {0, 1}


def test_device_does_not_access_taken_rings(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    lab.driver.fill_rx(4)
    lab.driver.send(frame(1))
    lab.device.kick(1)
    lab.device.kick(0)
    lab.settle()
    assert lab.netdev.send(0, frame(2))
    assert [ring.used_idx for ring in lab.driver.rings[:2]] == [0, 0]
    assert [ring.used_flags for ring in lab.driver.rings[:2]] == [0, 0]
    assert back_end.frames == []
    assert lab.driver.command(0, 0, b"\0") == 0, "the control queue stays here"


def test_link_down_stops_back_end_and_discards(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    lab.driver.send(frame(1))
    lab.set_link(False)
    lab.settle()
    assert lab.datapath == "discard"
    assert lab.driver.handed_over == set()
    assert lab.driver.rings[1].used_idx == 1, "completed unsent"
    lab.set_link(True)
    assert lab.datapath == "taken"
    assert back_end.times == 2
    assert [base for base, _ in back_end.taken.values()] == [0, 1]


def test_hold_of_netdev_stops_back_end(lab: VirtioLab) -> None:
    lab.plug()
    lab.netdev.hold(HoldKind.DISCONNECTED, "net0", "gone")
    assert lab.datapath == "discard"
    lab.netdev.release(HoldKind.DISCONNECTED, "net0", "back")
    assert lab.datapath == "taken"


def test_rings_resume_from_back_ends_bases(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    for number in range(5):
        lab.driver.send(frame(number))
    back_end.bases = [None, 3]
    lab.set_link(False)
    lab.settle()
    assert lab.device.queues[1].last_avail == 5
    assert lab.driver.rings[1].used_idx == 2, "two of five were left"


def test_device_waits_for_slow_back_end(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    back_end.prompt = False
    lab.plug()
    lab.driver.send(frame(1))
    lab.set_link(False)
    lab.settle()
    assert lab.datapath == "returning"
    assert lab.driver.rings[1].used_idx == 0
    assert lab.driver.config_interrupts == 1, "the guest is told at once"
    lab.set_link(True)
    lab.set_link(False)
    assert back_end.times == 1
    back_end.answer()
    lab.settle()
    assert lab.datapath == "discard"
    assert lab.driver.rings[1].used_idx == 1


def test_rings_are_taken_again_after_flap_during_stop(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    back_end.prompt = False
    lab.plug()
    lab.set_link(False)
    lab.set_link(True)
    back_end.answer()
    assert lab.datapath == "taken"
    assert back_end.times == 2


def test_reset_waits_for_rings(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    back_end.prompt = False
    lab.plug()
    done: list[int] = []
    lab.device.reset(lambda: done.append(lab.device.status))
    assert (lab.device.status, done) == (15, []), "a driver waits until it reads 0"
    lab.device.set_status(1)
    assert lab.device.status == 15
    back_end.answer()
    assert (lab.device.status, done) == (0, [0])
    assert lab.datapath == "off"
    lab.driver.start()
    assert lab.datapath == "taken"


def test_ring_stop_waits_for_back_end(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    back_end.prompt = False
    lab.plug()
    bases: list[int] = []
    lab.device.queue_stopped(0, bases.append)
    lab.device.queue_stopped(1, bases.append)
    assert bases == []
    back_end.bases = [7, 9]
    back_end.answer()
    assert bases == [7, 9]
    assert lab.datapath == "local"
    for ring in lab.driver.rings[:2]:
        lab.driver.start_ring(ring)
    assert lab.datapath == "taken"


def test_rings_of_later_pair_stop_together(back_end: FakeRingBackend) -> None:
    """Between two of them the rings must not go out again."""
    with VirtioLab(VirtioNet(pairs=2), far=back_end) as lab:
        lab.plug()
        assert lab.driver.command(4, 0, b"\2\0") == 0
        lab.set_link(False)
        lab.set_link(True)
        assert set(back_end.taken) == {0, 1, 2, 3}
        back_end.prompt = False
        times = back_end.times
        bases: list[tuple[int, int]] = []
        lab.device.queue_stopped(2, lambda _: bases.append((2, back_end.times)))
        lab.device.queue_stopped(3, lambda _: bases.append((3, back_end.times)))
        back_end.answer()
        assert bases == [(2, times), (3, times)]
        assert set(back_end.taken) == {0, 1}


def test_control_queue_stops_at_once(lab: VirtioLab) -> None:
    lab.plug()
    bases: list[int] = []
    lab.device.queue_stopped(2, bases.append)
    assert bases == [0]
    assert lab.datapath == "taken"


def test_detach_waits_for_rings(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    back_end.prompt = False
    lab.plug()
    done: list[bool] = []
    lab.device.detach(lambda: done.append(True))
    assert done == []
    back_end.answer()
    assert done == [True]
    assert not lab.device.attached
    lab.driver.device = None


def test_deleted_back_end_returns_rings(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    lab.network.delete_netdev("net0", "test")
    assert back_end.device is None
    assert lab.datapath == "discard"
    plain = FarEnd()
    lab.network.add_netdev("net0", "stream", plain)
    lab.settle()
    lab.driver.send(frame(1))
    assert plain.frames == [frame(1)]
    assert lab.datapath == "local"


def test_refused_rings_stay_with_device(
    lab: VirtioLab, back_end: FakeRingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """QEMU falls back on its own data path; the back-end's endpoint gets the frames."""
    back_end.willing = False
    lab.plug()
    assert lab.datapath == "local"
    lab.driver.send(frame(1))
    assert back_end.frames == [frame(1)]
    assert "did not take the rings over" in caplog.text
    back_end.willing = True
    lab.device.update_datapath()
    assert lab.datapath == "taken"


def test_rings_are_passed_as_they_become_ready(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    driver, device = lab.driver, lab.device
    driver.plug(device, start=False)
    device.set_features(device.host_features)
    device.set_status(15)
    driver.start_ring(driver.rings[0])
    assert lab.datapath == "local"
    driver.start_ring(driver.rings[1])
    assert lab.datapath == "taken"
    changes = back_end.changes
    driver.start_ring(driver.rings[2])
    device.queue_fds_changed(1)
    assert back_end.changes > changes


def test_back_end_is_notified_of_memory_changes(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    memory = lab.device.memory
    before = back_end.changes
    memory.add(Region(lab.guest.guest_addr + lab.guest.size, 4096))
    memory.remove(lab.guest.guest_addr + lab.guest.size, 4096)
    assert back_end.changes == before + 2
    assert back_end.times == 1


@pytest.mark.parametrize("prompt", [True, False])
def test_rings_are_taken_back_while_memory_is_unmapped(
    lab: VirtioLab, back_end: FakeRingBackend, prompt: bool
) -> None:
    """A client unmaps memory and maps it again: no back-end can work on a ring in it meanwhile."""
    back_end.prompt = prompt
    lab.plug()
    lab.driver.send(*(frame(number) for number in range(3)))
    lab.guest.write(lab.driver.rings[1].used + 2, b"\2\0")  # the back-end returned two
    back_end.bases = [0, 2]
    memory = lab.device.memory
    memory.remove(lab.guest.guest_addr, lab.guest.size)
    if not prompt:
        back_end.answer()
    assert back_end.device is None
    lab.settle()
    memory.add(lab.guest.region())
    assert back_end.times == 2
    assert [base for base, _ in back_end.taken.values()] == [0, 2]
    assert (lab.device.status, lab.nic.link_up) == (15, True)
    back_end.prompt = True
    lab.set_link(False)
    lab.settle()
    assert lab.driver.rings[1].used_idx == 3


@pytest.mark.parametrize("base", [None, 2])
def test_returned_rings_wait_for_unmapped_memory(
    lab: VirtioLab, back_end: FakeRingBackend, base: int | None
) -> None:
    """They continue when it is mapped again, also if the back-end died and only the ring has the base."""
    lab.plug()
    lab.driver.send(*(frame(number) for number in range(3)))
    lab.guest.write(lab.driver.rings[1].used + 2, b"\2\0")
    back_end.bases = [0, base]
    memory = lab.device.memory
    memory.remove(lab.guest.guest_addr, lab.guest.size)
    lab.set_link(False)
    lab.settle()
    assert lab.datapath == "discard"
    lab.set_link(True)
    assert lab.datapath == "local", "with nothing to work on"
    memory.add(lab.guest.region())
    assert lab.datapath == "taken"
    assert [base for base, _ in back_end.taken.values()] == [0, 2]


def test_reset_while_memory_is_unmapped(lab: VirtioLab, back_end: FakeRingBackend) -> None:
    lab.plug()
    memory = lab.device.memory
    memory.remove(lab.guest.guest_addr, lab.guest.size)
    lab.device.set_status(0)
    memory.add(lab.guest.region())
    assert (lab.datapath, lab.device.queues[0].last_avail) == ("off", 0)
    lab.driver.start()
    assert lab.datapath == "taken"


@pytest.mark.parametrize(
    ("ring_features", "offered"),
    [
        (ALL, features.ALWAYS | features.WITH_RING_BACKEND),
        (VERSION_1, features.ALWAYS & ~(INDIRECT_DESC | features.MRG_RXBUF | features.GUEST_ANNOUNCE)),
        (None, features.ALWAYS),
    ],
)
def test_offer_is_intersection_with_back_end(ring_features: int | None, offered: int) -> None:
    with VirtioLab(far=FakeRingBackend(ring_features)) as lab:
        assert lab.device.host_features == offered


def test_unused_pairs_are_not_taken(back_end: FakeRingBackend) -> None:
    with VirtioLab(VirtioNet(pairs=2), far=back_end) as lab:
        lab.plug()
        assert set(back_end.taken) == {0, 1}
        changes = back_end.changes
        assert lab.driver.command(4, 0, b"\2\0") == 0
        assert back_end.changes == changes + 1
        lab.device.set_status(0)
        assert back_end.taken == {}


def test_reenabled_pairs_resume_from_used_idx(back_end: FakeRingBackend) -> None:
    """`ethtool -L combined 1`, a link that goes down and up, and `ethtool -L combined 2`."""
    with VirtioLab(VirtioNet(pairs=2), far=back_end) as lab:
        lab.plug()
        assert lab.driver.command(4, 0, b"\2\0") == 0
        lab.set_link(False)
        lab.set_link(True)
        assert set(back_end.taken) == {0, 1, 2, 3}
        lab.driver.send(frame(1), frame(2), frame(3), pair=1)
        lab.guest.write(lab.driver.rings[3].used + 2, b"\3\0")  # the back-end returned them
        assert lab.driver.command(4, 0, b"\1\0") == 0
        back_end.bases = [0, 0, 0, 3]
        lab.set_link(False)
        lab.set_link(True)
        assert set(back_end.taken) == {0, 1}
        assert (lab.device.queues[3].last_avail, lab.device.queues[3].used_idx) == (3, 3)


def test_stop_of_unused_ring_waits_for_back_end(back_end: FakeRingBackend) -> None:
    """The back-end still looks at it, to throw away what the driver sends."""
    with VirtioLab(VirtioNet(pairs=2), far=back_end) as lab:
        lab.plug()
        assert lab.driver.command(4, 0, b"\2\0") == 0
        lab.set_link(False)
        lab.set_link(True)
        assert lab.driver.command(4, 0, b"\1\0") == 0
        back_end.prompt = False
        bases: list[int] = []
        lab.device.queue_stopped(3, bases.append)
        assert bases == []
        back_end.bases = [0, 0, 0, 7]
        back_end.answer()
        assert bases == [7]
