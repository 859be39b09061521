"""The link: from a hold on the wire to the PHY's register that the guest reads, without an interrupt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.nic_eepro100.conftest import Rig

from vnic.net.records import HoldKind
from vnic.nic.eepro100 import MODELS
from vnic.nic.eepro100 import registers as r


def set_link(rig: Rig, up: bool) -> None:
    rig.network.set_link("nic0", up, "test")


def test_link_down_and_up_show_at_once_and_are_seen_when_the_guest_looks(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    assert driver.look_at_link()
    assert driver.mdi(1) == 0x782D
    assert driver.mdi(5) == 0x41FE
    for up, status, general in ((False, 0x7809, 0x00), (True, 0x782D, 0x07)):
        set_link(rig, up)
        assert rig.nic.guest.seen == ("down" if up else "up"), "not yet"
        assert not driver.read(r.ACK) & ~r.LEFT_ACTIVE, "no cause tells of it"
        assert driver.mdi(1) == status
        assert rig.nic.guest.seen == ("up" if up else "down")
        assert driver.read(r.GENERAL_STATUS) == general


def test_link_is_seen_by_general_status_as_well(rig: Rig) -> None:
    rig.driver.start()
    set_link(rig, False)
    rig.driver.read(r.GENERAL_STATUS)
    assert rig.nic.guest.seen == "down"


def test_a_link_that_is_down_stays_down_over_each_reset() -> None:
    rig = Rig(link=False)
    driver = rig.driver
    driver.start()
    assert not driver.look_at_link()
    for port in (0, 2):
        driver.write(r.PORT, port, 4)
        assert not driver.look_at_link()
    rig.device.reset()
    assert not driver.look_at_link()
    driver.mdi(0, 0x8000)
    assert driver.mdi(1) == 0x7809
    rig.close()


def test_frames_pass_only_while_the_link_is_up(rig: Rig) -> None:
    driver = rig.driver
    driver.start()
    set_link(rig, False)
    number = driver.send(bytes(60))
    assert driver.status(number) == r.COMPLETE | r.OK
    rig.wire(b"\xff" * 60)
    assert not rig.sent
    assert not driver.received()
    set_link(rig, True)
    driver.send(bytes(60))
    assert len(rig.sent) == 1


def test_the_driver_is_ok_while_it_receives(rig: Rig) -> None:
    driver = rig.driver
    states = []
    steps: tuple[Callable[[], None], ...] = (lambda: None, driver.start, lambda: driver.command(0x04))
    for step in steps:
        step()
        states.append((rig.nic.guest.driver_ok, rig.nic.guest.admin_down))
    assert states == [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize("name", MODELS)
def test_each_chip_has_its_ids_and_its_eeprom(name: str) -> None:
    rig = Rig(name)
    model = MODELS[name]
    config = rig.device.config.read(0, 64)
    assert config[:4] == (0x8086).to_bytes(2, "little") + model.device_id.to_bytes(2, "little")
    assert config[8] == model.revision
    words = [rig.driver.eeprom_word(at) for at in range(64)]
    assert sum(words) & 0xFFFF == 0xBABA
    assert words[5] == model.eeprom_id
    assert rig.device.info_text(0) == f"model={name},macaddr=52:54:00:12:34:56"
    rig.close()


def test_holds_of_the_wire_show(rig: Rig) -> None:
    rig.driver.start()
    rig.netdev.client.hold(HoldKind.DISCONNECTED, "net0", "gone")
    assert not rig.driver.look_at_link()
    rig.netdev.client.release(HoldKind.DISCONNECTED, "net0", "back")
    assert rig.driver.look_at_link()
    assert rig.driver.seen_links == [False, True]
