"""Each capability: its bytes as the specifications lay them out, and the bits that a guest can write."""

from __future__ import annotations

import pytest

from vnic.pci import capability as cap
from vnic.pci.config import CONFIG_SIZE, ConfigSpace, PciId


def placed(capability: cap.Capability) -> tuple[ConfigSpace, int]:
    space = ConfigSpace(PciId(1, 2, 3, 4))
    return space, space.add_capability(capability)


def after_all_ones(capability: cap.Capability) -> bytes:
    space, at = placed(capability)
    space.write(0, b"\xff" * CONFIG_SIZE)
    return space.read(at, capability.size)


def test_power_management() -> None:
    assert cap.power_management().size == 8
    space, at = placed(cap.power_management())
    assert space.read(at, 8) == bytes.fromhex("0100030008000000")
    assert after_all_ones(cap.power_management())[4] == 0x0B


def test_msi() -> None:
    space, at = placed(cap.msi(4))
    assert space.read(at, 4) == bytes.fromhex("05008400")
    assert after_all_ones(cap.msi(4)) == bytes.fromhex("0500f500fcffffffffffffffffff0000")
    with pytest.raises(ValueError, match="3 vectors"):
        cap.msi(3)


def test_msix() -> None:
    space, at = placed(cap.msix(4, 1, 0, 1, 0x800))
    assert space.read(at, 12) == bytes.fromhex("110003000100000001080000")
    assert after_all_ones(cap.msix(4, 1, 0, 1, 0x800)) == bytes.fromhex("110003c00100000001080000")
    for bad in (0, 2049):
        with pytest.raises(ValueError, match="vectors"):
            cap.msix(bad, 0, 0, 0, 0x10000)
    with pytest.raises(ValueError, match="overlap"):
        cap.msix(129, 0, 0, 0, 0x800)


def test_pcie_endpoint() -> None:
    capability = cap.pcie_endpoint()
    assert capability.size == 60
    space, at = placed(capability)
    assert space.get(at + 2, 2) == 2  # version 2, endpoint
    assert space.get(at + 4, 4) & 1 << 28  # FLR
    assert space.get(at + 12, 4) & 0x3FF == 0x11  # x1, 2.5 GT/s
    space.set(at + 10, 2, 0x000F)
    space.write(at + 8, b"\xff\xff\x05\x00")
    assert space.get(at + 8, 2) == 0x78FF  # FLR reads as zero
    assert space.get(at + 10, 2) == 0x000A


def test_vendor_states_its_length() -> None:
    assert cap.vendor(b"\x04\x00").size == 4
    with pytest.raises(ValueError, match="length"):
        cap.vendor(b"\x05\x00")


def test_capability_masks_have_length_of_body() -> None:
    with pytest.raises(ValueError, match="mask"):
        cap.Capability(1, b"abc", b"\xff")
