"""How long a set_link over QMP takes to become an interrupt of a PCI NIC: the eventfd that a VM gave for it.

The VM is played by this process, which is another one than vnic; `bench/qemu.py` has the same in a real VM.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from functools import partial

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import DEVICE, VERSION_1, VirtioPciDriver
from vnic.protocol.vfio_user import messages as m

CHANGES_PER_ROUND = 200
PAUSE_S = 0.001
TIMEOUT_S = 5.0

METHOD = (
    "QMP request written → the interrupt's eventfd readable in this process, which plays a VM over vfio-user; no"
    f" traffic, {PAUSE_S * 1000:g} ms between changes; e1000 with autonegotiation=off"
)

_F_STATUS = 1 << 16
_STATUS_AT = 6  # of virtio-net's config space
_COMMAND = 4
_MEMORY_AND_MASTER = 0x0006
# The 82540EM's registers (its manual, §13.4), and the link-status-change interrupt.
_ICR, _IMS, _LSC = 0x00C0, 0x00D0, 0x4


def measure(rounds: int) -> Iterator[Row]:
    for name, samples in samples_of_both(rounds * CHANGES_PER_ROUND).items():
        yield row(f"{name}: set_link → eventfd", "µs", samples, METHOD)


def samples_of_both(count: int) -> dict[str, list[float]]:
    """µs until the eventfd, of `count` changes of each NIC's link."""
    options: list[str] = []
    for index, device in enumerate(("virtio-net-pci", "e1000,autonegotiation=off")):
        options += ["-netdev", f"echo,id=net{index},ip=10.0.{index}.2", "-device"]
        where = f"attach.type=vfio-user,attach.path=@/nic{index}.sock"
        options += [f"{device},id=nic{index},netdev=net{index},{where}"]
    with VnicProcess(*options) as vnic:
        return {
            "virtio-net-pci": _virtio(vnic, "nic0", count),
            "e1000": _e1000(vnic, "nic1", count),
        }


def _virtio(vnic: VnicProcess, nic: str, count: int) -> list[float]:
    """By the config vector of MSI-X."""
    with (
        FakeGuestMemory(1 << 20) as memory,
        VfioUserClient(str(vnic.folder / f"{nic}.sock")) as vm,
    ):
        vm.attach(memory)
        vm.set_eventfds(m.IRQ_MSIX, 0, 4)
        driver = VirtioPciDriver(vm)
        rings = [DriverRing(memory, index, 64) for index in range(2)]
        driver.start(VERSION_1 | _F_STATUS, rings, msix=True)
        try:
            eventfd = vm.eventfds[m.IRQ_MSIX, 0]
            return _changes(vnic, nic, eventfd, count, partial(driver.get, _STATUS_AT, 2, DEVICE))
        finally:
            for ring in rings:
                ring.close()


def _e1000(vnic: VnicProcess, nic: str, count: int) -> list[float]:
    """By INTx, which the device masks until the VM has looked."""
    with (
        FakeGuestMemory(1 << 20) as memory,
        VfioUserClient(str(vnic.folder / f"{nic}.sock")) as vm,
    ):
        vm.attach(memory)
        vm.config_write(_COMMAND, _MEMORY_AND_MASTER.to_bytes(2, "little"))
        vm.set_eventfds(m.IRQ_INTX, 0, 1)
        vm.window_write(0, _IMS, _LSC.to_bytes(4, "little"))

        def look() -> None:
            vm.window_read(0, _ICR, 4)
            vm.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)

        look()
        return _changes(vnic, nic, vm.eventfds[m.IRQ_INTX, 0], count, look)


def _changes(
    vnic: VnicProcess, nic: str, eventfd: int, count: int, look: Callable[[], object]
) -> list[float]:
    samples = []
    for change in range(count):
        word = b"true" if change % 2 else b"false"
        request = b'{"execute":"set_link","arguments":{"name":"%s","up":%s}}\n' % (nic.encode(), word)
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        vnic.qmp.send(request)
        if not select.select([eventfd], [], [], TIMEOUT_S)[0]:
            raise Missing(f"no interrupt of {nic} came within {TIMEOUT_S:g} s")
        samples.append((time.perf_counter() - started) * 1e6)
        os.eventfd_read(eventfd)
        vnic.reply()
        look()
    return samples
