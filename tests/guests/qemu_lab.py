"""QEMU guests on PCI NICs of a running vnic, for the tests of this folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tests.guests.lab import TIMEOUT_S, Vnic
from tests.needs import need

from vnic.lab.guest import qemu_kit
from vnic.lab.guest.console import DEFAULT_TIMEOUT
from vnic.lab.guest.linux import CARRIER_TIMEOUT
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import QemuNic


def pci_nic(name: str, driver: str = "virtio-net-pci", netdev: str | None = "net0", **more: str) -> list[str]:
    """vnic's option of a PCI NIC on a vfio-user socket of its own name."""
    words = [f"{driver},id={name},attach.type=vfio-user,attach.path={name}.sock"]
    words += [f"netdev={netdev}"] if netdev else []
    return ["-device", ",".join(words + [f"{key}={value}" for key, value in more.items()])]


def qemu_guest(running: Vnic, *nics: str | QemuNic, **more: Any) -> QemuGuest:
    """A guest, not booted yet, on these NICs of vnic, by name, or on those given."""
    need("qemu-guest")
    devices = [nic if isinstance(nic, QemuNic) else running.socket(nic) for nic in nics]
    return QemuGuest(devices, kit=qemu_kit.find_qemu(), **more)


@contextlib.contextmanager
def qemu(running: Vnic, *nics: str | QemuNic, **more: Any) -> Iterator[QemuGuest]:
    """The same, booted."""
    with qemu_guest(running, *nics, **more) as guest:
        yield guest


def wait_detached(running: Vnic, nic: str) -> None:
    """Until vnic has noticed that the VM of a NIC is gone, and has let it go."""
    deadline = time.monotonic() + TIMEOUT_S
    while running.qmp.link(nic)["guest"]["attached"]:
        assert time.monotonic() < deadline, running.log()
        time.sleep(0.01)


def interface(running: Vnic, guest: QemuGuest, nic: str) -> str:
    """The name that the guest gave to a NIC of vnic; it is up."""
    return interfaces(running, guest, [nic])[nic]


def interfaces(running: Vnic, guest: QemuGuest, nics: Sequence[str]) -> dict[str, str]:
    """The same for several."""
    macs = {running.qmp.link(nic)["mac"]: nic for nic in nics}
    lines = guest.run("cd /sys/class/net; for i in eth*; do echo $i $(cat $i/address); done").splitlines()
    found = {macs[mac]: name for name, mac in map(str.split, lines) if mac in macs}
    assert found.keys() == set(nics), lines
    return found


def resize_rings(where: Commands, interface: str) -> None:
    """`ethtool -G`, down and up again: the driver has its rings reset one by one (VIRTIO_F_RING_RESET)."""
    for size in (64, 256):
        where.run(f"ethtool -G {interface} rx {size} tx {size}")
        assert where.run(f"ethtool -g {interface}").split("Current")[1].count(f"\t{size}") == 2


def interrupts(guest: QemuGuest, name: str) -> int:
    """How often the guest was interrupted on behalf of what /proc/interrupts calls so, on its one CPU."""
    lines = guest.run("cat /proc/interrupts").replace(",", "").splitlines()
    counts = [int(line.split()[1]) for line in lines if name in line.split()[3:]]
    assert counts, f"{name} is not in /proc/interrupts"
    return sum(counts)


class Namespace:
    """A network namespace of a guest: what is sent from the interfaces in there goes over their wires."""

    def __init__(self, guest: QemuGuest) -> None:
        self._guest = guest
        # Its own /sys shows its own interfaces; /tmp is everybody's.
        hold = "mount -t sysfs sys /sys; touch /tmp/held; exec sleep 100000"
        self._holder = guest.run(
            f"rm -f /tmp/held; unshare -n -m sh -c '{hold}' >/dev/null 2>&1 & echo $!;"
            " until [ -e /tmp/held ]; do usleep 10000; done"
        )

    def take(self, interface: str, address: str) -> None:
        """Move an interface of the guest into it, and bring it up with this address."""
        self._guest.run(f"ip link set {interface} netns {self._holder}")
        self.run(f"ip addr add {address} dev {interface}; ip link set {interface} up")

    def run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run a command without single quotes."""
        return self._guest.run(f"nsenter -t {self._holder} -n -m sh -c '{command}'", timeout)


class Apart(Namespace):
    """A namespace with one interface."""

    def __init__(self, guest: QemuGuest, interface: str, address: str) -> None:
        super().__init__(guest)
        self.interface = interface
        self.take(interface, address)

    def wait_carrier(self, up: bool, seconds: int = CARRIER_TIMEOUT) -> None:
        look = f"[ $(cat /sys/class/net/{self.interface}/carrier) = {up:d} ] && exit 0; usleep 5000"
        self.run(
            f"for i in $(seq {seconds * 200}); do {look}; done; exit 1", timeout=seconds + DEFAULT_TIMEOUT
        )


class Commands(Protocol):
    """Where commands run: a guest, or a part of one."""

    def run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str: ...


def transfer(server: Commands, client: Commands, address: str, folder: str, size_mib: float = 10) -> None:
    """Fetch a file of random bytes by HTTP, and compare its SHA-256 at both ends."""
    server.run(
        f"mkdir -p {folder}; dd if=/dev/urandom of={folder}/file bs=1k count={round(size_mib * 1024)} 2>/dev/null"
    )
    server.run(f"httpd -p {address}:80 -h {folder}")
    wanted = server.run(f"sha256sum <{folder}/file")
    assert client.run(f"wget -q -O - http://{address}/file | sha256sum", timeout=300) == wanted
    server.run(f"killall httpd; rm -r {folder}")
