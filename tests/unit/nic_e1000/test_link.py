"""The link as the guest's driver sees it: bits, interrupts, the 500 ms of negotiation, and the journal's steps.

The values and the moments are those observed on QEMU: down at once with LSC, a repetition is nothing, up after
500 ms with LSC, a flap is LSC twice.
"""

from __future__ import annotations

import pytest
from tests.fakes.e1000_driver import LINK_BITS
from tests.fakes.events import as_sent
from tests.unit.nic_e1000.conftest import Rig

from vnic.nic.intel import regs

LU = regs.STATUS_LU


def last_step(rig: Rig) -> dict[str, object]:
    found: dict[str, object] = as_sent(rig.network.journal.select("nic0")[-1])
    return found


def seen(rig: Rig) -> str:
    return rig.nic.guest.seen


def test_link_down_is_immediate_and_repetition_ignored(running: Rig) -> None:
    driver = running.driver
    assert driver.phy_read(1) == 0x794D
    running.set_link(False)
    assert driver.irq.edges == [True]
    assert not driver.read(regs.STATUS) & LU
    assert driver.phy_read(1) == 0x7949
    assert driver.handle_interrupt() == LINK_BITS
    running.set_link(False)
    assert driver.read(regs.ICR) == 0
    assert driver.irq.edges == [True, False]


def test_link_up_takes_500_ms(running: Rig) -> None:
    driver = running.driver
    running.set_link(False)
    driver.handle_interrupt()
    running.set_link(True)
    assert not driver.irq.level
    running.scheduler.advance(0.499)
    assert not driver.read(regs.STATUS) & LU
    running.scheduler.advance(0.002)
    assert driver.read(regs.STATUS) & LU
    assert driver.handle_interrupt() == LINK_BITS
    assert driver.phy_read(1) == 0x796D
    assert driver.phy_read(5) & 0x4000
    running.set_link(True)
    assert driver.read(regs.ICR) == 0
    assert driver.seen_links == [False, True]


def test_flap_during_negotiation_sends_no_second_interrupt(running: Rig) -> None:
    running.set_link(False)
    running.driver.handle_interrupt()
    for _ in range(1000):
        running.set_link(True)
        running.scheduler.advance(0.0001)
        running.set_link(False)
    running.scheduler.advance(10)
    assert running.driver.read(regs.ICR) == 0
    assert not running.driver.read(regs.STATUS) & LU
    assert last_step(running)["link"] == "down"


def test_link_up_without_negotiation_is_immediate() -> None:
    for rig in (Rig(autonegotiation=False), Rig()):
        rig.driver.start()
        if rig.device.link._negotiate:
            rig.driver.phy_write(0, 0x0140)
        rig.set_link(False)
        rig.driver.handle_interrupt()
        rig.set_link(True)
        assert rig.driver.read(regs.STATUS) & LU
        assert rig.driver.phy_read(1) == 0x794D
        assert rig.driver.handle_interrupt() == LINK_BITS
        rig.close()


def test_restart_of_negotiation_interrupts_only_for_return(running: Rig) -> None:
    """As every Linux driver does when its interface is brought up: no interrupt for the loss, one for the return."""
    driver = running.driver
    driver.renegotiate()
    assert driver.read(regs.ICR) == 0
    assert not driver.read(regs.STATUS) & LU
    running.scheduler.advance(0.5)
    assert driver.handle_interrupt() == LINK_BITS
    assert driver.seen_links == [True]
    assert seen(running) == "up"


def test_no_negotiation_while_link_is_down(running: Rig) -> None:
    running.set_link(False)
    running.driver.handle_interrupt()
    running.driver.renegotiate()
    running.scheduler.advance(5)
    assert running.driver.read(regs.ICR) == 0
    assert running.driver.phy_read(1) == 0x7949


def test_phy_power_cycle_renegotiates(running: Rig) -> None:
    driver = running.driver
    driver.phy_write(0, 0x1940)
    assert not driver.read(regs.STATUS) & LU
    running.set_link(False)
    running.set_link(True)
    running.scheduler.advance(5)
    assert not driver.read(regs.STATUS) & LU
    driver.phy_write(0, 0x1140)
    running.scheduler.advance(0.5)
    assert driver.read(regs.STATUS) & LU
    assert driver.read(regs.ICR) == LINK_BITS


def test_phy_reset_by_the_mac_renegotiates(running: Rig) -> None:
    driver = running.driver
    driver.phy_write(4, 1)
    driver.write(regs.CTRL, 1 << 31)
    assert driver.phy_read(4) == 0x0DE1
    running.scheduler.advance(0.5)
    assert driver.handle_interrupt() == LINK_BITS


@pytest.mark.parametrize("way", ["bus", "software"])
def test_resets_keep_link_down(running: Rig, way: str) -> None:
    running.set_link(False)
    if way == "bus":
        running.device.reset()
    else:
        running.driver.write(regs.CTRL, regs.CTRL_RST)
    running.scheduler.advance(5)
    assert not running.driver.read(regs.STATUS) & LU
    assert running.driver.phy_read(1) == 0x7949
    assert not running.driver.irq.level


def test_bus_reset_during_negotiation_leaves_link_up(running: Rig) -> None:
    running.driver.renegotiate()
    running.device.reset()
    assert running.driver.read(regs.STATUS) & LU
    running.scheduler.advance(5)
    assert running.driver.read(regs.ICR) == 0


def test_guest_boots_without_signal() -> None:
    rig = Rig(link=False)
    rig.driver.probe()
    assert not rig.driver.read(regs.STATUS) & LU
    assert seen(rig) == "down"
    rig.set_link(True)
    rig.scheduler.advance(0.5)
    assert rig.driver.read(regs.STATUS) & LU
    rig.close()


def test_holds_of_peer_bring_link_down(running: Rig) -> None:
    running.network.set_link("net0", False, "test")
    assert running.driver.handle_interrupt() == LINK_BITS
    running.network.set_link("nic0", True, "test")
    running.scheduler.advance(5)
    assert running.driver.read(regs.ICR) == 0
    running.network.set_link("net0", True, "test")
    running.scheduler.advance(0.5)
    assert running.driver.handle_interrupt() == LINK_BITS
    running.network.delete_netdev("net0", "test")
    assert running.driver.handle_interrupt() == LINK_BITS
    assert running.driver.seen_links == [False, True, False]


def test_steps_of_change_are_in_journal(running: Rig) -> None:
    running.set_link(False)
    step = last_step(running)
    assert {"notified-us", "interrupt-us"} <= step.keys()
    assert "seen-us" not in step
    running.driver.handle_interrupt()
    assert "seen-us" in last_step(running)
    assert seen(running) == "down"
    assert [name for name, _ in running.events] == ["LINK_CHANGED", "LINK_SEEN"]

    running.set_link(True)
    running.driver.read(regs.STATUS)  # still down: nothing new is seen
    assert not {"notified-us", "interrupt-us", "seen-us"} & last_step(running).keys()
    running.scheduler.advance(0.5)
    assert {"notified-us", "interrupt-us"} <= last_step(running).keys()
    running.driver.read(regs.STATUS)
    assert "seen-us" in last_step(running)


def test_masked_change_interrupts_at_unmask(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.IMC, LINK_BITS)
    running.set_link(False)
    assert "interrupt-us" not in last_step(running)
    driver.write(regs.IMS, LINK_BITS)
    assert driver.irq.level
    assert "interrupt-us" in last_step(running)


def test_polled_change_is_not_recorded_as_interrupted(running: Rig) -> None:
    driver = running.driver
    driver.write(regs.IMC, LINK_BITS)
    running.set_link(False)
    driver.read(regs.ICR)
    driver.write(regs.IMS, LINK_BITS)
    driver.write(regs.ICS, LINK_BITS)
    assert "interrupt-us" not in last_step(running)


def test_read_of_icr_is_not_seen(running: Rig) -> None:
    running.set_link(False)
    assert running.driver.read(regs.ICR) == LINK_BITS
    assert "seen-us" not in last_step(running)


def test_driver_ok_follows_receiver_enable(rig: Rig) -> None:
    assert rig.nic.guest.attached
    rig.driver.start()
    assert rig.nic.guest.driver_ok
    rig.driver.write(regs.RCTL, 0)
    assert not rig.nic.guest.driver_ok


def test_flaps_leave_no_timers(running: Rig) -> None:
    for _ in range(2000):
        running.set_link(False)
        running.set_link(True)
    live = [entry for entry in running.scheduler._calls if not entry[2].cancelled]
    assert len(live) == 1
    running.scheduler.advance(0.5)
    assert running.driver.read(regs.STATUS) & LU


def test_unplug_and_delete_leave_no_timers(rig: Rig) -> None:
    rig.driver.start()
    rig.driver.renegotiate()
    rig.network.delete_nic("nic0")
    assert all(entry[2].cancelled for entry in rig.scheduler._calls)


def test_negotiation_by_guest_is_not_recorded_as_step(running: Rig) -> None:
    running.driver.renegotiate()
    running.scheduler.advance(0.5)
    running.driver.handle_interrupt()
    assert not {"notified-us", "interrupt-us"} & last_step(running).keys()


def test_change_already_in_status_is_notified_without_interrupt(running: Rig) -> None:
    running.set_link(False)
    running.driver.handle_interrupt()
    running.set_link(True)
    running.set_link(False)
    running.driver.write(regs.ICS, LINK_BITS)
    assert "notified-us" in last_step(running)
    assert "interrupt-us" not in last_step(running)


def test_bus_reset_ends_negotiation_of_change(running: Rig) -> None:
    running.set_link(False)
    running.set_link(True)
    running.device.reset()
    assert "notified-us" in last_step(running)


def test_forced_speed_ends_negotiation(running: Rig) -> None:
    running.driver.renegotiate()
    running.driver.phy_write(0, 0x0140)
    assert running.driver.read(regs.STATUS) & LU
    assert running.driver.phy_read(1) == 0x794D
    running.scheduler.advance(1)
    assert running.driver.handle_interrupt() == LINK_BITS
    assert running.driver.phy_read(1) == 0x794D


def test_interface_that_guest_puts_down_is_told_from_driver_that_leaves(rig: Rig) -> None:
    def guest() -> tuple[bool, bool]:
        return rig.nic.guest.driver_ok, rig.nic.guest.admin_down

    assert guest() == (False, False)
    rig.driver.probe()
    rig.driver.bus_master()
    assert guest() == (False, True)
    rig.driver.start()
    assert guest() == (True, False)
    rig.driver.write(regs.RCTL, 0)
    assert guest() == (False, True)
    rig.driver.write(regs.CTRL, regs.CTRL_RST)  # as Linux' e1000_down does then
    assert guest() == (False, True)
    rig.driver.bus_master(False)
    assert guest() == (False, False)
