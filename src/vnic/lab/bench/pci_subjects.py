"""The PCI NICs whose link interrupts `vnic bench eventfd` measures: one row a model, with what its driver does.

The VM and the driver are played; a model that has no interrupt for its link has no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import DEVICE, VERSION_1, VirtioPciDriver
from vnic.protocol.vfio_user import messages as m

MEMORY_BYTES = 1 << 20

_COMMAND, _CAPABILITIES = 0x04, 0x34
_MEMORY_AND_MASTER, _NO_INTX = 0x0006, 0x0400
_CAP_MSIX, _MSIX_ENABLE = 0x11, 0x8000

_F_STATUS = 1 << 16
_STATUS_AT = 6  # of virtio-net's config space


class Ready(NamedTuple):
    """A driver that runs."""

    eventfd: int
    """Of its link's interrupt."""
    look: Callable[[], object]
    """What it does then, after which the next change interrupts again."""


Play = Callable[[VfioUserClient, FakeGuestMemory], Iterator[Ready]]
"""Starts the driver, and ends it afterwards."""


@dataclass(frozen=True, slots=True)
class PciSubject:
    """One row."""

    play: Play
    options: str = ""
    """Of -device, beside the model."""


class Access(NamedTuple):
    """Of a register of a BAR: a write of `value`, or a read."""

    bar: int
    offset: int
    value: int | None = None
    size: int = 4

    def carry_out(self, vm: VfioUserClient) -> None:
        if self.value is None:
            vm.window_read(self.bar, self.offset, self.size)
        else:
            vm.window_write(self.bar, self.offset, self.value.to_bytes(self.size, "little"))


def by_intx(start: tuple[Access, ...], look: tuple[Access, ...]) -> Play:
    """The device masks INTx until the VM has looked."""

    def play(vm: VfioUserClient, _memory: FakeGuestMemory) -> Iterator[Ready]:
        vm.config_write(_COMMAND, _MEMORY_AND_MASTER.to_bytes(2, "little"))
        vm.set_eventfds(m.IRQ_INTX, 0, 1)

        def acknowledge() -> None:
            for access in look:
                access.carry_out(vm)
            vm.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)

        for access in start:
            access.carry_out(vm)
        acknowledge()
        yield Ready(vm.eventfds[m.IRQ_INTX, 0], acknowledge)

    return play


def by_msix(vectors: int, vector: int, start: tuple[Access, ...], look: tuple[Access, ...]) -> Play:
    """`vector` of the `vectors` is the link's."""

    def play(vm: VfioUserClient, _memory: FakeGuestMemory) -> Iterator[Ready]:
        enable_msix(vm, vectors)

        def acknowledge() -> None:
            for access in look:
                access.carry_out(vm)

        for access in start:
            access.carry_out(vm)
        acknowledge()
        vm.interrupts(m.IRQ_MSIX, vector)  # of the start
        yield Ready(vm.eventfds[m.IRQ_MSIX, vector], acknowledge)

    return play


def enable_msix(vm: VfioUserClient, vectors: int) -> None:
    """As the VM's kernel does it, with an eventfd for each vector."""
    vm.config_write(_COMMAND, (_MEMORY_AND_MASTER | _NO_INTX).to_bytes(2, "little"))
    vm.set_eventfds(m.IRQ_MSIX, 0, vectors)
    at = vm.config_read(_CAPABILITIES, 1)[0]
    while vm.config_read(at, 1)[0] != _CAP_MSIX:
        at = vm.config_read(at + 1, 1)[0]
    vm.config_write(at + 2, _MSIX_ENABLE.to_bytes(2, "little"))


def _virtio(vm: VfioUserClient, memory: FakeGuestMemory) -> Iterator[Ready]:
    """By the config vector of MSI-X."""
    vm.set_eventfds(m.IRQ_MSIX, 0, 4)
    driver = VirtioPciDriver(vm)
    rings = [DriverRing(memory, index, 64) for index in range(2)]
    driver.start(VERSION_1 | _F_STATUS, rings, msix=True)
    try:
        yield Ready(vm.eventfds[m.IRQ_MSIX, 0], partial(driver.get, _STATUS_AT, 2, DEVICE))
    finally:
        for ring in rings:
            ring.close()


# The vmxnet3's registers: the address of the shared area, command, events. Its events use the first vector at first.
_DSAL, _DSAH, _CMD, _ECR = 0x10, 0x18, 0x20, 0x40
_GET_LINK, _ECR_LINK = 0xF00D0002, 0x4

# The 82540EM's registers (its manual, §13.4), and the link-status-change interrupt.
_ICR, _IMS, _LSC = 0x00C0, 0x00D0, 0x4
# The RTL8139C+'s (datasheet §6.6 to §6.20), which are written to clear.
_REALTEK_IMR, _REALTEK_ISR, _LINK_CHG, _BMSR = 0x3C, 0x3E, 0x20, 0x64
# The 82574L's (its datasheet, §10.2.4): other causes, of which LSC is one, have vector 2, as Linux has it.
_IVAR, _OTHER = 0x00E4, 1 << 24
_IVAR_OTHER = (2 | 8) << 16
# The 82576's (its datasheet, §8.8): LSC has vector 0, which masks itself until the driver has looked.
_MDIC, _GPIE, _EIMS, _EIAC, _EIAM, _IVAR_MISC = 0x0020, 0x1514, 0x1524, 0x152C, 0x1530, 0x1740
_BMCR_WITHOUT_NEGOTIATION = 1 << 26 | 1 << 21 | 0x0140
_WITHOUT_NEGOTIATION = Access(0, _MDIC, _BMCR_WITHOUT_NEGOTIATION)
_IGB_START = (
    Access(0, _GPIE, 1 << 30 | 1 << 4 | 1),
    Access(0, _IVAR_MISC, 0x80 << 8),
    *(Access(0, register, 1) for register in (_EIAC, _EIAM, _EIMS)),
    Access(0, _IMS, _LSC),
    _WITHOUT_NEGOTIATION,
)

SUBJECTS: Mapping[str, PciSubject] = {
    "virtio-net-pci": PciSubject(_virtio),
    "vmxnet3": PciSubject(
        by_msix(
            vectors=1,
            vector=0,
            start=(Access(1, _DSAL, GUEST_ADDR), Access(1, _DSAH, 0), Access(0, 0, 0)),
            look=(Access(1, _ECR, _ECR_LINK), Access(1, _CMD, _GET_LINK), Access(1, _CMD)),
        )
    ),
    "e1000": PciSubject(
        by_intx(start=(Access(0, _IMS, _LSC),), look=(Access(0, _ICR),)), "autonegotiation=off"
    ),
    "rtl8139": PciSubject(
        by_intx(
            start=(Access(1, _REALTEK_IMR, _LINK_CHG, 2),),
            look=(Access(1, _REALTEK_ISR, _LINK_CHG, 2), Access(1, _BMSR, size=2)),
        )
    ),
    "e1000e": PciSubject(
        by_msix(
            vectors=5,
            vector=2,
            start=(
                Access(0, _IVAR, _IVAR_OTHER),
                Access(0, _IMS, _LSC | _OTHER),
                _WITHOUT_NEGOTIATION,
            ),
            look=(Access(0, _ICR), Access(0, _IMS, _LSC | _OTHER)),
        )
    ),
    "igb": PciSubject(by_msix(10, 0, _IGB_START, (Access(0, _ICR), Access(0, _EIMS, 1)))),
}


@contextmanager
def played(subject: PciSubject, socket: str) -> Iterator[Ready]:
    """A VM on this socket, whose driver runs."""
    with FakeGuestMemory(MEMORY_BYTES) as memory, VfioUserClient(socket) as vm:
        vm.attach(memory)
        driver = subject.play(vm, memory)
        try:
            yield next(driver)
        finally:
            for _ in driver:  # its end
                pass
