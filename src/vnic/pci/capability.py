"""PCI capabilities as plain data: the bytes of each structure and the bits of it that a guest may write.

Device models build them with these functions and pass them to `ConfigSpace.add_capability`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

CAP_PM = 0x01
CAP_MSI = 0x05
CAP_VENDOR = 0x09
CAP_PCIE = 0x10
CAP_MSIX = 0x11
EXTENDED_AER = 0x0001
EXTENDED_DSN = 0x0003

# Offsets from the capability's first byte.
PM_CONTROL = 4
MSI_CONTROL = 2
MSIX_CONTROL = 2
PCIE_DEVICE_CONTROL = 8
DSN_NUMBER = 4

MSI_ENABLE = 0x0001
MSIX_ENABLE = 0x8000
MSIX_MASK_ALL = 0x4000
PM_STATE_MASK = 0x0003
PM_STATES = (0, 3)  # D0 and D3hot; D1 and D2 are optional
PCIE_CAPABILITIES_END = 7
PCIE_FLR_CAPABLE = 0x10  # in the last byte of Device Capabilities
PCIE_FLR = 0x8000  # Device Control: Initiate Function Level Reset
MSIX_ENTRY_SIZE = 16
MSIX_MAX_VECTORS = 2048


@dataclass(frozen=True, slots=True)
class Capability:
    """`body` is everything after the two bytes id and next; `writable` is the mask of bits that a guest may write.

    A guest clears bits in `clears` by writing a one, and cannot set them (PCI's RW1C). `at` is the capability's place
    where the model has one for it, else it gets the next free one.
    """

    id: int
    body: bytes
    writable: bytes = b""
    clears: bytes = b""
    at: int | None = None

    def __post_init__(self) -> None:
        for mask in (self.writable, self.clears):
            if len(mask) not in (0, len(self.body)):
                raise ValueError(f"capability {self.id:#x}: a mask of {len(mask)} bytes for {len(self.body)}")

    @property
    def size(self) -> int:
        return 2 + len(self.body)


@dataclass(frozen=True, slots=True)
class ExtendedCapability:
    """As `Capability`, of PCI Express (PCIe 3.0 §7.9.3): `body` is everything after the header of four bytes."""

    id: int
    version: int
    body: bytes
    writable: bytes = b""
    clears: bytes = b""


_PM_LAYOUT = struct.Struct("<HHBB")  # PMC, PMCSR, bridge extensions, data
assert _PM_LAYOUT.size == 6


def power_management() -> Capability:
    """PM 1.2 (version 3) with D0 and D3hot, no PME; a change to D0 keeps the state (No_Soft_Reset)."""
    return Capability(CAP_PM, _PM_LAYOUT.pack(0x0003, 0x0008, 0, 0), _PM_LAYOUT.pack(0, PM_STATE_MASK, 0, 0))


def intel_power_management(at: int) -> Capability:
    """PM 1.1 as QEMU's e1000e and igb have it: device specific initialization, and PME bits that do nothing."""
    control = PM_STATE_MASK | 0x1F00  # PME_En, Data_Select
    return Capability(
        CAP_PM,
        _PM_LAYOUT.pack(0x0022, 0, 0, 0),
        _PM_LAYOUT.pack(0, control, 0, 0),
        _PM_LAYOUT.pack(0, 0x8000, 0, 0),  # PME_Status
        at,
    )


def msi(vectors: int = 1, at: int | None = None) -> Capability:
    """MSI with 64-bit addresses and no masks (PCI 3.0 §6.8.1); `vectors` is a power of two up to 32."""
    if vectors not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"MSI with {vectors} vectors")
    layout = struct.Struct("<HQHH")  # control, address, data, reserved
    assert layout.size == 14
    control = 0x0080 | (vectors.bit_length() - 1) << 1
    return Capability(
        CAP_MSI, layout.pack(control, 0, 0, 0), layout.pack(0x0071, ~3 & (1 << 64) - 1, 0xFFFF, 0), at=at
    )


def msix(
    vectors: int, table_bar: int, table_offset: int, pba_bar: int, pba_offset: int, at: int | None = None
) -> Capability:
    """MSI-X (PCI 3.0 §6.8.2) with its table and its pending bits at the given places."""
    if not 1 <= vectors <= MSIX_MAX_VECTORS:
        raise ValueError(f"MSI-X with {vectors} vectors")
    table_end, pba_end = table_offset + vectors * MSIX_ENTRY_SIZE, pba_offset + -(-vectors // 64) * 8
    overlap = table_bar == pba_bar and table_offset < pba_end and pba_offset < table_end
    if table_offset % 8 or pba_offset % 8 or overlap:
        raise ValueError("MSI-X table and pending bits overlap or are not aligned to 8 bytes")
    layout = struct.Struct("<HII")  # control, table offset and BAR, pending bits' offset and BAR
    assert layout.size == 10
    return Capability(
        CAP_MSIX,
        layout.pack(vectors - 1, table_offset | table_bar, pba_offset | pba_bar),
        layout.pack(MSIX_ENABLE | MSIX_MASK_ALL, 0, 0),
        at=at,
    )


def pcie_endpoint(at: int | None = None) -> Capability:
    """A PCI Express endpoint, structure version 2 (PCIe 3.0 §7.8): 2.5 GT/s x1, 128-byte payloads, FLR.

    The link registers are those of QEMU's pcie_cap_v1_fill; QEMU's client shows its slot's instead.
    """
    layout = struct.Struct("<HIHHIHHIHHHHIIHHIHHIHH")
    assert layout.size == 58
    values = [0] * 22
    values[0] = 0x0002  # version 2, endpoint
    values[1] = 0x1000_8000  # role-based error reporting, FLR
    values[4] = 0x0000_0011  # x1, 2.5 GT/s
    values[6] = 0x0011
    writable = [0] * 22
    writable[2] = 0x78FF  # payload, read request, error enables, no-snoop; FLR (bit 15) reads as zero
    clears = [0] * 22
    clears[3] = 0x000F  # the four error bits
    return Capability(CAP_PCIE, layout.pack(*values), layout.pack(*writable), layout.pack(*clears), at)


def pcie_endpoint_v1(at: int) -> Capability:
    """A PCI Express endpoint, structure version 1, as QEMU's pcie_endpoint_cap_v1_init: without FLR; a guest can turn
    extended tags on, and nothing else."""
    layout = struct.Struct("<HIHHIHH")
    assert layout.size == 18
    return Capability(
        CAP_PCIE,
        layout.pack(0x0001, 0x8020, 0, 0, 0x411, 0, 0x11),
        layout.pack(0, 0, 0x0100, 0, 0, 0, 0),
        at=at,
    )


def advanced_error_reporting() -> ExtendedCapability:
    """AER (PCIe 3.0 §7.10), as QEMU's pcie_aer_init. No error is ever reported."""
    # Uncorrectable errors' status, mask and severity, correctable errors' status and mask, control; logs
    layout = struct.Struct("<6I44x")
    assert layout.size == 0x48 - 4
    uncorrectable, correctable = 0x03FFF030, 0xF1C1
    return ExtendedCapability(
        EXTENDED_AER,
        2,
        layout.pack(0, 0x02400000, 0x00462030, 0, 0xE000, 0x2A0),
        layout.pack(0, uncorrectable, uncorrectable, 0, correctable, 0x540),
        layout.pack(uncorrectable, 0, 0, correctable, 0, 0),
    )


def device_serial_number() -> ExtendedCapability:
    """The serial number (PCIe 3.0 §7.12), which the model sets at `DSN_NUMBER` once it has its MAC."""
    return ExtendedCapability(EXTENDED_DSN, 1, bytes(8))


def serial_number(mac: bytes) -> int:
    """The EUI-64 of a MAC that QEMU's e1000e and igb have as their serial number."""
    return int.from_bytes(mac[:3] + b"\xff\xff" + mac[3:], "big")


def vendor(body: bytes, writable: bytes = b"") -> Capability:
    """A vendor-specific capability; `body` follows id and next, and its first byte must be the length."""
    if not body or body[0] != len(body) + 2:
        raise ValueError("a vendor capability starts with its own length")
    return Capability(CAP_VENDOR, body, writable)
