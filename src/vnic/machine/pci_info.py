"""query-pci: the NICs that are PCI functions, as qapi/pci.json has them.

`Machine` calls it for the monitor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vnic.monitor.interfaces import (
    PciClass,
    PciDeviceId,
    PciDeviceInfo,
    PciInfo,
    PciRegion,
)

if TYPE_CHECKING:
    from vnic.machine.builder import PluggedNic
    from vnic.pci.bar import Bar
    from vnic.pci.device import PciDevice

SLOTS = 32


def pci_info(plugged: Iterable[PluggedNic]) -> list[PciInfo]:
    """One bus with all of them, each in the slot that its `addr=` names, else in the next one."""
    functions = [each for each in plugged if each.function is not None]
    taken = {each.slot for each in functions if each.slot is not None}
    free = (slot for slot in range(SLOTS) if slot not in taken)
    devices = [
        _device(each.nic.name, each.function, each.slot if each.slot is not None else next(free, SLOTS - 1))
        for each in functions
        if each.function is not None
    ]
    return [PciInfo(0, devices)] if devices else []


def _device(name: str, function: PciDevice, slot: int) -> PciDeviceInfo:
    from vnic.pci import config as at

    def read(offset: int, length: int) -> int:
        return int.from_bytes(function.config_read(offset, length), "little")

    pin = read(at.INTERRUPT_PIN, 1)
    command = read(at.COMMAND, 2)
    ident = PciDeviceId(
        read(at.DEVICE_ID, 2),
        read(at.VENDOR_ID, 2),
        read(at.SUBSYSTEM_ID, 2),
        read(at.SUBSYSTEM_VENDOR_ID, 2),
    )
    regions = [
        _region(bar, read(at.BAR0 + 4 * index, 4 * bar.registers), command)
        for index, bar in function.bars.items()
    ]
    return PciDeviceInfo(
        bus=0,
        slot=slot,
        function=0,
        class_info=PciClass(read(at.CLASS_CODE, 3) >> 8, "Ethernet controller"),
        id=ident,
        irq=read(at.INTERRUPT_LINE, 1) if pin else None,
        irq_pin=pin,
        qdev_id=name,
        regions=regions,
    )


def _region(bar: Bar, register: int, command: int) -> PciRegion:
    from vnic.pci import config as at

    enabled = command & (at.COMMAND_IO if bar.io else at.COMMAND_MEMORY)
    address = register & bar.address_mask if enabled else -1
    if bar.io:
        return PciRegion(bar.index, "io", address, bar.size)
    return PciRegion(bar.index, "memory", address, bar.size, bar.prefetchable, bar.is_64bit)
