"""An unmodified QEMU on vhost-user sockets, in the two ways it can: as a netdev, whose link is the socket, and as
vhost-user-test-device, which reads the config space. One guest has a NIC of each kind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.guests.lab import Vnic, nic, vnic_run
from tests.guests.qemu_lab import interfaces, qemu

from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import QemuNic

Lab = tuple[Vnic, QemuGuest]

DRIVER = "/sys/bus/virtio/drivers/virtio_net"
WAIT_S = 30.0


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    echoes = ["-netdev", "echo,id=net0,ip=10.0.0.2", "-netdev", "echo,id=net1,ip=10.1.0.2"]
    with vnic_run("-name", "vhost", *echoes, *nic("nic0", "net0"), *nic("nic1", "net1")) as running:
        netdev = QemuNic(
            {"driver": "virtio-net-pci"},
            {"type": "vhost-user"},
            {"path": str(running.socket("nic0")), "reconnect-ms": "100"},
        )
        # The test device is told the number of rings (RX, TX, control) and the size of the config space.
        rings = {"num_vqs": 3, "vq_size": 256, "config_size": 24}
        device = QemuNic({"driver": "vhost-user-test-device-pci", "virtio-id": 1, "chardev": "c1", **rings})
        chardev = ["-chardev", f"socket,id=c1,path={running.socket('nic1')}"]
        with qemu(running, netdev, device, options=chardev, tools=True) as guest:
            yield running, guest


@pytest.fixture
def lab(module_lab: Lab) -> Lab:
    """With its drivers bound and all links up, whatever the test before left."""
    running, guest = module_lab
    for name in ("nic0", "nic1"):
        running.qmp.set_link(name, True)
    guest.qmp("set_link", name="nic0", up=True)
    guest.qmp("cont")
    guest.run(
        f"cd {DRIVER}; for i in ../../devices/virtio*; do [ -e $i/driver ] || echo ${{i##*/}} >bind; done"
    )
    for name in up(running, guest).values():
        wait_carrier(guest, name, True)
    return module_lab


def up(running: Vnic, guest: QemuGuest) -> dict[str, str]:
    """Both interfaces up, with an address each; their names by NIC."""
    names = interfaces(running, guest, ["nic0", "nic1"])
    for number, name in enumerate(names[each] for each in ("nic0", "nic1")):
        guest.run(
            f"ip addr flush dev {name}; ip addr add 10.{number}.0.15/24 dev {name}; ip link set {name} up"
        )
    return names


def wait_carrier(guest: QemuGuest, name: str, wanted: bool) -> None:
    deadline = time.monotonic() + WAIT_S
    while guest.run(f"cat /sys/class/net/{name}/carrier") != str(int(wanted)):
        assert time.monotonic() < deadline, f"{name}: carrier is not {wanted}"
        time.sleep(0.02)


def assert_pings(guest: QemuGuest) -> None:
    for number in (0, 1):
        assert guest.ping(f"10.{number}.0.2") is not None, f"no answer over nic{number}"


@pytest.mark.parametrize("name", ["nic0", "nic1"])
def test_carrier_follows_and_traffic_goes_on(lab: Lab, name: str) -> None:
    running, guest = lab
    names = up(running, guest)
    for _ in range(3):
        assert_pings(guest)
        running.qmp.set_link(name, False)
        wait_carrier(guest, names[name], False)
        running.qmp.set_link(name, True)
        wait_carrier(guest, names[name], True)
    assert_pings(guest)


@pytest.mark.parametrize("name", ["nic0", "nic1"])
def test_rings_keep_their_size(lab: Lab, name: str) -> None:
    """QEMU does not tell a vhost-user back-end that a ring was reset, so that the guest may not do that."""
    running, guest = lab
    names = up(running, guest)
    assert guest.try_run(f"ethtool -G {names[name]} rx 64").status != 0
    assert_pings(guest)


def test_qemus_own_set_link_stops_and_restarts_the_rings(lab: Lab) -> None:
    """It resets the device's status before it asks where the rings stand."""
    running, guest = lab
    names = up(running, guest)
    for _ in range(3):
        assert_pings(guest)
        guest.qmp("set_link", name="nic0", up=False)
        wait_carrier(guest, names["nic0"], False)
        guest.qmp("set_link", name="nic0", up=True)
        wait_carrier(guest, names["nic0"], True)
    assert_pings(guest)


def test_link_change_without_driver_is_seen_by_the_next(lab: Lab) -> None:
    """A CONFIG_CHANGE at that time ends QEMU with SIGSEGV, so none is sent."""
    running, guest = lab
    up(running, guest)
    devices = guest.run(f"cd {DRIVER}; echo virtio*").split()
    for device in devices:
        guest.run(f"echo {device} > {DRIVER}/unbind")
    for number in range(5):
        running.qmp.set_link("nic1", bool(number % 2))
    for device in devices:
        guest.run(f"echo {device} > {DRIVER}/bind")
    names = up(running, guest)
    wait_carrier(guest, names["nic1"], False)
    running.qmp.set_link("nic1", True)
    wait_carrier(guest, names["nic1"], True)
    assert_pings(guest)


def test_a_paused_vm_goes_on_where_it_was(lab: Lab) -> None:
    running, guest = lab
    up(running, guest)
    assert_pings(guest)
    for _ in range(3):
        guest.qmp("stop")
        guest.qmp("cont")
        assert_pings(guest)


def test_a_storm_of_changes_ends_in_the_last(lab: Lab) -> None:
    running, guest = lab
    names = up(running, guest)
    for last in (False, True):
        for number in range(500):
            running.qmp.set_link("nic1", bool(number % 2))
        running.qmp.set_link("nic1", last)
        wait_carrier(guest, names["nic1"], last)
    assert_pings(guest)
