"""Registers as the data sheet and QEMU have them: windows, resets, the PROM, and what a running chip does not take."""

from __future__ import annotations

import pytest
from tests.fakes.pcnet_driver import IO, MMIO, STOP
from tests.unit.nic_pcnet.conftest import MAC, Rig


def test_probe_finds_the_chip(rig: Rig) -> None:
    assert rig.driver.probe() == MAC
    assert rig.driver.bcr(4) == 0x80C0
    assert [rig.driver.bcr(at) for at in (2, 5, 6, 7, 18, 20)] == [2, 0x84, 0x88, 0x90, 0x9001, 0x200]
    assert [rig.driver.csr(at) for at in (12, 13, 14)] == [0x5452, 0x1200, 0x5634]
    assert [rig.driver.csr(at) for at in (4, 80, 100)] == [0x0115, 0x1410, 0x0200]


def test_prom_has_the_checksum_and_ww(rig: Rig) -> None:
    prom = rig.driver.aprom()
    assert prom[6:12] == b"\0\0\0\x11\0\0"
    assert prom[14:] == b"WW"
    assert int.from_bytes(prom[12:14], "little") == sum(prom[:12]) + sum(prom[14:])


def test_prom_is_written_only_when_enabled(rig: Rig) -> None:
    window = rig.device.window_write
    window(IO, 0, b"\x02")
    assert rig.driver.aprom()[0] == 0x52
    rig.driver.write_bcr(2, 0x0102)
    window(IO, 0, b"\x02")
    window(IO, 14, b"abcd")
    assert rig.driver.aprom()[0] == 2
    assert rig.driver.aprom()[14:] == b"ab"
    rig.device.reset()
    assert rig.driver.aprom()[0] == 0x52


@pytest.mark.parametrize("region", [IO, MMIO])
@pytest.mark.parametrize("wide", [False, True])
def test_both_windows_and_widths(region: int, wide: bool) -> None:
    rig = Rig(wide=wide, region=region)
    assert rig.driver.probe() == MAC
    assert rig.driver.csr(88) == (0x02621003 if wide else 0x1003)
    rig.driver.start()
    rig.driver.send(bytes(60))
    assert rig.netdev.frames == [bytes(60)]
    rig.close()


def test_wrong_width_reads_as_ones_and_writes_nothing(rig: Rig) -> None:
    device = rig.device
    rig.driver.write_port(1, 5)
    assert device.window_read(IO, 0x10, 4) == b"\xff" * 4
    assert device.window_read(IO, 0x11, 1) == b"\xff"
    assert device.window_read(IO, 0x18, 2) == b"\xff" * 2
    device.window_write(IO, 0x12, b"\x09")
    assert rig.driver.read_port(1) == 5
    device.window_write(IO, 0x10, bytes(4))
    assert device.window_read(IO, 0x12, 2) == b"\xff" * 2
    assert device.window_read(IO, 0x14, 4) == b"\x05\0\0\0"


def test_soft_reset_keeps_the_width_and_bcrs(rig: Rig) -> None:
    rig.device.window_write(IO, 0x10, bytes(4))
    rig.driver.wide = True
    rig.driver.write_bcr(9, 1)
    rig.driver.reset()
    assert rig.driver.csr(0) == STOP
    assert rig.driver.bcr(9) == 1
    rig.device.reset()
    rig.driver.wide = False
    assert rig.driver.csr(0) == STOP
    assert rig.driver.bcr(9) == 0


def test_running_chip_keeps_what_is_set_up(running: Rig) -> None:
    driver = running.driver
    for number in (1, 15, 24, 76):
        before = driver.csr(number)
        driver.write_csr(number, 0x1234)
        assert driver.csr(number) == before
    driver.write_bcr(20, 0)
    assert driver.bcr(20) == 0x0302
    driver.write_csr(5, 1)
    driver.write_csr(15, 0x8000)
    assert driver.csr(15) == 0x8000
    driver.write_csr(88, 7)
    assert driver.csr(88) == 0x1003


@pytest.mark.parametrize(("style", "reads"), [(0, 0x200), (1, 0x101), (2, 0x302), (3, 0x303), (4, 0x200)])
def test_software_style(rig: Rig, style: int, reads: int) -> None:
    rig.driver.write_bcr(20, style)
    assert rig.driver.bcr(20) == rig.driver.csr(58) == reads
    rig.driver.write_csr(58, 0)
    assert rig.driver.bcr(20) == 0x200


def test_aliases_of_the_block_address(rig: Rig) -> None:
    rig.driver.write_csr(16, 0x1234)
    rig.driver.write_csr(17, 0x5678)
    assert [rig.driver.csr(at) for at in (1, 2, 16, 17)] == [0x1234, 0x5678, 0x1234, 0x5678]


def test_initialization_sets_what_the_block_says(running: Rig) -> None:
    driver = running.driver
    assert [driver.csr(at) for at in (6, 72, 74, 76, 78)] == [0x4400, 16, 16, 16, 16]
    assert driver.csr(24) | driver.csr(25) << 16 == driver.base + 0x4000
    assert driver.csr(30) | driver.csr(31) << 16 == driver.base + 0x1000
    assert driver.csr(0) & 0x0173 == 0x0173


def test_user_interrupt(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    assert not driver.interrupted()
    driver.write_csr(4, 0x0995)
    assert driver.interrupted()
    assert driver.csr(4) == 0x0955
    driver.write_csr(4, 0x0955)
    assert not driver.interrupted()


def test_masks_and_inea_gate_the_pin(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    driver.write_csr(3, 0x5F00)
    running.wire(MAC + bytes(60))
    assert not driver.interrupted()
    assert driver.csr(0) & 0x0480 == 0x0400
    driver.write_csr(3, 0)
    assert driver.interrupted()
    driver.write_csr(0, 0)
    assert not driver.interrupted()
    assert driver.csr(0) & 0x0080


def test_stop_clears_what_runs(running: Rig) -> None:
    running.driver.write_csr(0, 7)
    assert running.driver.csr(0) == STOP
    assert not running.driver.interrupted()
    assert not running.nic.guest.driver_ok


def test_info_text(rig: Rig) -> None:
    assert rig.device.info_text(0) == "model=pcnet,macaddr=52:54:00:12:34:56"


def test_config_space_is_qemus(rig: Rig) -> None:
    rig.device.reset()
    head = rig.device.config_read(0, 64)
    assert head[:16].hex() == "22100020000080021000000200000000"
    assert head[0x10:0x18].hex() == "0100000000000000"
    assert head[0x2C:0x30] == bytes(4)
    assert head[0x3C:].hex() == "000106ff"


def test_driver_state_is_told(rig: Rig) -> None:
    def guest() -> tuple[bool, bool]:
        return rig.nic.guest.driver_ok, rig.nic.guest.admin_down

    assert guest() == (False, False)
    rig.driver.probe()
    assert guest() == (False, True)
    rig.driver.start()
    assert guest() == (True, False)
    rig.driver.write_csr(0, STOP)
    assert guest() == (False, True)
    rig.driver.bus_master(False)
    assert guest() == (False, False)
