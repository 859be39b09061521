"""`vnic run` and the verbs with a real kernel behind the NIC: the steps that a new user takes by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.process import Place

from vnic.lab.guest.kit import find_uml
from vnic.lab.guest.uml import UmlGuest

pytestmark = [pytest.mark.guest, pytest.mark.needs("uml")]

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"


@pytest.fixture
def guest(place: Place) -> Iterator[UmlGuest]:
    """A User-Mode Linux on nic0, which is plugged into an echo."""
    kit = find_uml()
    with (
        place.run("-netdev", "echo,id=net0", "-device", NIC),
        UmlGuest([place.path("nic0.sock")], kit=kit) as booted,
    ):
        yield booted


def test_link_verbs_reach_the_guest(place: Place, guest: UmlGuest) -> None:
    assert guest.carrier()
    guest.run("ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ping -c 1 -W 10 10.0.2.2")
    for end in ("nic0", "net0"):
        for word in ("down", "up"):
            result = place.verb("link", "set", end, word, "--wait", "30")
            assert (result.returncode, result.stderr) == (0, "")
            assert guest.carrier() is (word == "up")
    assert place.verb("netdev", "del", "net0").returncode == 0
    assert guest.wait_carrier(False)
    said = place.verb("why", "nic0").stdout
    assert "held by no-peer: netdev net0 was deleted" in said
    assert "guest: it saw down" in said
    assert place.verb("netdev", "add", "echo,id=net0").returncode == 0
    assert guest.wait_carrier(True)
    guest.run("ping -c 1 -W 10 10.0.2.2")


def test_a_nic_that_is_deleted_leaves_the_guest(place: Place, guest: UmlGuest) -> None:
    assert place.verb("device", "del", "nic0").returncode == 0
    assert (
        guest.try_run(
            "for i in $(seq 300); do [ -e /sys/class/net/eth0 ] || exit 0; sleep 0.1; done; exit 1"
        ).status
        == 0
    )
    assert place.verb("link").stdout.splitlines()[1:] == ["net0\tnetdev\techo\tup\tup\t-\t-\t0\t-"]


def test_a_cable_that_is_out_at_boot_is_out(place: Place) -> None:
    kit = find_uml()
    with (
        place.run("-netdev", "echo,id=net0", "-device", f"{NIC},link=off"),
        UmlGuest([place.path("nic0.sock")], kit=kit) as booted,
    ):
        assert not booted.carrier()
        assert place.verb("link", "set", "nic0", "up", "--wait", "30").returncode == 0
        assert booted.wait_carrier(True)
