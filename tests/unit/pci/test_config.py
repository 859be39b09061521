"""Config space: the header's fields, which bits a guest can write, BAR sizing, and the list of capabilities."""

from __future__ import annotations

import pytest

from vnic.pci import capability as cap
from vnic.pci import config as c
from vnic.pci.bar import Bar

IDENT = c.PciId(0x8086, 0x100E, 0x1AF4, 0x1100, 3)


def u16(space: c.ConfigSpace, offset: int) -> int:
    return int.from_bytes(space.read(offset, 2), "little")


def u32(space: c.ConfigSpace, offset: int) -> int:
    return int.from_bytes(space.read(offset, 4), "little")


def walk(space: c.ConfigSpace) -> list[tuple[int, int]]:
    """(id, offset) of the capabilities as a guest finds them."""
    found, at = [], space.data[c.CAPABILITIES]
    while at:
        assert at >= c.HEADER_SIZE
        assert at % 4 == 0
        found.append((space.data[at], at))
        at = space.data[at + 1]
    return found


def test_header() -> None:
    space = c.ConfigSpace(IDENT)
    assert space.read(0, 16) == bytes.fromhex("86800e10 00000000 03000002 00000000".replace(" ", ""))
    assert u32(space, c.SUBSYSTEM_VENDOR_ID) == 0x1100_1AF4
    assert space.read(c.INTERRUPT_LINE, 2) == b"\x00\x01"


def test_guest_write_changes_only_writable_bits() -> None:
    space = c.ConfigSpace(IDENT)
    space.write(0, b"\xff" * c.CONFIG_SIZE)
    assert u32(space, 0) == 0x100E_8086
    assert u16(space, c.COMMAND) == 0x0547
    assert u16(space, c.STATUS) == 0
    assert space.read(c.CACHE_LINE_SIZE, 4) == b"\xff\0\0\0"
    assert space.read(c.INTERRUPT_LINE, 2) == b"\xff\x01"
    assert space.read(c.HEADER_SIZE, 192) == bytes(192)
    assert u32(space, c.BAR0) == 0
    space.reset()
    assert u16(space, c.COMMAND) == 0


def test_status_error_bits_are_cleared_by_one() -> None:
    space = c.ConfigSpace(IDENT)
    space.set(c.STATUS, 2, 0xF910)
    space.write(c.STATUS, b"\x00\x80")
    assert u16(space, c.STATUS) == 0x7910


@pytest.mark.parametrize(
    ("bar", "sized"),
    [
        (Bar(0, 0x20000), 0xFFFE0000),
        (Bar(1, 64, io=True), 0xFFFFFFC1),
        (Bar(2, 4096, prefetchable=True), 0xFFFFF008),
        (Bar(4, 0x4000, is_64bit=True, prefetchable=True), 0xFFFFFFFF_FFFFC00C),
    ],
)
def test_bar_sizing_reads_back_size(bar: Bar, sized: int) -> None:
    space = c.ConfigSpace(IDENT)
    space.add_bar(bar)
    offset, size = c.BAR0 + 4 * bar.index, 4 * bar.registers
    assert space.get(offset, size) == bar.flags
    space.write(offset, b"\xff" * size)
    assert space.get(offset, size) == sized
    space.write(offset, (0xFEBC0000).to_bytes(size, "little"))
    assert space.get(offset, size) == 0xFEBC0000 | bar.flags


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bar(0, 100),
        lambda: Bar(0, 8),
        lambda: Bar(6, 4096),
        lambda: Bar(5, 4096, is_64bit=True),
        lambda: Bar(0, 64, io=True, prefetchable=True),
    ],
)
def test_invalid_bar_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="BAR"):
        make()


def test_bar_over_upper_half_of_64_bit_bar_is_refused() -> None:
    space = c.ConfigSpace(IDENT)
    space.add_bar(Bar(4, 4096, is_64bit=True))
    with pytest.raises(ValueError, match="BAR 5 is taken"):
        space.add_bar(Bar(5, 4096))


def test_capabilities_form_a_list() -> None:
    space = c.ConfigSpace(IDENT)
    assert walk(space) == []
    assert u16(space, c.STATUS) & c.STATUS_CAPABILITIES == 0
    space.add_capability(cap.msix(3, 1, 0, 1, 0x800))
    space.add_capability(cap.power_management())
    space.add_capability(cap.vendor(b"\x05\x01\x02"))
    space.add_capability(cap.pcie_endpoint())
    assert walk(space) == [(0x11, 0x40), (0x01, 0x4C), (0x09, 0x54), (0x10, 0x5C)]
    assert u16(space, c.STATUS) & c.STATUS_CAPABILITIES
    assert space.find(cap.CAP_PM) == 0x4C
    assert space.find(cap.CAP_MSI) == 0
    assert space.find_all(cap.CAP_VENDOR) == [0x54]


def test_capability_beyond_config_space_is_refused() -> None:
    space = c.ConfigSpace(IDENT)
    for _ in range(3):
        space.add_capability(cap.pcie_endpoint())
    with pytest.raises(ValueError, match="no room"):
        space.add_capability(cap.pcie_endpoint())


def test_express_function_has_extended_config_space() -> None:
    space = c.ConfigSpace(IDENT, express=True)
    space.add_capability(cap.pcie_endpoint())
    before = space.read(0, space.size)
    space.write(c.CONFIG_SIZE, b"\xff" * (space.size - c.CONFIG_SIZE))
    assert space.size == 4096
    # The header at 100h ends the list before its first entry.
    assert space.read(c.CONFIG_SIZE, 3840) == bytes(3840)
    space.reset()
    assert space.read(0, space.size) == before


def extended(space: c.ConfigSpace) -> list[tuple[int, int, int]]:
    """(id, version, offset) of the extended capabilities as a guest finds them."""
    found, at = [], c.CONFIG_SIZE
    while at:
        header = u32(space, at)
        found.append((header & 0xFFFF, header >> 16 & 15, at))
        at = header >> 20
    return found


def test_capability_with_a_place_is_put_there() -> None:
    space = c.ConfigSpace(IDENT)
    space.add_capability(cap.intel_power_management(at=0xC8))
    space.add_capability(cap.msi(at=0xD0))
    space.add_capability(cap.vendor(b"\x05\x01\x02"))
    assert walk(space) == [(0x01, 0xC8), (0x05, 0xD0), (0x09, 0x40)]
    with pytest.raises(ValueError, match="no room"):
        space.add_capability(cap.pcie_endpoint_v1(at=0xD4))


def test_extended_capabilities_form_a_list() -> None:
    space = c.ConfigSpace(IDENT, express=True)
    space.add_extended(cap.advanced_error_reporting(), 0x100)
    space.add_extended(cap.device_serial_number(), 0x148)
    assert extended(space) == [(1, 2, 0x100), (3, 1, 0x148)]
    with pytest.raises(ValueError, match="no room"):
        space.add_extended(cap.device_serial_number(), 0x148)
    with pytest.raises(ValueError, match="no room"):
        c.ConfigSpace(IDENT).add_extended(cap.device_serial_number(), 0x100)


def test_reset_gives_writable_bits_their_first_values() -> None:
    space = c.ConfigSpace(IDENT, express=True)
    space.add_extended(cap.advanced_error_reporting(), 0x100)
    before = space.read(0, space.size)
    space.write(c.CONFIG_SIZE, b"\xff" * 0x48)
    assert u32(space, 0x10C) == 0x03FFF030
    assert u32(space, 0x104) == 0
    space.reset()
    assert space.read(0, space.size) == before


def test_serial_number_is_made_of_the_mac() -> None:
    assert cap.serial_number(bytes.fromhex("525400123456")).to_bytes(8, "little").hex() == "563412ffff005452"
