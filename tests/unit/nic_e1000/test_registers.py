"""Registers, EEPROM and PHY as a driver finds them: values after reset, access rules, both windows, all models."""

from __future__ import annotations

import pytest
from tests.fakes.e1000_driver import IO, MMIO
from tests.unit.nic_e1000.conftest import MAC, Rig

from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import MODELS
from vnic.nic.intel.e1000.registers import BY_OFFSET, CTRL_DUP, REGISTERS
from vnic.nic.intel.registers import IOADDR, IODATA

LINK_UP_STATUS = 0x80080783
"""STATUS of QEMU's e1000 with the link up."""


def test_register_table_covers_manual_without_duplicates() -> None:
    names = [register.name for register in REGISTERS]
    assert len(names) == len(set(names))
    assert all(offset % 4 == 0 and offset < regs.MMIO_BYTES for offset in BY_OFFSET)
    assert BY_OFFSET[0x0040].name == "RA"
    assert BY_OFFSET[0x5600 + 4 * 127].name == "VFTA"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (regs.CTRL, 0x00140240),
        (regs.STATUS, LINK_UP_STATUS),
        (regs.VET, 0x8100),
        (0x1000, 0x00100030),
        (0x0E00, 0x602),
        (0x5820, 0x00222300),
        (regs.IMS, 0),
        (regs.RCTL, 0),
        (regs.RA, int.from_bytes(MAC[:4], "little")),
        (regs.RA + 4, int.from_bytes(MAC[4:], "little") | 1 << 31),
    ],
)
def test_values_after_reset(rig: Rig, offset: int, value: int) -> None:
    assert rig.driver.read(offset) == value


def test_masks_and_read_only(rig: Rig) -> None:
    rig.driver.write(regs.STATUS, 0)
    assert rig.driver.read(regs.STATUS) == LINK_UP_STATUS
    for offset, kept in (
        (regs.RDLEN, 0xFFF80),
        (regs.RDBAL, 0xFFFFFFF0),
        (regs.TDH, 0xFFFF),
        (regs.VET, 0xFFFF),
    ):
        rig.driver.write(offset, 0xFFFFFFFF)
        assert rig.driver.read(offset) == kept
    rig.driver.write(0x4074, 55)  # a counter
    assert rig.driver.read(0x4074) == 0
    rig.driver.write(0x1F000, 0x12345678)  # nothing there
    assert rig.driver.read(0x1F000) == 0


def test_aliases_of_the_82542(rig: Rig) -> None:
    rig.driver.write(0x0110, 0xABC0)
    assert rig.driver.read(regs.RDBAL) == 0xABC0
    rig.driver.write(regs.MTA + 8, 77)
    assert rig.driver.read(0x0200 + 8) == 77
    rig.driver.write(CTRL_DUP, regs.CTRL_SLU)
    assert rig.driver.read(regs.CTRL) == regs.CTRL_SLU


def test_the_io_window_reaches_every_register(rig: Rig) -> None:
    device = rig.device
    rig.driver.write_io(regs.VET, 0x88A8)
    assert rig.driver.read(regs.VET) == 0x88A8
    assert device.window_read(IO, IODATA, 4) == b"\xa8\x88\0\0"
    assert device.window_read(IO, IOADDR, 4) == b"\x38\0\0\0"
    rig.driver.write_io(0xFFFFFFFF, 1)
    assert device.window_read(IO, IODATA, 4) == bytes(4)
    device.window_write(IO, 0x20, bytes(4))
    assert device.window_read(IO, 0x20, 4) == bytes(4)


def test_register_access_of_any_width(rig: Rig) -> None:
    """Narrow and wide reads take their bytes; only whole registers are written."""
    device = rig.device
    status = LINK_UP_STATUS.to_bytes(4, "little")
    assert device.window_read(MMIO, regs.STATUS, 1) == status[:1]
    assert device.window_read(MMIO, regs.STATUS + 2, 2) == status[2:]
    assert device.window_read(MMIO, regs.STATUS - 4, 8)[4:] == status
    assert device.window_read(MMIO, regs.STATUS + 3, 2) == status[3:] + b"\0"
    assert device.window_read(MMIO, 0, 4096) == bytes(4096)
    for data in (b"\xff", b"\xff\xff", bytes(128), b""):
        device.window_write(MMIO, regs.VET, data)
    device.window_write(MMIO, regs.VET + 1, b"\xff" * 4)
    assert rig.driver.read(regs.VET) == 0x8100
    device.window_write(MMIO, regs.RDBAL, struct_pair(0x1000, 7))
    assert (rig.driver.read(regs.RDBAL), rig.driver.read(regs.RDBAH)) == (0x1000, 7)


def struct_pair(low: int, high: int) -> bytes:
    return low.to_bytes(4, "little") + high.to_bytes(4, "little")


def test_software_reset_keeps_phy_and_link(running: Rig) -> None:
    driver = running.driver
    driver.phy_write(4, 0x0101)
    driver.write(regs.RA, 0)
    driver.write(regs.CTRL, regs.CTRL_RST | regs.CTRL_VME)
    assert not driver.read(regs.CTRL) & (regs.CTRL_RST | regs.CTRL_VME)
    assert driver.read(regs.RCTL) == driver.read(regs.IMS) == driver.read(regs.TDLEN) == 0
    assert driver.read(regs.RA) == int.from_bytes(MAC[:4], "little")
    assert driver.phy_read(4) == 0x0101
    assert driver.read(regs.STATUS) == LINK_UP_STATUS
    assert not running.nic.guest.driver_ok


def test_bus_reset_resets_the_phy_too(running: Rig) -> None:
    running.driver.phy_write(4, 0x0101)
    running.device.reset()
    assert running.driver.phy_read(4) == 0x0DE1
    assert running.device.config_read(4, 2) == bytes(2)


@pytest.mark.parametrize(
    ("name", "device_id", "phy"),
    [("e1000", 0x100E, 0xC20), ("e1000-82540em", 0x100E, 0xC20), ("e1000-82545em", 0x100F, 0xC20),
     ("e1000-82544gc", 0x100C, 0xC30)],
)  # fmt: skip
def test_models(name: str, device_id: int, phy: int) -> None:
    rig = Rig(name)
    assert rig.device.config_read(0, 4) == b"\x86\x80" + device_id.to_bytes(2, "little")
    assert rig.device.config_read(8, 4) == b"\x03\x00\x00\x02"
    assert rig.driver.probe() == MAC
    assert rig.driver.eeprom_word(13) == device_id
    assert (rig.driver.phy_read(2), rig.driver.phy_read(3)) == (0x141, phy)
    shown = "e1000" if name == "e1000-82540em" else name
    assert rig.device.info_text(0) == f"model={shown},macaddr=52:54:00:12:34:56"
    assert MODELS[name].name == shown
    rig.close()


def test_eerd_reads_eeprom_words(rig: Rig) -> None:
    for address in range(64):
        rig.driver.write(regs.EERD, address << 8 | 1)
        value = rig.driver.read(regs.EERD)
        assert value & 0x10
        assert value >> 16 == rig.driver.eeprom_word(address)
    rig.driver.write(regs.EERD, 200 << 8 | 1)
    assert rig.driver.read(regs.EERD) >> 16 == 0


def test_eeprom_writes_are_ignored(rig: Rig) -> None:
    driver, before = rig.driver, list(rig.device.eeprom.words)
    for bits in ("110011", "101" + "000000" + "1" * 16, "111000000"):
        driver.write(regs.EECD, 2)
        for bit in bits:
            driver.write(regs.EECD, 2 | (4 if bit == "1" else 0))
            driver.write(regs.EECD, 3 | (4 if bit == "1" else 0))
        assert driver.read(regs.EECD) & 8, "a driver waits for ready"
        driver.write(regs.EECD, 0)
    assert rig.device.eeprom.words == before


def test_mdic_refuses_other_phys_and_unknown_registers(rig: Rig) -> None:
    for value in (2 << 26 | 2 << 21, 2 << 26 | 1 << 21 | 31 << 16, 1 << 26 | 1 << 21 | 1 << 16, 1 << 21):
        rig.driver.write(regs.MDIC, value)
        assert rig.driver.read(regs.MDIC) & 0x50000000 == 0x50000000
    rig.driver.write(regs.IMS, regs.ICR_MDAC)
    rig.driver.write(regs.MDIC, 1 << 29 | 2 << 26 | 1 << 21 | 2 << 16)
    assert rig.driver.read(regs.ICR) == regs.ICR_MDAC


def test_status_shows_forced_speed(rig: Rig) -> None:
    rig.driver.write(regs.CTRL, 1 << 11 | 1 << 12 | 1 << 8)
    assert rig.driver.read(regs.STATUS) & 0xC1 == 0x40


def test_interrupt_registers(rig: Rig) -> None:
    driver = rig.driver
    driver.write(regs.ICS, 0x85)
    assert driver.read(regs.ICS) == 0x85
    assert driver.irq.edges == []
    driver.write(regs.IMS, 0x80)
    assert driver.irq.edges == [True]
    driver.write(regs.IMC, 0x80)
    assert driver.irq.edges == [True, False]
    driver.write(regs.IMS, 0x05)
    driver.write(regs.ICR, 0x05)
    assert driver.irq.edges == [True, False, True, False]
    assert driver.read(regs.ICR) == 0x80
    assert driver.read(regs.ICR) == 0


def test_info_network_follows_the_first_receive_address(rig: Rig) -> None:
    rig.driver.write(regs.RA, 0x04030201)
    rig.driver.write(regs.RA + 4, 1 << 31 | 0x0605)
    assert rig.device.info_text(0) == "model=e1000,macaddr=01:02:03:04:05:06"


def test_wake_on_link_is_refused_by_name(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.driver.write(regs.WUFC, 1)
    rig.driver.write(regs.WUFC, 1)
    assert caplog.text.count("WUFC.LNKC") == 1
    assert rig.driver.read(regs.WUFC) == 1
