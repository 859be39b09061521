"""Tests with a second vnic as the vhost-user back-end of the first: real frames through rings that were handed over."""

from __future__ import annotations

from tests.fakes.loops import no_fd_leak, until
from tests.fakes.vhost_user_rig import Sink
from tests.fakes.vhost_user_wire import WireRig

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.net.network import Network
from vnic.nic.virtio_net import VirtioNet
from vnic.virtio.device_record import DataPath


class SecondVnic:
    """A vnic whose NIC listens where the first one's netdev connects."""

    def __init__(self, rig: WireRig) -> None:
        self.network = Network(rig.loop)
        self.sink = Sink()
        self.netdev = self.network.add_netdev("net0", "sink", self.sink)
        self.device = VirtioNet()
        nic = self.network.add_nic("far0", "virtio-net", self.device, mac=bytes(5) + b"\2", netdev_id="net0")
        self.attachment = VhostUserAttachment(self.device, nic, rig.backend_path, True, rig.loop)
        self.attachment.start()

    def set_link(self, up: bool) -> None:
        self.network.set_link("far0", up, "test")

    def close(self) -> None:
        self.attachment.close()
        self.network.close()


def frame(number: int) -> bytes:
    return b"\xff" * 12 + number.to_bytes(4, "big") * 20


def exchange(rig: WireRig, far: SecondVnic, number: int) -> None:
    """One frame each way, through the guest's own rings."""
    far.sink.frames.clear()
    rig.driver.send(frame(number))
    until(rig.loop, lambda: far.sink.frames)
    assert far.sink.frames == [frame(number)]
    if rig.driver.rings[0].free > 200:
        rig.driver.fill_rx(8)
    rig.settle()
    assert far.netdev.send(0, frame(number + 1))
    until(rig.loop, lambda: rig.driver.rings[0].used_idx != rig.driver.rings[0].last_used)
    assert rig.driver.received() == [frame(number + 1)]


def test_frames_pass_both_ways(rig: WireRig) -> None:
    far = SecondVnic(rig)
    rig.wait_up()
    rig.boot()
    assert rig.serves(DataPath.TAKEN)
    for number in range(0, 20, 2):
        exchange(rig, far, number)
    far.close()
    rig.wait_down()


def test_far_end_link_follows_socket(rig: WireRig) -> None:
    far = SecondVnic(rig)
    rig.wait_up()
    guest = rig.boot()
    assert guest.link_up()
    for number in range(3):
        far.set_link(False)
        rig.wait_down()
        assert guest.config_changes() == 1
        assert not guest.link_up()
        far.set_link(True)
        rig.wait_up()
        assert guest.config_changes() == 1
        assert guest.link_up()
        exchange(rig, far, 2 * number)
    far.close()


def test_link_flaps_keep_ring_position(rig: WireRig) -> None:
    far = SecondVnic(rig)
    rig.wait_up()
    rig.boot()
    for number in range(20):
        exchange(rig, far, 2 * number)
        rig.network.set_link("nic0", False, "test")
        rig.settle()
        assert rig.serves(DataPath.DISCARD)
        rig.network.set_link("nic0", True, "test")
        rig.settle()
        assert rig.serves(DataPath.TAKEN)
    far.close()


def test_back_end_restarts_under_traffic(rig: WireRig) -> None:
    """The back-end dies and returns again and again while the guest sends: rings stay whole, nothing leaks."""
    far = SecondVnic(rig)
    rig.wait_up()
    rig.boot()
    exchange(rig, far, 0)
    far.close()
    rig.wait_down()
    ups = rig.nic.carrier_up_changes
    with no_fd_leak():
        for number in range(60):
            far = SecondVnic(rig)
            for _ in range(5):
                rig.driver.send(frame(number))
                rig.settle()
            rig.wait_up()
            until(rig.loop, lambda: rig.serves(DataPath.TAKEN))
            rig.settle()
            exchange(rig, far, number)
            rig.driver.send(frame(number))
            far.close()
            rig.driver.send(frame(number))
            rig.wait_down()
    assert rig.nic.carrier_up_changes == ups + 60
    tx = rig.driver.rings[1]
    until(rig.loop, lambda: tx.used_idx == tx.avail_idx)
