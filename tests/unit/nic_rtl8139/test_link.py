"""The link as the guest's driver sees it: the values are those observed on QEMU, and the journal's steps."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.events import as_sent
from tests.fakes.rtl8139_driver import OldDriver, PlusDriver
from tests.unit.nic_rtl8139.conftest import Rig

from vnic.nic.rtl8139 import registers as r


def last_step(rig: Rig[Any]) -> dict[str, object]:
    found: dict[str, object] = as_sent(rig.network.journal.select("nic0")[-1])
    return found


def test_values_are_those_of_qemu(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    assert (driver.read(r.BMSR), driver.read(r.MSR)) == (0x782D, 0xD0)
    plus.set_link(False)
    assert (driver.read(r.BMSR), driver.read(r.MSR)) == (0x7829, 0xD4)
    assert driver.read(r.ISR) == 0x0020


def test_every_call_interrupts_also_a_repeated_one(plus: Rig[PlusDriver]) -> None:
    driver = plus.driver
    for up in (True, False, False, True, True):
        plus.set_link(up)
        assert driver.irq.level
        assert driver.handle_interrupt() == r.LINK_CHANGE
        assert not driver.irq.level
    assert driver.seen_links == [True, False, False, True, True]


@pytest.mark.parametrize("register", [r.BMSR, r.MSR])
def test_a_read_of_the_link_is_seen(plus: Rig[PlusDriver], register: int) -> None:
    plus.set_link(False)
    plus.driver.read(r.ISR)
    assert "seen-us" not in last_step(plus)
    plus.driver.read(register)
    assert "seen-us" in last_step(plus)
    assert plus.nic.guest.seen == "down"
    assert [name for name, _ in plus.events] == ["LINK_CHANGED", "LINK_SEEN"]


def test_steps_of_a_change_are_in_the_journal(old: Rig[OldDriver]) -> None:
    old.set_link(False)
    assert {"notified-us", "interrupt-us"} <= last_step(old).keys()
    old.driver.handle_interrupt()
    assert "seen-us" in last_step(old)


def test_masked_change_interrupts_at_unmask(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.IMR, 0)
    plus.set_link(False)
    assert "interrupt-us" not in last_step(plus)
    plus.driver.write(r.IMR, r.LINK_CHANGE)
    assert plus.driver.irq.level
    assert "interrupt-us" in last_step(plus)


def test_polled_change_is_not_recorded_as_interrupted(plus: Rig[PlusDriver]) -> None:
    plus.driver.write(r.IMR, 0)
    plus.set_link(False)
    plus.driver.handle_interrupt()
    plus.driver.write(r.IMR, r.LINK_CHANGE)
    plus.set_link(False)
    assert "interrupt-us" not in last_step(plus)


@pytest.mark.parametrize("way", ["bus", "software", "auto-load", "PHY"])
def test_resets_keep_the_link_down(plus: Rig[PlusDriver], way: str) -> None:
    plus.set_link(False)
    if way == "bus":
        plus.device.reset()
    elif way == "software":
        plus.driver.reset()
    elif way == "auto-load":
        plus.driver.write(r.CR9346, 0x40)
    else:
        plus.driver.write(r.ANAR, 1)
        plus.driver.write(r.BMCR, 0x8000)
    assert plus.driver.read(r.BMSR) == 0x7829
    assert plus.driver.read(r.ANAR) == 0x05E1
    assert way == "PHY" or not plus.driver.irq.level


def test_guest_boots_without_signal() -> None:
    rig = Rig(PlusDriver, link=False)
    rig.driver.probe()
    rig.driver.start()
    assert rig.driver.read(r.BMSR) == 0x7829
    assert rig.nic.guest.seen == "down"
    rig.set_link(True)
    assert rig.driver.handle_interrupt() == r.LINK_CHANGE
    assert rig.driver.seen_links == [True]
    rig.close()


def test_holds_of_the_peer_bring_the_link_down(plus: Rig[PlusDriver]) -> None:
    plus.network.set_link("net0", False, "test")
    plus.driver.handle_interrupt()
    plus.network.set_link("net0", True, "test")
    plus.driver.handle_interrupt()
    plus.network.delete_netdev("net0", "test")
    plus.driver.handle_interrupt()
    assert plus.driver.seen_links == [False, True, False]


def test_driver_ok_follows_the_receiver(plus: Rig[PlusDriver]) -> None:
    def guest() -> tuple[bool, bool]:
        return plus.nic.guest.driver_ok, plus.nic.guest.admin_down

    assert guest() == (True, False)
    plus.driver.write(r.CR, 0)
    assert guest() == (False, True)
    plus.driver.bus_master(False)
    assert guest() == (False, False)
