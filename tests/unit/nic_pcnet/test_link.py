"""The link as the guest's driver polls it: LNKST in BCR4, LCAR while it is down, no interrupt, and the journal."""

from __future__ import annotations

import pytest
from tests.fakes.pcnet_driver import CERR, ENP, ERR, LCAR, OWN, STP, TINT
from tests.unit.nic_pcnet.conftest import MAC, Rig

FRAME = bytes.fromhex("525400000002") + MAC + b"\x12\x34" + bytes(46)


def test_bcr4_shows_the_link_at_once(running: Rig) -> None:
    running.driver.take_interrupt()
    edges = list(running.driver.irq.edges)
    for up in (False, False, True, True, False, True):
        running.set_link(up)
        assert running.driver.bcr(4) == (0x80C0 if up else 0x00C0)
    assert running.driver.irq.edges == edges


def test_read_of_bcr4_is_seen(running: Rig) -> None:
    running.set_link(False)
    step = running.last_step()
    assert "notified-us" in step
    assert "interrupt-us" not in step
    running.driver.csr(0)
    running.driver.bcr(5)
    assert "seen-us" not in running.last_step()
    running.driver.bcr(4)
    assert "seen-us" in running.last_step()
    assert running.nic.guest.seen == "down"
    assert [name for name, _ in running.events] == ["LINK_CHANGED", "LINK_SEEN"]


def test_led_that_does_not_show_the_link_is_not_seen(running: Rig) -> None:
    running.driver.write_bcr(4, 0x0080)
    running.set_link(False)
    assert running.driver.bcr(4) == 0x0080
    assert "seen-us" not in running.last_step()
    running.driver.write_bcr(5, 0x00C4)
    assert running.driver.bcr(5) == 0x00C4
    assert "seen-us" in running.last_step()
    running.set_link(True)
    assert running.driver.bcr(5) == 0x80C4


def test_frame_without_carrier_gets_lcar(running: Rig) -> None:
    driver = running.driver
    driver.take_interrupt()
    running.set_link(False)
    driver.send(FRAME)
    assert driver.sent(0) == (STP | ENP | ERR, LCAR)
    assert driver.interrupted()
    assert driver.take_interrupt() & 0xFF00 == 0x8000 | CERR | TINT
    running.set_link(True)
    driver.send(FRAME)
    assert driver.sent(1) == (STP | ENP, 0)
    assert running.netdev.frames == [FRAME]


@pytest.mark.parametrize(("mode", "lost"), [(0x0004, True), (0x0044, False)])
def test_loopback_inside_needs_no_carrier(rig: Rig, mode: int, lost: bool) -> None:
    rig.driver.start(mode)
    rig.set_link(False)
    rig.driver.send(MAC + FRAME[6:])
    assert rig.driver.sent(0)[1] == (LCAR if lost else 0)
    assert rig.driver.received() == ([] if lost else [MAC + FRAME[6:]])


@pytest.mark.parametrize("way", ["bus", "soft"])
def test_resets_keep_link_down(running: Rig, way: str) -> None:
    running.set_link(False)
    if way == "bus":
        running.device.reset()
    else:
        running.driver.reset()
    assert running.driver.bcr(4) == 0x00C0


def test_guest_boots_without_signal() -> None:
    rig = Rig(link=False)
    rig.driver.probe()
    assert rig.driver.bcr(4) == 0x00C0
    assert rig.nic.guest.seen == "down"
    rig.set_link(True)
    assert rig.driver.bcr(4) == 0x80C0
    rig.close()


def test_holds_of_peer_bring_link_down(running: Rig) -> None:
    running.network.set_link("net0", False, "test")
    assert running.driver.bcr(4) == 0x00C0
    running.network.set_link("net0", True, "test")
    assert running.driver.bcr(4) == 0x80C0
    running.network.delete_netdev("net0", "test")
    assert running.driver.bcr(4) == 0x00C0


def test_link_down_resumes_paused_ring(running: Rig) -> None:
    running.netdev.room = False
    for _ in range(3):
        running.driver.send(FRAME)
    assert running.driver.sent(2)[0] & OWN
    running.set_link(False)
    running.scheduler.run_soon()
    assert running.driver.sent(2) == (STP | ENP | ERR, LCAR)
