"""The link as the guest's driver sees it: it starts down, and each change interrupts, by vector, message or pin.

The values and the moments are those observed on QEMU: after a reset STATUS.LU is clear, so that a first "down" is
nothing, and the link comes up 500 ms after the driver has started a negotiation.
"""

from __future__ import annotations

import pytest
from tests.fakes.events import as_sent
from tests.fakes.igb_driver import IgbDriver, Mode
from tests.unit.nic_igb.conftest import Rig

from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r

LU = regs.STATUS_LU


def test_link_starts_down_and_comes_up_by_negotiation(rig: Rig) -> None:
    driver = rig.driver
    driver.probe()
    assert not driver.read(regs.STATUS) & LU
    assert driver.phy_read(1) == 0x7949
    rig.scheduler.advance(5)
    assert not driver.read(regs.STATUS) & LU
    driver.start()
    rig.scheduler.advance(0.499)
    assert not driver.read(regs.STATUS) & LU
    assert driver.messages() == []
    rig.scheduler.advance(0.002)
    assert driver.messages() == [driver.other]
    assert driver.handle(driver.other) == regs.ICR_LSC
    assert driver.seen_links == [True]
    assert driver.read(regs.STATUS) & LU
    assert driver.phy_read(1) == 0x796D
    assert rig.nic.guest.seen == "up"


def test_first_down_before_negotiation_does_not_interrupt(rig: Rig) -> None:
    rig.driver.probe()
    rig.driver.config_msix(True)
    rig.set_link(False)
    assert rig.driver.read(regs.ICR) == 0
    rig.driver.start()
    rig.scheduler.advance(5)
    assert rig.driver.messages() == []
    rig.set_link(True)
    rig.scheduler.advance(0.5)
    assert rig.driver.messages() == [rig.driver.other]


def test_down_interrupts_at_once_and_repetition_is_nothing(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    assert driver.messages() == [driver.other]
    assert not driver.read(regs.STATUS) & LU
    assert driver.handle(driver.other) == regs.ICR_LSC
    running.set_link(False)
    assert driver.messages() == []
    assert driver.seen_links == [True, False]
    step = as_sent(running.network.journal.select("nic0")[-1])
    assert step["link"] == "down"
    assert {"notified-us", "interrupt-us", "seen-us"} <= step.keys()


def test_second_change_before_the_handler_sends_one_message(running: Rig) -> None:
    """ICR has the cause already; the handler reads the status that counts then."""
    driver = running.driver
    running.set_link(False)
    running.set_link(True)
    running.scheduler.advance(0.5)
    assert driver.messages() == [driver.other]
    driver.handle(driver.other)
    assert driver.seen_links[-1] is True


def test_change_during_the_handler_is_told_when_the_vector_is_enabled(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    assert driver.messages() == [driver.other]
    assert driver.read(regs.ICR) == regs.ICR_LSC
    running.set_link(True)
    running.scheduler.advance(0.5)
    assert driver.messages() == []
    driver.write(r.EIMS, 1 << driver.other)
    assert driver.messages() == [driver.other]


@pytest.mark.parametrize("mode", ["msi", "intx"])
def test_link_change_interrupts_without_vectors(mode: Mode) -> None:
    rig = Rig(mode=mode)
    driver = rig.driver
    rig.run()
    assert driver.seen_links == [True]
    rig.set_link(False)
    if mode == "msi":
        assert driver.irq.sent == [("msi", 0)]
        assert not driver.irq.level
    else:
        assert driver.irq.level
        assert driver.irq.sent == []
    assert driver.handle() == regs.ICR_LSC | 1 << 31
    assert not driver.irq.level
    assert driver.seen_links == [True, False]
    rig.close()


def test_reading_icr_masks_itself_by_iam() -> None:
    rig = Rig(mode="intx")
    rig.run()
    driver = rig.driver
    rig.set_link(False)
    assert driver.read(regs.ICR) & regs.ICR_LSC
    assert driver.read(regs.IMS) == 0
    rig.close()


@pytest.mark.parametrize("way", ["bus", "software", "flr"])
def test_reset_takes_link_down_until_the_driver_negotiates(running: Rig, way: str) -> None:
    driver = running.driver
    if way == "bus":
        running.device.reset()
    elif way == "software":
        driver.write(regs.CTRL, regs.CTRL_RST)
    else:
        running.device.config_write(0xA0 + 9, b"\x80")
    running.scheduler.advance(5)
    assert not driver.read(regs.STATUS) & LU
    assert driver.messages() == []
    driver.start()
    running.scheduler.advance(0.5)
    assert driver.messages() == [driver.other]
    assert driver.read(regs.STATUS) & LU


def test_phy_reset_by_the_mac_renegotiates(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.STATUS, 0)
    assert not driver.read(regs.STATUS) & r.STATUS_PHYRA
    driver.write(regs.CTRL, driver.read(regs.CTRL) | regs.CTRL_PHY_RST)
    assert driver.read(regs.STATUS) & r.STATUS_PHYRA
    assert not driver.read(regs.STATUS) & LU
    running.scheduler.advance(0.5)
    assert driver.read(regs.STATUS) & LU


def test_interface_down_and_up_renegotiates(running: Rig) -> None:
    """Linux powers the PHY down with the interface."""
    driver = running.driver
    driver.phy_write(0, 0x1940)
    assert not driver.read(regs.STATUS) & LU
    driver.phy_write(0, 0x1140)
    running.scheduler.advance(0.5)
    assert driver.read(regs.STATUS) & LU


def test_master_disable_is_acknowledged(running: Rig) -> None:
    driver = running.driver
    assert driver.read(regs.STATUS) & r.STATUS_GIO_MASTER_ENABLE
    driver.write(regs.CTRL, driver.read(regs.CTRL) | r.CTRL_GIO_MASTER_DISABLE)
    assert not driver.read(regs.STATUS) & r.STATUS_GIO_MASTER_ENABLE


def test_vector_that_the_vm_cannot_take_yet_is_sent_later(running: Rig) -> None:
    driver: IgbDriver = running.driver
    driver.irq.deliver = False
    running.set_link(False)
    driver.messages()
    driver.irq.deliver = True
    running.device.lines_changed()
    assert driver.messages() == [driver.other]
