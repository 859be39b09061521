"""NICs that come and go under a running VM: by QEMU's device_add and device_del, and by vnic's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import pci_nic, qemu, wait_detached
from tests.integration.process import PATIENT

from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import vfio_user

Lab = tuple[Vnic, QemuGuest]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A guest without a NIC, beside three that it may have."""
    echo = ["-netdev", "echo,id=net0,ip=10.0.2.2", "-netdev", "echo,id=net1,ip=10.0.3.2"]
    nics = [*pci_nic("nic0", netdev="net0", msix="off"), *pci_nic("nic1", "e1000", netdev="net1")]
    echo += ["-netdev", "echo,id=net2,ip=10.0.4.2"]
    with vnic_run("-name", "hotplug", *echo, *nics, command=PATIENT) as running, qemu(running) as guest:
        yield running, guest


def plug(running: Vnic, guest: QemuGuest, nic: str, address: str) -> None:
    guest.device_add(vfio_user(running.socket(nic)), nic)
    guest.run("for i in $(seq 300); do [ -e /sys/class/net/eth0 ] && break; usleep 100000; done", timeout=60)
    guest.run("ip link set eth0 up")
    guest.set_address(address)
    assert guest.wait_carrier(True)


@pytest.mark.parametrize(("nic", "network"), [("nic0", 2), ("nic1", 3)])
def test_qemu_plugs_a_nic_in_and_out_again(lab: Lab, nic: str, network: int) -> None:
    """By INTx: QEMU itself aborts when it lets a vfio-user device with MSI-X go."""
    running, guest = lab
    for _ in range(2):
        plug(running, guest, nic, f"10.0.{network}.15/24")
        assert guest.ping(f"10.0.{network}.2") is not None
        running.qmp.set_link(nic, False)
        assert guest.wait_carrier(False)
        guest.device_del(nic)
        wait_detached(running, nic)
        assert guest.run("ls /sys/class/net") == "lo"
        running.qmp.set_link(nic, True)


@pytest.mark.parametrize("msix", [True, False])
def test_vnic_takes_a_nic_away_under_its_vm(lab: Lab, msix: bool) -> None:
    """The guest sees the cable go; QEMU lives on with a device that is dead, and the id and socket are free."""
    running, guest = lab
    attach = {"type": "vfio-user", "path": "nic2.sock"}
    arguments = {"driver": "virtio-net-pci", "id": "nic2", "netdev": "net2", "attach": attach, "msix": msix}
    running.qmp.execute("device_add", **arguments)
    with qemu(running, "nic2") as other:
        other.set_address("10.0.4.15/24")
        assert other.ping("10.0.4.2") is not None
        running.qmp.execute("device_del", id="nic2")
        running.qmp.wait_event("DEVICE_DELETED", device="nic2")
        assert other.wait_carrier(False)
        assert other.running
        assert not running.socket("nic2").exists()
        running.qmp.execute("device_add", **arguments)
        assert running.socket("nic2").exists()
        assert other.run("echo alive") == "alive"
    running.qmp.execute("device_del", id="nic2")
    running.qmp.wait_event("DEVICE_DELETED", device="nic2")
    assert guest.run("echo alive") == "alive"


def test_vnics_end_is_seen_as_a_pulled_cable() -> None:
    echo = ["-netdev", "echo,id=net0,ip=10.0.2.2"]
    with (
        vnic_run("-name", "end", *echo, *pci_nic("nic0"), command=PATIENT) as running,
        qemu(running, "nic0") as guest,
    ):
        assert guest.carrier()
        guest.run("ping -i 0.01 10.0.2.2 >/dev/null 2>&1 &")
        assert running.end() == 0
        assert guest.wait_carrier(False)
        assert guest.running


def test_nic_behind_a_pcie_root_port_survives_function_level_reset() -> None:
    echo = ["-netdev", "echo,id=net0,ip=10.0.2.2"]
    with vnic_run("-name", "express", *echo, *pci_nic("nic0")) as running:
        nic = vfio_user(running.socket("nic0"), bus="port0")
        port = ["-device", "pcie-root-port,id=port0"]
        with qemu(running, nic, machine="q35", options=port, tools=True) as guest:
            assert "Express (v2) Endpoint" in guest.run("lspci -n -vv -s 1:0.0 2>/dev/null")
            device = guest.run("basename $(readlink -f /sys/class/net/eth0/device)")
            bind = f"echo {device} >/sys/bus/virtio/drivers/virtio_net"
            function = "/sys/bus/pci/devices/0000:01:00.0"
            assert guest.run(f"cat {function}/reset_method").startswith("flr")
            guest.run(f"{bind}/unbind; echo 1 >{function}/reset")
            assert not running.qmp.link("nic0")["guest"]["driver-ok"]
            pci = "echo 0000:01:00.0 >/sys/bus/pci/drivers/virtio-pci"
            guest.run(f"{pci}/unbind; {pci}/bind; ip link set eth0 up")
            guest.set_address("10.0.2.15/24")
            assert guest.wait_carrier(True)
            assert guest.ping("10.0.2.2") is not None
