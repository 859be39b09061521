"""What all PCI NICs of vnic have to show in an unmodified QEMU, one model a row of `models.py`.

One guest holds a NIC of each; a second one has them plugged in while it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import Vnic, vnic_run
from tests.guests.model_lab import VLAN, ModelLab, Port, model_lab, modules
from tests.guests.models import MODELS, GuestModel
from tests.guests.qemu_lab import interface, pci_nic, qemu, transfer, wait_detached
from tests.integration.process import PATIENT

from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import vfio_user

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOLDEN = Path(__file__).with_name("golden") / "models"
FOREIGN_FRAMES = 20

NAMES = [model.name for model in MODELS]


@pytest.fixture(scope="module")
def module_lab() -> Iterator[ModelLab]:
    with model_lab() as lab:
        yield lab


@pytest.fixture(params=NAMES)
def port(module_lab: ModelLab, request: pytest.FixtureRequest) -> Port:
    """Each model's NIC, as `Port.restore` makes it, whatever the test before left."""
    found = module_lab.ports[request.param]
    found.restore()
    return found


def test_kernels_driver_binds_and_the_guest_pings(port: Port) -> None:
    assert f"driver: {port.model.driver}\n" in port.guest.run(f"ethtool -i {port.interface}")
    found = port.qmp.link(port.nic)["guest"]
    assert found["attached"]
    assert found["driver-ok"]
    assert port.pings()


def test_set_link_as_every_tool_in_the_guest_tells_it(port: Port) -> None:
    model = port.model
    for up in (False, True):
        port.qmp.forget_events()
        port.guest.run("dmesg -c")
        port.qmp.set_link(port.nic, up)
        if model.confirms:
            seen = port.qmp.wait_event("LINK_SEEN", name=port.nic)["data"]
            assert seen["link"] == ("up" if up else "down")
        port.wait(up)
        if model.link is not None:
            lines = {line.strip() for line in port.guest.run(f"ethtool {port.interface}").splitlines()}
            assert ("Link detected: yes" if up else "Link detected: no") in lines
            assert not up or model.ethtool <= lines
        if model.log:
            assert model.log[up].format(port.interface) in port.guest.run("dmesg")
    assert port.pings()


def test_files_arrive_whole_both_ways(port: Port) -> None:
    size, folder = port.model.transfer_mib, f"/tmp/{port.nic}"
    transfer(port.guest, port.far, port.address(), folder, size)
    transfer(port.far, port.guest, port.address(far=True), folder, size)


def test_vlan_passes(port: Port) -> None:
    near, far = f"{port.interface}.{VLAN}", f"{port.far_interface}.{VLAN}"
    port.guest.run(
        f"ip link add link {port.interface} name {near} type vlan id {VLAN}; ip link set {near} up;"
        f" ip addr add {port.address(vlan=True)}/24 dev {near}"
    )
    port.far.run(
        f"ip link add link {port.far_interface} name {far} type vlan id {VLAN}; ip link set {far} up;"
        f" ip addr add {port.address(far=True, vlan=True)}/24 dev {far}"
    )
    try:
        assert port.pings(vlan=True)
    finally:
        port.guest.run(f"ip link del {near}")
        port.far.run(f"ip link del {far}")
    assert port.pings()


def test_largest_frames_of_the_mtu_pass(port: Port) -> None:
    mtu = port.model.mtu
    port.guest.run(f"ip link set {port.interface} mtu {mtu}")
    port.far.run(f"ip link set {port.far_interface} mtu {mtu}")
    try:
        port.wait(True)
        payload = mtu - 28  # without the headers of IPv4 and ICMP
        assert " 0% packet loss" in port.guest.run(
            f"ping -c 3 -i 0.1 -W 10 -s {payload} {port.address(far=True)}"
        )
    finally:
        port.far.run(f"ip link set {port.far_interface} mtu 1500")


def received(guest: QemuGuest) -> int:
    """How many packets the guest's drivers have passed to the kernel: the first number of /proc/net/softnet_stat."""
    return int(guest.run("cat /proc/net/softnet_stat").split()[0], 16)


def test_frames_for_others_are_taken_only_while_promiscuous(port: Port) -> None:
    foreign = f"10.9.{port.network}.77"
    mac = "02:00:00:00:00:77"
    port.far.run(f"arp -i {port.far_interface} -s {foreign} {mac}")
    assert port.pings()  # both know each other's address from now on
    for promiscuous in (True, False):
        port.guest.run(f"ip link set {port.interface} promisc {'on' if promiscuous else 'off'}")
        before = received(port.guest)
        port.far.run(f"ping -q -c {FOREIGN_FRAMES} -i 0.01 -W 1 {foreign} >/dev/null || true")
        assert port.pings()  # it comes behind the others
        assert (received(port.guest) - before >= FOREIGN_FRAMES) == promiscuous


def test_unbinding_and_binding_the_driver_keeps_the_link_down(port: Port) -> None:
    port.qmp.set_link(port.nic, False)
    where = port.guest.run(f"readlink -f /sys/class/net/{port.interface}/device/driver")
    device = port.guest.run(f"basename $(readlink -f /sys/class/net/{port.interface}/device)")
    port.guest.run(f"echo {device} >{where}/unbind; ! test -e /sys/class/net/{port.interface}")
    assert not port.qmp.link(port.nic)["guest"]["driver-ok"]
    port.guest.run(f"echo {device} >{where}/bind")
    port.interface = interface(port.lab.running, port.guest, port.nic)
    port.guest.run(f"ip link set {port.interface} up")
    port.wait(False)
    port.restore()
    assert port.pings()


def test_lspci_shows_a_sane_device(port: Port) -> None:
    device = port.guest.run(f"basename $(readlink -f /sys/class/net/{port.interface}/device)")
    text = port.guest.run(f"lspci -nvvv -s {device} 2>/dev/null").strip() + "\n"
    text = re.sub(r"^\S+ ", "*:*.* ", text)
    text = re.sub(r"\n\tPhysical Slot: \d+", "", text)
    text = re.sub(r"(Memory|I/O ports) at [0-9a-f]+", r"\1 at *", text)
    text = re.sub(r"IRQ \d+", "IRQ *", text)
    text = re.sub(r"Serial Number \S+", "Serial Number *", text)
    text = re.sub(r"Address: [0-9a-f]+  Data: [0-9a-f]+", "Address: *  Data: *", text)
    golden = GOLDEN / f"{port.nic}.lspci"
    assert golden.exists(), f"{golden} has to be:\n{text}"
    assert text == golden.read_text()


def test_rebooted_guest_finds_all_links_as_they_were(module_lab: ModelLab) -> None:
    """Every other link is down. One reboot tells of all models."""
    ports = list(module_lab.ports.values())
    for port in ports:
        port.qmp.set_link(port.nic, bool(port.network % 2))
    module_lab.guest.reboot()
    for port in ports:
        port.interface = interface(module_lab.running, module_lab.guest, port.nic)
        port.wait(bool(port.network % 2))
    module_lab.booted()
    assert [port.nic for port in ports if not port.pings()] == []


# -- hot plug -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_guest() -> Iterator[tuple[Vnic, QemuGuest]]:
    """A guest without a NIC, beside those that it may have."""
    options = []
    for index, model in enumerate(MODELS):
        options += ["-netdev", f"echo,id=net{index},ip=10.0.{index}.2"]
        options += pci_nic(model.name, model.device, f"net{index}")
    with (
        vnic_run("-name", "hotplug", *options, command=PATIENT) as running,
        qemu(running, modules=modules(MODELS)) as guest,
    ):
        yield running, guest


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_qemu_plugs_it_into_a_running_guest(empty_guest: tuple[Vnic, QemuGuest], model: GuestModel) -> None:
    """And out again, where QEMU can: it aborts when it lets a vfio-user device with MSI-X go."""
    running, guest = empty_guest
    network, mac = MODELS.index(model), running.qmp.link(model.name)["mac"]
    look = f"grep -qs {mac} /sys/class/net/*/address"
    guest.device_add(vfio_user(running.socket(model.name)), model.name)
    guest.run(f"for i in $(seq 300); do {look} && break; usleep 100000; done; {look}", timeout=60)
    name = interface(running, guest, model.name)
    guest.run(f"ip link set {name} up")
    guest.set_address(f"10.0.{network}.15/24", name)
    assert model.link is None or guest.wait_carrier(True, name)
    assert guest.ping(f"10.0.{network}.2") is not None
    if not model.msix:
        guest.device_del(model.name)
        wait_detached(running, model.name)
        assert guest.try_run(look).status != 0
