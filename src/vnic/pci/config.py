"""A device's config space: type 0 header and capabilities, with the bits a guest may write.

`PciDevice` owns one; attachments read and write it. Every byte has a mask, like QEMU's PCIDevice.wmask, so that
only registers whose write has an effect need code.
"""

from __future__ import annotations

from dataclasses import dataclass

from vnic.pci.bar import Bar
from vnic.pci.capability import Capability, ExtendedCapability
from vnic.record import Record, RecordError, require

CONFIG_SIZE = 256
EXTENDED_CONFIG_SIZE = 4096
"""Of a PCI Express function (PCIe 3.0 §7.2.2): its extended capabilities start at `CONFIG_SIZE`."""
HEADER_SIZE = 64

# Type 0 header, PCI 3.0 §6.1: name, offset, size in bytes.
VENDOR_ID = 0x00  # 2
DEVICE_ID = 0x02  # 2
COMMAND = 0x04  # 2
STATUS = 0x06  # 2
REVISION = 0x08  # 1
CLASS_CODE = 0x09  # 3
CACHE_LINE_SIZE = 0x0C  # 1
BAR0 = 0x10  # 6 of 4
SUBSYSTEM_VENDOR_ID = 0x2C  # 2
SUBSYSTEM_ID = 0x2E  # 2
CAPABILITIES = 0x34  # 1
INTERRUPT_LINE = 0x3C  # 1
INTERRUPT_PIN = 0x3D  # 1

COMMAND_IO = 0x0001
COMMAND_MEMORY = 0x0002
COMMAND_MASTER = 0x0004
COMMAND_PARITY = 0x0040
COMMAND_SERR = 0x0100
COMMAND_INTX_DISABLE = 0x0400
STATUS_INTERRUPT = 0x0008
STATUS_CAPABILITIES = 0x0010
_STATUS_ERRORS = 0xF900  # RW1C: parity, signalled and received aborts, SERR

CLASS_ETHERNET = 0x020000


@dataclass(frozen=True, slots=True)
class PciId:
    """The device's ids. `class_code` holds base class, subclass and interface."""

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    revision: int = 0
    class_code: int = CLASS_ETHERNET


class ConfigSpaceRecord(Record, frozen=True):
    data: bytes
    """All bytes of a config space."""


class ConfigSpace:
    """The bytes, their masks and the list of capabilities.

    `read` and `write` take any range inside `size`, which is `CONFIG_SIZE` or, for an `express` function,
    `EXTENDED_CONFIG_SIZE`; the caller checks it.
    """

    def __init__(self, ident: PciId, *, interrupt_pin: int = 1, express: bool = False) -> None:
        self.ident = ident
        # Without extended capabilities, the header at 100h is zero and ends their list (§7.9.1).
        self.size = EXTENDED_CONFIG_SIZE if express else CONFIG_SIZE
        self.data = bytearray(self.size)
        self._writable = bytearray(self.size)
        self._clears = bytearray(self.size)
        self._defaults = bytearray(self.size)
        """The bits that a guest can write and that a reset sets."""
        self._free = HEADER_SIZE
        self._last_link = CAPABILITIES
        self._last_extended = 0
        self._taken: list[tuple[int, int]] = []
        """Where capabilities start and end."""
        self._offsets: dict[int, list[int]] = {}
        for offset, size, value in (
            (VENDOR_ID, 2, ident.vendor),
            (DEVICE_ID, 2, ident.device),
            (REVISION, 1, ident.revision),
            (CLASS_CODE, 3, ident.class_code),
            (SUBSYSTEM_VENDOR_ID, 2, ident.subsystem_vendor),
            (SUBSYSTEM_ID, 2, ident.subsystem),
            (INTERRUPT_PIN, 1, interrupt_pin),
        ):
            self.set(offset, size, value)
        command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR
        self._writable[COMMAND : COMMAND + 2] = (command | COMMAND_INTX_DISABLE).to_bytes(2, "little")
        # §6.2.4: writable for a bus master; PCI Express keeps it writable, without effect.
        self._writable[CACHE_LINE_SIZE] = self._writable[INTERRUPT_LINE] = 0xFF
        self._clears[STATUS : STATUS + 2] = _STATUS_ERRORS.to_bytes(2, "little")

    def add_bar(self, bar: Bar) -> None:
        """Add the window's registers; the guest sets the address."""
        offset, size = BAR0 + 4 * bar.index, 4 * bar.registers
        if any(self._writable[offset : offset + size]):
            raise ValueError(f"BAR {bar.index} is taken")
        self.set(offset, size, bar.flags)
        self._writable[offset : offset + size] = bar.address_mask.to_bytes(size, "little")

    def add_capability(self, capability: Capability) -> int:
        """Append to the list, at its place or the next free multiple of four; returns the capability's offset."""
        size = capability.size
        offset = self._free if capability.at is None else capability.at
        taken = any(offset < end and start < offset + size for start, end in self._taken)
        if offset + size > CONFIG_SIZE or offset < HEADER_SIZE or taken:
            raise ValueError(f"no room for capability {capability.id:#x} at {offset:#x}")
        self.data[offset : offset + size] = bytes((capability.id, 0)) + capability.body
        self._set_masks(offset + 2, capability)
        self.data[self._last_link] = offset
        self.data[STATUS] |= STATUS_CAPABILITIES
        self._last_link = offset + 1
        self._taken.append((offset, offset + size))
        if capability.at is None:
            self._free = (offset + size + 3) & ~3
        self._offsets.setdefault(capability.id, []).append(offset)
        return offset

    def add_extended(self, capability: ExtendedCapability, offset: int) -> None:
        """Append to the list of extended capabilities, whose first one is at `CONFIG_SIZE`."""
        first = CONFIG_SIZE if not self._last_extended else self._last_extended + 4
        if offset & 3 or offset < first or offset + 4 + len(capability.body) > self.size:
            raise ValueError(f"no room for extended capability {capability.id:#x} at {offset:#x}")
        self.set(offset, 4, capability.id | capability.version << 16)
        self.data[offset + 4 : offset + 4 + len(capability.body)] = capability.body
        self._set_masks(offset + 4, capability)
        if self._last_extended:
            self.set(self._last_extended + 2, 2, self.get(self._last_extended + 2, 2) | offset << 4)
        self._last_extended = offset

    def _set_masks(self, offset: int, capability: Capability | ExtendedCapability) -> None:
        for masks, mask in ((self._writable, capability.writable), (self._clears, capability.clears)):
            masks[offset : offset + len(mask)] = mask
        for at, bits in enumerate(capability.writable):
            self._defaults[offset + at] = capability.body[at] & bits

    def find(self, capability_id: int) -> int:
        """Offset of the first capability of that id, 0 if there is none."""
        return self._offsets.get(capability_id, [0])[0]

    def find_all(self, capability_id: int) -> list[int]:
        """Offsets of all capabilities of that id, in the order they were added."""
        return list(self._offsets.get(capability_id, []))

    def get(self, offset: int, size: int) -> int:
        """The little-endian value of a register."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int) -> None:
        """Set a register from the device's side, whatever its mask."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write: it changes only the bits in the mask."""
        for at, value in enumerate(data, offset):
            mask = self._writable[at]
            self.data[at] = (self.data[at] & ~mask & ~(value & self._clears[at])) | (value & mask)

    def save(self) -> ConfigSpaceRecord:
        return ConfigSpaceRecord(data=bytes(self.data))

    def check(self, record: ConfigSpaceRecord) -> None:
        """Raise RecordError unless the record is of the same function: bits that nothing can change must be equal."""
        require(len(record.data) == self.size, "data", f"has {len(record.data)} bytes, not {self.size}")
        for at, (ours, theirs) in enumerate(zip(self.data, record.data, strict=True)):
            changes = self._writable[at] | self._clears[at] | (STATUS_INTERRUPT if at == STATUS else 0)
            if (ours ^ theirs) & ~changes:
                raise RecordError("data", f"has {theirs:#04x} at {at:#x}, not {ours:#04x}")

    def restore(self, record: ConfigSpaceRecord) -> None:
        self.check(record)
        self.data[:] = record.data

    def reset(self) -> None:
        """Give every bit that a guest can write its first value (a bus reset or FLR)."""
        data, writable, clears, defaults = (
            int.from_bytes(each, "little")
            for each in (self.data, self._writable, self._clears, self._defaults)
        )
        self.set(0, self.size, data & ~(writable | clears) | defaults)
