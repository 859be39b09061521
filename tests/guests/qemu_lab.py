"""QEMU guests on PCI NICs of a running vnic, for the tests of this folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tests.conftest import require
from tests.guests.lab import Vnic

from vnic.guest import qemu_kit
from vnic.guest.qemu import QemuGuest
from vnic.guest.qemu_nic import QemuNic


def pci_nic(name: str, driver: str = "virtio-net-pci", netdev: str | None = "net0", **more: str) -> list[str]:
    """vnic's option of a PCI NIC on a vfio-user socket of its own name."""
    words = [f"{driver},id={name},attach.type=vfio-user,attach.path={name}.sock"]
    words += [f"netdev={netdev}"] if netdev else []
    return ["-device", ",".join(words + [f"{key}={value}" for key, value in more.items()])]


@contextlib.contextmanager
def qemu(running: Vnic, *nics: str | QemuNic, **more: Any) -> Iterator[QemuGuest]:
    """A booted guest on these NICs of vnic, by name, or on those given."""
    kit = qemu_kit.find_qemu()
    require(kit, "the QEMU guest kit (`vnic demo --guest qemu` downloads it)")
    devices = [nic if isinstance(nic, QemuNic) else running.socket(nic) for nic in nics]
    with QemuGuest(devices, kit=kit, **more) as guest:
        yield guest


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


def interrupts(guest: QemuGuest, name: str) -> int:
    """How often the guest was interrupted on behalf of what /proc/interrupts calls so, on its one CPU."""
    lines = guest.run("cat /proc/interrupts").replace(",", "").splitlines()
    counts = [int(line.split()[1]) for line in lines if name in line.split()[3:]]
    assert counts, f"{name} is not in /proc/interrupts"
    return sum(counts)
