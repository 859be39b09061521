"""The link as a driver sees it: in the PHY, without an interrupt, or in the SIA, with one; and the journal's steps."""

from __future__ import annotations

import pytest
from tests.fakes.tulip_driver import IC, LC, LNF, LNP, MII_MODE, SIA_MODE, TX_RING
from tests.unit.nic_tulip.conftest import MAC, Rig

FRAME = bytes.fromhex("525400000002") + MAC + b"\x12\x34" + bytes(46)
FULL_DUPLEX = 0x200


def test_phy_shows_the_link(running: Rig) -> None:
    driver = running.driver
    assert driver.mii_read(1, 1) == 0x702C
    edges = list(driver.irq.edges)
    for up in (False, False, True, False, True):
        running.set_link(up)
        assert driver.mii_read(1, 1) == (0x702C if up else 0x7008)
    assert driver.irq.edges == edges


def test_read_of_bmsr_is_seen(running: Rig) -> None:
    running.set_link(False)
    assert "notified-us" in running.last_step()
    running.driver.read(12)
    running.driver.mii_read(1, 5)
    running.driver.mii_read(2, 1)
    assert "seen-us" not in running.last_step()
    running.driver.mii_read(1, 1)
    assert "seen-us" in running.last_step()
    assert "interrupt-us" not in running.last_step()
    assert running.nic.guest.seen == "down"


@pytest.mark.parametrize(
    ("mode", "down", "up"), [(SIA_MODE, LNF, LNP), (0x83860000, LC, LC)], ids=["10BASE-T", "100BASE-TX"]
)
def test_sia_shows_the_link_and_interrupts(rig: Rig, mode: int, down: int, up: int) -> None:
    driver = rig.driver
    driver.start(mode)
    driver.write(13, 1)
    driver.write(5, 0xFFFFFFFF)
    assert driver.read(12) == 0x5000
    rig.set_link(False)
    assert driver.interrupted()
    assert driver.read(5) & (LNF | LNP | LC) == down
    assert {"interrupt-us", "notified-us"} <= rig.last_step().keys()
    assert "seen-us" not in rig.last_step()
    assert driver.read(12) == 0x2006
    assert "seen-us" in rig.last_step()
    driver.write(5, 0xFFFFFFFF)
    assert not driver.interrupted()
    rig.set_link(True)
    assert driver.interrupted()
    assert driver.read(5) & (LNF | LNP | LC) == up
    assert driver.read(12) == 0x5000


def test_sia_in_reset_does_not_interrupt(rig: Rig) -> None:
    rig.driver.start(SIA_MODE)
    rig.driver.write(13, 0)
    rig.set_link(False)
    assert not rig.driver.read(5) & LNF
    assert rig.driver.read(12) == 0x2006


@pytest.mark.parametrize(("duplex", "status"), [(0, 0x8C00), (FULL_DUPLEX, 0)])
def test_frame_without_carrier(rig: Rig, duplex: int, status: int) -> None:
    rig.driver.start(MII_MODE | duplex)
    rig.set_link(False)
    rig.driver.send(FRAME)
    assert rig.driver.status(TX_RING, 1) == status
    assert rig.netdev.frames == []
    rig.set_link(True)
    rig.driver.piece(FRAME, IC)
    rig.driver.send(FRAME)
    assert rig.netdev.frames == [FRAME]


@pytest.mark.parametrize("way", ["bus", "soft"])
def test_resets_keep_link_down(running: Rig, way: str) -> None:
    running.set_link(False)
    if way == "bus":
        running.device.reset()
    else:
        running.driver.write(0, 1)
    assert running.driver.mii_read(1, 1) == 0x7008


def test_guest_boots_without_signal() -> None:
    rig = Rig(link=False)
    assert rig.driver.mii_read(1, 1) == 0x7008
    assert rig.nic.guest.seen == "down"
    rig.set_link(True)
    assert rig.driver.mii_read(1, 1) == 0x702C
    rig.close()
