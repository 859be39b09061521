"""Booting: with the cable out, with two NICs, and again after a reset."""

from __future__ import annotations

import time

import pytest
from tests.guests.lab import ECHO, nic, uml, vnic_run

from vnic.lab.guest.errors import BootFailed


def test_boots_with_the_cable_out() -> None:
    with vnic_run("-name", "out", *ECHO, *nic("nic0", link="off")) as running, uml(running, "nic0") as guest:
        assert not guest.carrier()
        assert guest.run("cat /sys/class/net/eth0/carrier_up_count") == "0"
        assert running.qmp.link("nic0")["guest"]["seen"] == "down"
        running.qmp.set_link("nic0", True)
        assert guest.wait_carrier(True)


def test_two_nics_are_held_apart_and_ping_by_both_protocols() -> None:
    options = (*ECHO, "-netdev", "echo,id=net1,ip=10.0.3.2", *nic("nic0"), *nic("nic1", "net1"))
    with (
        vnic_run("-name", "two", *options) as running,
        uml(running, "nic0", "nic1", modules=["ipv6"]) as guest,
    ):
        for index in range(2):
            assert guest.carrier(f"eth{index}")
            found = guest.run(f"cat /sys/class/net/eth{index}/address")
            assert found == running.qmp.link(f"nic{index}")["mac"]
            guest.set_address(f"10.0.{2 + index}.15/24", f"eth{index}")
            assert guest.ping(f"10.0.{2 + index}.2") is not None
        running.qmp.set_link("nic1", False)
        assert guest.wait_carrier(False, "eth1")
        assert guest.carrier("eth0")
        assert guest.ping("10.0.2.2") is not None
        guest.run("ip addr add fec0::15/64 dev eth0; ping -6 -c 2 -W 10 fec0::2")


def test_a_reset_guest_finds_its_link_as_it_was() -> None:
    with vnic_run("-name", "reset", *ECHO, *nic("nic0")) as running, uml(running, "nic0") as guest:
        running.qmp.set_link("nic0", False)
        assert guest.wait_carrier(False)
        guest.reboot()
        assert not guest.carrier()
        running.qmp.set_link("nic0", True)
        assert guest.wait_carrier(True)
        guest.set_address("10.0.2.15/24")
        assert guest.ping("10.0.2.2") is not None


def test_a_guest_that_is_killed_leaves_the_nic_to_the_next() -> None:
    with vnic_run("-name", "next", *ECHO, *nic("nic0")) as running:
        for _ in range(2):
            with uml(running, "nic0") as guest:
                assert guest.carrier()
                guest.close()
            deadline = time.monotonic() + 30
            while running.qmp.link("nic0")["guest"]["attached"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_a_nic_that_has_a_guest_is_not_given_to_another() -> None:
    with vnic_run("-name", "taken", *ECHO, *nic("nic0")) as running, uml(running, "nic0") as guest:
        with pytest.raises(BootFailed, match="did not answer, or has a guest already"), uml(running, "nic0"):
            pass
        running.qmp.set_link("nic0", False)
        assert guest.wait_carrier(False)
