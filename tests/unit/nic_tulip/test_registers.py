"""Registers as QEMU has them: the SROM, the MII, resets, accesses of other widths, and what the guest is told of."""

from __future__ import annotations

import struct
import zlib

import pytest
from tests.fakes.tulip_driver import IO, MMIO
from tests.unit.nic_tulip.conftest import MAC, Rig


def test_srom_holds_the_address_and_a_phy(rig: Rig) -> None:
    words = [rig.driver.srom_word(at) for at in range(64)]
    data = struct.pack("<64H", *words)
    assert data[:4] == bytes.fromhex("3c104f10")
    assert data[16:20] == bytes.fromhex("47080401")
    assert data[20:26] == MAC
    assert data[27] == 30
    assert data[30:47] == bytes.fromhex("0008018d03000000 0078e0010050001800".replace(" ", ""))
    assert words[63] == zlib.crc32(data[:126]) & 0xFFFF


def test_phy_registers(rig: Rig) -> None:
    driver = rig.driver
    assert [driver.mii_read(1, at) for at in range(6)] == [0x3100, 0x702C, 0x7810, 0, 0x0501, 0x4181]
    assert driver.mii_read(3, 1) == 0xFFFF
    driver.mii_write(1, 4, 0x01E1)
    driver.mii_write(1, 1, 0)
    driver.mii_write(3, 4, 0)
    assert driver.mii_read(1, 4) == 0x0501 & ~0xC01F | 0x01E1 & 0xC01F
    assert driver.mii_read(1, 1) == 0x702C


@pytest.mark.parametrize("region", [IO, MMIO])
def test_values_after_a_reset(region: int) -> None:
    rig = Rig(region=region)
    for _ in range(2):
        assert [rig.driver.read(at) for at in (0, 3, 5, 6, 7, 8)] == [
            *(0xFE000000, 0, 0xF0000000, 0x32000040, 0xF3FE0000, 0xE0000000)
        ]
        rig.driver.start()
        rig.driver.write(0, 1)
    rig.close()


def test_other_widths(rig: Rig) -> None:
    window = rig.device.window_read
    rig.driver.write(14, 0x12345678)
    assert window(MMIO, 8 * 14, 2) == b"\x78\x56"
    assert window(MMIO, 8 * 14 + 1, 1) == b"\x56"
    assert window(MMIO, 8 * 14 + 4, 4) == bytes(4)
    assert window(MMIO, 8 * 14, 8) == b"\x78\x56\x34\x12" + bytes(4)
    rig.device.window_write(MMIO, 8 * 14, b"\x01\x02")
    rig.device.window_write(MMIO, 8 * 14 + 2, b"\x01\x02")
    assert rig.driver.read(14) == 0x0201


def test_states_of_the_processes(running: Rig) -> None:
    assert running.driver.read(5) >> 17 & 0x3F == 6 << 3 | 3
    running.driver.write(6, 0)
    assert running.driver.read(5) >> 17 & 0x3F == 0


def test_masked_cause_does_not_interrupt(running: Rig) -> None:
    driver = running.driver
    driver.write(5, 0xFFFFFFFF)
    driver.write(7, 0)
    running.wire(MAC + bytes(60))
    assert not driver.interrupted()
    driver.write(7, 1 << 6 | 1 << 16)
    assert driver.interrupted()
    assert driver.read(5) & 1 << 16


def test_driver_state_is_told(rig: Rig) -> None:
    def guest() -> tuple[bool, bool]:
        return rig.nic.guest.driver_ok, rig.nic.guest.admin_down

    assert guest() == (False, False)
    rig.driver.start()
    assert guest() == (True, False)
    rig.driver.write(6, 0)
    assert guest() == (False, True)
    rig.driver.bus_master(False)
    assert guest() == (False, False)


def test_config_space_is_qemus(rig: Rig) -> None:
    head = rig.device.config_read(0, 64)
    assert head[:4] == bytes.fromhex("11101900")
    assert head[0x2C:0x30] == bytes.fromhex("3c104f10")
    assert head[0x10:0x18].hex() == "0100000000000000"
    assert rig.device.info_text(0) == "model=tulip,macaddr=52:54:00:12:34:56"
