"""The table, config space as QEMU's e1000e has it, the NVM, the paged PHY, the clock, and the record."""

from __future__ import annotations

import pytest
from msgspec import structs
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000e.conftest import MAC, Rig

from vnic.net.network import Network
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import E1000e
from vnic.nic.intel.e1000e import registers as r
from vnic.pci import capability as cap
from vnic.pci.device import PciHandles
from vnic.record import RecordError


def test_table() -> None:
    assert all(offset % 4 == 0 and offset < regs.MMIO_BYTES for offset in r.BY_OFFSET)
    assert all(not register.reset & ~register.mask for register in r.REGISTERS)


def test_capabilities_are_where_qemu_has_them(rig: Rig) -> None:
    config = rig.device.config
    places = [config.find(each) for each in (cap.CAP_PM, cap.CAP_MSI, cap.CAP_PCIE, cap.CAP_MSIX)]
    assert places == [0xC8, 0xD0, 0xE0, 0xA0]
    assert config.get(0x34, 1) == 0xC8
    assert config.get(0x100, 4) == 0x14020001
    assert config.get(0x140, 4) == 0x00010003
    assert config.read(0x144, 8).hex() == "563412ffff005452"
    assert config.get(0xA4, 4) == 3
    assert config.get(0xA8, 4) == 0x2003
    assert (config.get(0, 4), config.get(8, 4), config.get(0x2C, 4)) == (0x10D38086, 0x02000000, 0x8086)


def test_flr_is_not_offered_and_does_nothing(rig: Rig) -> None:
    rig.driver.bus_master()
    rig.device.config_write(0xE0 + cap.PCIE_DEVICE_CONTROL, b"\xff\xff")
    assert rig.device.bus_master


def test_nvm(rig: Rig) -> None:
    assert rig.driver.probe() == MAC
    assert rig.driver.nvm_word(13) == 0x10D3
    rig.driver.write(r.EEWR, 0x1234 << 16 | 3 << 2 | 1)
    assert rig.driver.read(r.EEWR) == 2
    assert rig.driver.nvm_word(3) == 0x0420


def test_phy_has_pages(rig: Rig) -> None:
    driver = rig.driver
    assert driver.phy_read(3) == 0x0CB1
    assert driver.phy_read(16) == 0x3360
    driver.phy_write(22, 2)
    assert driver.phy_read(16) == 0x0088
    assert driver.phy_read(3) == 0x0CB1
    driver.phy_write(16, 0x1234)
    driver.phy_write(22, 0)
    assert driver.phy_read(16) == 0x3360
    driver.phy_write(22, 0xFFFF)
    assert driver.phy_read(22) == 0x7F
    driver.write(regs.MDIC, 2 << 26 | 1 << 21 | 16 << 16)
    assert driver.read(regs.MDIC) & 1 << 30


def test_semaphore_is_taken_by_a_read(rig: Rig) -> None:
    driver = rig.driver
    driver.write(r.SWSM, 0)
    assert driver.read(r.SWSM) == 0
    assert driver.read(r.SWSM) == 1


def test_phy_reset_is_shown_until_it_is_acknowledged(rig: Rig) -> None:
    driver = rig.driver
    driver.write(regs.CTRL, regs.CTRL_PHY_RST)
    assert driver.read(regs.STATUS) & r.STATUS_PHYRA
    driver.write(regs.STATUS, 0)
    assert not driver.read(regs.STATUS) & r.STATUS_PHYRA


def test_master_disable_is_acknowledged(rig: Rig) -> None:
    rig.driver.write(regs.CTRL, r.CTRL_MASTER_DISABLE)
    assert not rig.driver.read(regs.STATUS) & r.STATUS_MASTER


def test_read_only_bits(rig: Rig) -> None:
    driver = rig.driver
    for offset, value in ((regs.EECD, 0x300), (r.GCR, 0x06800000)):
        driver.write(offset, 0)
        assert driver.read(offset) == value
    driver.write(r.RXDCTL, 0x10500)
    assert driver.read(r.RXDCTL + regs.QUEUE_BYTES) == 0x10500


def test_clock_goes_on_when_its_increment_changes(rig: Rig) -> None:
    driver = rig.driver
    driver.write(r.TIMINCA, 1 << 24 | 160)
    before = driver.read(r.SYSTIML) | driver.read(r.SYSTIMH) << 32
    driver.write(r.TIMINCA, 1 << 24)
    stopped = driver.read(r.SYSTIML) | driver.read(r.SYSTIMH) << 32
    assert stopped >= before
    assert stopped == driver.read(r.SYSTIML) | driver.read(r.SYSTIMH) << 32
    driver.write(r.TIMADJL, 5)
    driver.write(r.TIMADJH, 0)
    assert stopped + 5 == driver.read(r.SYSTIML) | driver.read(r.SYSTIMH) << 32


def test_packet_split_needs_two_buffers(rig: Rig) -> None:
    driver = rig.driver
    driver.write(regs.RCTL, 1 << 10)
    driver.write(r.PSRCTL, 0x100)
    driver.write(r.PSRCTL, 0x001)
    assert driver.read(r.PSRCTL) == 0x40402
    driver.write(r.PSRCTL, 0x101)
    assert driver.read(r.PSRCTL) == 0x101


def test_flash_reads_as_zeros(rig: Rig) -> None:
    rig.device.window_write(1, 0, b"\xff" * 4)
    assert rig.device.window_read(1, 0, 4) == bytes(4)
    assert rig.device.window_read(3, 0x100, 4) == bytes(4)


def fresh() -> E1000e:
    nic = E1000e()
    Network(FakeScheduler()).add_nic("nic0", "e1000e", nic, mac=MAC)
    return nic


def test_cells_of_a_chip_with_one_queue_are_refused(running: Rig) -> None:
    handles = PciHandles(FakeIrq(), running.driver.served, cells=c.plain())
    with pytest.raises(RecordError, match="cells"):
        fresh().restore(running.device.save(), handles)


def test_process_that_was_killed_has_the_guest_told_again(running: Rig) -> None:
    """Of what is pending, and of frames: they may have come in its last moment."""
    driver = running.driver
    running.set_link(False)
    driver.vectors()
    cells = c.plain(2)
    running.device.use_cells(cells)
    record = running.device.save()
    new = fresh()
    new.restore(record, PciHandles(driver.irq, driver.served, cells=cells))
    assert driver.vectors() == [0, 1, 2]
    new.cleanup()


def test_record_with_one_receive_queue_is_refused(running: Rig) -> None:
    record = running.device.save()
    one = structs.replace(record, rx=structs.replace(record.rx, further=[]))
    with pytest.raises(RecordError, match=r"rx\.further"):
        fresh().restore(one, PciHandles(FakeIrq(), running.driver.served))
