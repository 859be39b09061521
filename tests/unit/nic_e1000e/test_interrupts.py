"""Causes, masks and vectors: IVAR, EIAC, auto-mask, and what clears ICR (datasheet §7.4, §10.2.4)."""

from __future__ import annotations

import pytest
from tests.fakes.e1000e_driver import OTHER_VECTOR, QUEUE_CAUSES, RX_VECTOR, TX_VECTOR
from tests.unit.nic_e1000e.conftest import Rig

from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r

OTHER, ASSERTED = irq.ICR_OTHER, irq.ICR_ASSERTED


def test_each_cause_has_its_vector(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.ICS, QUEUE_CAUSES | regs.ICR_LSC)
    assert driver.vectors() == [RX_VECTOR, TX_VECTOR, OTHER_VECTOR]


def test_eiac_clears_and_masks_what_was_sent(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.ICS, irq.ICR_RXQ0)
    assert driver.vectors() == [RX_VECTOR]
    assert driver.read(regs.ICS) & QUEUE_CAUSES == 0
    assert driver.read(regs.IMS) & QUEUE_CAUSES == irq.ICR_TXQ0
    driver.write(regs.ICS, irq.ICR_RXQ0)
    assert driver.vectors() == []
    driver.enable_again()
    assert driver.vectors() == [RX_VECTOR]


def test_other_causes_stay_until_they_are_cleared(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.ICS, regs.ICR_MDAC)
    assert driver.vectors() == [OTHER_VECTOR]
    driver.write(regs.ICS, regs.ICR_LSC)
    assert driver.vectors() == []
    driver.write(regs.ICR, OTHER)
    assert driver.read(regs.ICS) == ASSERTED
    driver.write(regs.ICS, regs.ICR_LSC)
    assert driver.vectors() == [OTHER_VECTOR]


def test_vector_that_ivar_leaves_out_is_not_sent(running: Rig) -> None:
    driver = running.driver
    driver.write(r.IVAR, 0)
    driver.write(regs.ICS, irq.ICR_RXQ0 | regs.ICR_LSC)
    driver.write(regs.ICR, 0xFFFFFFFF)
    driver.write(r.IVAR, 0xFFFFF)  # vector 7 does not exist
    driver.enable_again()
    driver.write(regs.ICS, irq.ICR_RXQ0 | regs.ICR_LSC)
    assert driver.vectors() == []


def test_link_change_without_a_vector_is_not_reported_as_told(running: Rig) -> None:
    running.driver.write(r.IVAR, 0)
    running.set_link(False)
    assert running.change.interrupt_us is None


def test_iame_masks_what_iam_says(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.CTRL_EXT, r.CTRL_EXT_IAME)
    driver.write(r.IAM, OTHER)
    driver.write(regs.ICS, regs.ICR_LSC)
    assert driver.read(regs.ICR) == regs.ICR_LSC | OTHER | ASSERTED
    assert driver.read(regs.IMS) & OTHER == 0
    assert driver.read(regs.ICR) == 0


def test_eiame_clears_the_bit_of_iam(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.CTRL_EXT, r.CTRL_EXT_EIAME)
    driver.write(r.IAM, QUEUE_CAUSES)
    driver.write(regs.ICS, irq.ICR_RXQ0)
    assert driver.read(r.IAM) == irq.ICR_TXQ0


def test_read_clears_but_for_msix_with_masked_causes(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.IMC, 0xFFFFFFFF)
    driver.write(regs.IMS, irq.ICR_TXQ0)
    driver.write(regs.ICS, regs.ICR_LSC)
    assert driver.read(regs.ICR) == driver.read(regs.ICR) == regs.ICR_LSC | OTHER | ASSERTED
    driver.write(regs.IMC, 0xFFFFFFFF)
    assert driver.read(regs.ICR)
    assert driver.read(regs.ICR) == 0


def test_only_known_causes_can_be_unmasked(rig: Rig) -> None:
    rig.driver.write(regs.IMS, 0xFFFFFFFF)
    assert rig.driver.read(regs.IMS) == 0x01F782D7


@pytest.mark.parametrize("message", [True, False])
def test_frames_without_msix(rig: Rig, message: bool) -> None:
    """RXT0 and TXDW, by MSI or the pin."""
    driver = rig.driver
    driver.start()
    driver.use_msix(False)
    if message:
        driver.use_msi()
    driver.write(regs.IMS, regs.ICR_RXT0 | regs.ICR_TXDW)
    driver.irq.sent.clear()
    rig.wire(b"\xff" * 64)
    assert driver.irq.sent == ([("msi", 0)] if message else [])
    assert driver.irq.level is not message
    driver.send(bytes(64))
    assert driver.read(regs.ICR) == regs.ICR_RXT0 | regs.ICR_TXDW | regs.ICR_TXQE | ASSERTED
    assert not driver.irq.level
    assert driver.read(regs.ICR) == 0


def test_no_message_leaves_without_bus_mastering(running: Rig) -> None:
    running.driver.bus_master(False)
    running.set_link(False)
    assert running.driver.vectors() == []
    assert running.change.interrupt_us is None
