"""The link: what registers show of it, by which interrupt the guest is told, and when the journal says seen."""

from __future__ import annotations

import pytest
from tests.fakes.e1000e_driver import OTHER_VECTOR, QUEUE_CAUSES
from tests.unit.nic_e1000e.conftest import Rig

from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r

LU = regs.STATUS_LU
OTHER = irq.ICR_OTHER | irq.ICR_ASSERTED


def test_link_is_up_after_reset_without_negotiation(rig: Rig) -> None:
    rig.driver.probe()
    assert rig.driver.read(regs.STATUS) == 0x80280 | LU | 1
    assert rig.driver.phy_read(1) == 0x794D
    assert rig.driver.phy_read(5) == 0x07E0


def test_link_change_is_sent_by_the_vector_of_other_causes(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    assert driver.vectors() == [OTHER_VECTOR]
    assert driver.read(regs.STATUS) & LU == 0
    assert driver.read(regs.ICR) == regs.ICR_LSC | OTHER
    change = running.change
    assert change.interrupt_us is not None
    assert change.seen_us is not None


def test_link_comes_back_by_a_negotiation(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    driver.read(regs.ICR)
    driver.vectors()
    running.set_link(True)
    running.scheduler.advance(0.499)
    assert driver.read(regs.STATUS) & LU == 0
    assert driver.vectors() == []
    running.scheduler.advance(0.002)
    assert driver.vectors() == [OTHER_VECTOR]
    assert driver.read(regs.STATUS) & LU
    assert driver.phy_read(1) == 0x796D
    assert driver.read(regs.CTRL) & r.CTRL_FLOW_CONTROL == r.CTRL_FLOW_CONTROL


def test_repeated_state_is_no_interrupt(running: Rig) -> None:
    running.set_link(False)
    running.driver.vectors()
    running.driver.read(regs.ICR)
    running.set_link(False)
    assert running.driver.vectors() == []


def test_only_a_read_of_the_link_is_seen(running: Rig) -> None:
    running.set_link(False)
    running.driver.read(regs.ICR)
    running.driver.read(regs.CTRL)
    running.driver.phy_read(2)
    assert running.change.seen_us is None
    assert running.driver.phy_read(1) & 4 == 0
    assert running.change.seen_us is not None


def test_second_change_before_the_guest_looks_sends_nothing_more(running: Rig) -> None:
    """OTHER is pending, so that the guest finds LSC when it comes (as QEMU)."""
    driver = running.driver
    running.set_link(False)
    running.set_link(True)
    running.scheduler.advance(0.6)
    assert driver.vectors() == [OTHER_VECTOR]
    assert driver.read(regs.ICR) == regs.ICR_LSC | OTHER
    assert driver.read(regs.STATUS) & LU


@pytest.mark.parametrize("message", [True, False])
def test_without_msix_the_link_is_told_by_msi_or_the_pin(rig: Rig, message: bool) -> None:
    driver = rig.driver
    driver.bus_master()
    if message:
        driver.use_msi()
    driver.write(regs.IMS, regs.ICR_LSC)
    rig.set_link(False)
    assert driver.irq.sent == ([("msi", 0)] if message else [])
    assert driver.irq.level is not message
    assert rig.change.interrupt_us is not None
    assert driver.read(regs.ICR) == regs.ICR_LSC | irq.ICR_ASSERTED
    assert not driver.irq.level


def test_software_reset_keeps_a_link_that_is_down(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    driver.write(r.PBA, 0x123)
    driver.write(regs.CTRL, regs.CTRL_RST)
    assert driver.read(regs.STATUS) & LU == 0
    assert driver.phy_read(1) == 0x7949
    assert driver.read(r.PBA) == 0x123
    assert driver.read(regs.IMS) == 0


def test_restart_of_the_negotiation_by_the_guest(running: Rig) -> None:
    driver = running.driver
    driver.renegotiate()
    assert driver.read(regs.STATUS) & LU == 0
    running.scheduler.advance(0.6)
    assert driver.vectors() == [OTHER_VECTOR]
    driver.read(regs.ICR)
    driver.phy_write(25, 1 << 10 | 5)
    assert driver.read(regs.STATUS) & LU == 0
    assert driver.phy_read(25) == 5
    running.scheduler.advance(0.6)
    assert driver.read(regs.STATUS) & LU


def test_masked_link_change_is_told_when_it_is_unmasked(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.IMC, irq.ICR_OTHER)
    running.set_link(False)
    assert driver.vectors() == []
    assert running.change.interrupt_us is None
    driver.write(regs.IMS, irq.ICR_OTHER | QUEUE_CAUSES)
    assert driver.vectors() == [OTHER_VECTOR]
    assert running.change.interrupt_us is not None


def test_nic_begins_down(rig: Rig) -> None:
    down = Rig(link=False)
    down.driver.probe()
    assert down.driver.read(regs.STATUS) & LU == 0
    assert down.nic.guest.seen == "down"
    down.close()
