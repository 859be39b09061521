"""The link as the guest's driver sees it: GET_LINK, ECR_LINK with an interrupt at every call, the journal's steps.

The values are those observed on QEMU: 03e80001 and 03e80000.
"""

from __future__ import annotations

import pytest
from tests.fakes.events import as_sent
from tests.unit.nic_vmxnet3.conftest import MAC, Rig

from vnic.nic.vmxnet3 import regs as r

UP, DOWN = 0x03E80001, 0x03E80000


def last_step(rig: Rig) -> dict[str, object]:
    found: dict[str, object] = as_sent(rig.network.journal.select("nic0")[-1])
    return found


def driver_of(rig: Rig) -> tuple[bool, bool]:
    return rig.nic.guest.driver_ok, rig.nic.guest.admin_down


def test_link_is_read_by_get_link(running: Rig) -> None:
    driver = running.driver
    assert driver.look_at_link() == UP
    running.set_link(False)
    assert driver.look_at_link() == DOWN
    assert running.nic.guest.seen == "down"
    running.set_link(True)
    assert driver.look_at_link() == UP


def test_each_call_sets_event_and_interrupts(running: Rig) -> None:
    """Also one that changes nothing, as QEMU's."""
    driver = running.driver
    for up in (False, False, True, True):
        running.set_link(up)
        assert driver.sent() == [driver.event_interrupt]
        assert driver.handle_events() == r.ECR_LINK
        assert driver.events() == 0
    assert driver.seen_links[-4:] == [False, False, True, True]


def test_flaps_before_driver_acts_interrupt_once(running: Rig) -> None:
    """The interrupt masks itself until the driver has handled it; then the second one comes."""
    driver = running.driver
    for up in (False, True, False):
        running.set_link(up)
    assert driver.sent() == [driver.event_interrupt]
    driver.handle_events()
    assert driver.sent() == [driver.event_interrupt]
    assert driver.handle_events() == 0
    assert driver.seen_links[-1] is False


def test_steps_of_change_are_in_journal(running: Rig) -> None:
    running.set_link(False)
    assert {"notified-us", "interrupt-us"} <= last_step(running).keys()
    assert "seen-us" not in last_step(running)
    running.driver.handle_events()
    assert "seen-us" in last_step(running)
    assert [name for name, _ in running.events] == ["LINK_CHANGED", "LINK_SEEN"]


def test_masked_change_interrupts_at_unmask(running: Rig) -> None:
    driver = running.driver
    driver.mask(driver.event_interrupt, True)
    running.set_link(False)
    assert driver.sent() == []
    assert "notified-us" in last_step(running)
    assert "interrupt-us" not in last_step(running)
    driver.mask(driver.event_interrupt, False)
    assert driver.sent() == [driver.event_interrupt]
    assert "interrupt-us" in last_step(running)


def test_polled_event_needs_no_interrupt(running: Rig) -> None:
    driver = running.driver
    driver.mask(driver.event_interrupt, True)
    running.set_link(False)
    driver.write(r.VD_BAR, r.ECR, r.ECR_LINK)
    driver.mask(driver.event_interrupt, False)
    assert driver.sent() == [driver.event_interrupt]
    assert "interrupt-us" not in last_step(running)


def test_change_before_the_driver_writes_no_memory(rig: Rig) -> None:
    """QEMU writes the event to where a shared area at address 0 would have it."""
    rig.driver.probe()
    rig.set_link(False)
    assert rig.driver.events() == 0
    assert rig.driver.look_at_link() == DOWN
    assert last_step(rig)["link"] == "down"
    assert "seen-us" in last_step(rig)


@pytest.mark.parametrize("way", ["bus", "command", "quiesce"])
def test_resets_keep_link_down(running: Rig, way: str) -> None:
    running.set_link(False)
    if way == "bus":
        running.device.reset()
        running.driver.bus_master()
    else:
        running.driver.write(r.VD_BAR, r.CMD, r.RESET_DEV if way == "command" else r.QUIESCE_DEV)
    assert running.driver.look_at_link() == DOWN
    assert not running.nic.guest.driver_ok


def test_guest_boots_without_signal() -> None:
    rig = Rig(link=False)
    assert rig.driver.probe() == MAC
    assert rig.driver.seen_links == [False]
    assert rig.nic.guest.seen == "down"
    rig.driver.start()
    rig.set_link(True)
    rig.driver.handle_events()
    assert rig.driver.seen_links[-1] is True
    rig.close()


def test_holds_of_peer_bring_link_down(running: Rig) -> None:
    running.network.set_link("net0", False, "test")
    running.driver.handle_events()
    running.network.set_link("nic0", True, "test")
    running.driver.handle_events()
    running.network.set_link("net0", True, "test")
    running.driver.handle_events()
    running.network.delete_netdev("net0", "test")
    running.driver.handle_events()
    assert running.driver.seen_links[-4:] == [False, False, True, False]


def test_driver_is_shown_while_active(rig: Rig) -> None:
    driver = rig.driver
    assert driver_of(rig) == (False, False)
    driver.probe()
    assert driver_of(rig) == (False, True)
    driver.start()
    assert driver_of(rig) == (True, False)
    driver.write(r.VD_BAR, r.CMD, r.QUIESCE_DEV)
    assert driver_of(rig) == (False, True)


@pytest.mark.parametrize("kind", ["msi", "intx"])
def test_other_interrupts(rig: Rig, kind: str) -> None:
    driver = rig.driver
    driver.probe(kind)
    driver.start()
    rig.set_link(False)
    if kind == "msi":
        assert driver.irq.sent == [("msi", 0)]
        assert driver.read(r.VD_BAR, r.ICR) == 0
    else:
        assert [driver.read(r.VD_BAR, r.ICR) for _ in range(2)] == [1, 0]
        assert driver.irq.edges == [True, False]
    assert driver.read(r.PT_BAR, r.IMR) == 1
    rig.set_link(True)
    assert driver.irq.edges in ([], [True, False])
    assert driver.handle_events() == r.ECR_LINK
    assert driver.irq.edges == [True, False, True] or driver.irq.sent == [("msi", 0)] * 2
    assert driver.seen_links[-1] is True
