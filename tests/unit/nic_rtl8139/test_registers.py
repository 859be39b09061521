"""Registers: widths of access, locks, the EEPROM, the timer, and the reset values of QEMU's device."""

from __future__ import annotations

import pytest
from tests.fakes.rtl8139_driver import IO, MMIO, TALLY, PlusDriver
from tests.unit.nic_e1000.conftest import MAC
from tests.unit.nic_rtl8139.conftest import Rig

from vnic.nic.rtl8139 import registers as r
from vnic.pci.config import CLASS_CODE, VENDOR_ID


def test_identity(plus: Rig[PlusDriver]) -> None:
    assert plus.device.config_read(VENDOR_ID, 4) == bytes.fromhex("ec103981")
    assert plus.device.config_read(CLASS_CODE - 1, 4) == bytes.fromhex("20000002")
    assert plus.device.config_read(0x2C, 4) == bytes.fromhex("f41a0011")
    assert plus.device.bars[IO].io
    assert not plus.device.bars[MMIO].io
    assert plus.device.info_text(0) == "model=rtl8139,macaddr=52:54:00:12:34:56"


@pytest.mark.parametrize("window", [IO, MMIO])
def test_both_windows_have_the_registers(plus: Rig[PlusDriver], window: int) -> None:
    plus.driver.write(r.IMR, 0x1234, window=window)
    assert plus.driver.read(r.IMR, window=MMIO + IO - window) == 0x1234 & r.ISR_BITS


def test_values_after_reset(plus: Rig[PlusDriver]) -> None:
    plus.device.reset()
    read = plus.driver.read
    assert read(r.CR) == 0x11
    assert read(r.TCR) == 0x74800000
    assert [read(r.TSD + 4 * number) for number in range(4)] == [0x2000] * 4
    assert read(r.TSAD) == 0x000F
    assert (read(r.CONFIG1), read(r.CONFIG3), read(r.CSCR), read(r.RERID)) == (0x0C, 0x01, 0x0340, 0x20)
    assert (read(r.BMCR), read(r.ANAR), read(r.ANLPAR), read(r.ANER)) == (0x1000, 0x05E1, 0x05E1, 1)
    assert read(r.CAPR) == 0xFFF0
    assert bytes(read(at) for at in range(6)) == MAC


def test_wide_and_narrow_accesses(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    driver.write(r.IDR, int.from_bytes(b"\x02\x11\x22\x33", "little"), 4)
    driver.write(r.IDR + 4, int.from_bytes(b"\x44\x55\xff\xff", "little"), 4)
    assert driver.read(r.IDR, 4) == 0x33221102
    assert driver.read(r.IDR + 4, 4) == 0x5544
    assert plus.device.info_text(0).endswith("02:11:22:33:44:55")
    driver.write(r.IMR, 0x00FF_0021, 4)  # IMR, and ISR behind it
    assert driver.read(r.IMR) == 0x21
    assert driver.read(r.TCR + 3, 1) == 0x74  # Windows looks at the version so
    driver.write(r.TCR, 0x10, 1)
    assert driver.read(r.TCR) & 0xFF == 0x10
    assert driver.read(r.BMSR + 1, 1) == 0x78
    assert plus.device.window_read(MMIO, 0, 256)[:6] == bytes(6)  # wider than any processor's
    assert plus.device.window_read(MMIO, 0x3F, 3) == bytes((0, 0x10, 0))


def test_config_registers_are_locked(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    driver.write(r.CONFIG1, 0xFF)
    assert driver.read(r.CONFIG1) == 0x0C
    driver.write(r.CR9346, 0xC0)
    driver.write(r.CONFIG1, 0x31)
    driver.write(r.CONFIG3, 0xFF)
    driver.write(r.CR9346, 0)
    assert driver.read(r.CONFIG1) == 0x3D
    assert driver.read(r.CONFIG3) == 0x71
    driver.write(r.CONFIG5, 0xFF)
    assert driver.read(r.CONFIG5) == 0x7F


def test_tcr_is_written_while_the_transmitter_is_on(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.CR, 0)
    plus.driver.write(r.TCR, 0x03000700)
    assert plus.driver.read(r.TCR) == 0x74800000
    plus.driver.write(r.CR, r.CR_TE)
    plus.driver.write(r.TCR, 0x03000700)
    assert plus.driver.read(r.TCR) == 0x77800700


def test_timer_interrupts_once_a_round(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    driver.before_access = None  # another NIC has another clock
    driver.write(r.IMR, r.TIMEOUT)
    driver.write(r.TIMERINT, 33_333_333)
    driver.write(r.TCTR, 0)
    plus.scheduler.advance(0.9)
    assert driver.read(r.TCTR) == 30_000_000
    assert driver.irq.edges == []
    plus.scheduler.advance(0.2)
    assert driver.handle_interrupt() == r.TIMEOUT
    plus.scheduler.advance(100)
    assert driver.irq.edges == [True, False]
    plus.scheduler.advance(30)
    driver.write(r.TIMERINT, 0)
    assert driver.handle_interrupt() == r.TIMEOUT
    plus.scheduler.advance(300)
    assert driver.irq.edges == [True, False, True, False]


def test_software_interrupt(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.IMR, r.SOFTWARE)
    plus.driver.write(r.TPPOLL, 1)
    assert plus.driver.handle_interrupt() == r.SOFTWARE


def test_tally_counters_are_dumped(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    plus.wire(b"\xff" * 6 + bytes(60))
    plus.wire(MAC + bytes(60))
    driver.send(bytes(80))
    plus.turn()
    driver.write(r.DTCCR + 4, 0)
    driver.write(r.DTCCR, TALLY | 8)
    assert driver.read(r.DTCCR) == TALLY
    dumped = driver.memory.read(TALLY, 64)
    assert dumped[:16] == bytes((1, *bytes(7), 2, *bytes(7)))
    assert dumped[40:56] == bytes((1, *bytes(7), 1, *bytes(7)))


def test_halted_clock_drops_frames(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.HLTCLK, ord("H"))
    plus.wire(MAC + bytes(60))
    plus.driver.write(r.HLTCLK, ord("R"))
    plus.wire(MAC + bytes(50))
    assert plus.driver.received() == [MAC + bytes(54)]
