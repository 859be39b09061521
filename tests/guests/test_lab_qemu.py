"""A lab of one UML and one QEMU guest: a cable pulled at either end is seen by the driver at the other."""

from __future__ import annotations

import pytest

import vnic

MIXED = {
    "name": "mixed",
    "nodes": {"u": {"kind": "uml"}, "q": {"kind": "qemu", "model": "e1000"}},
    "links": [{"endpoints": ["u:eth1", "q:lan0"], "ipv4": ["10.0.1.1/24", "10.0.1.2/24"]}],
}
SEEN_S = 60

pytestmark = [
    pytest.mark.needs("uml", "qemu-guest"),
    pytest.mark.vnic_lab(MIXED),
    pytest.mark.usefixtures("own_labs"),
]


def test_frames_pass(vnic_lab: vnic.Lab) -> None:
    assert " 0% packet loss" in vnic_lab.guest("q").run("ping -c 1 -W 30 10.0.1.1")


@pytest.mark.parametrize(
    ("near", "far", "interface"), [("u:eth1", "q:lan0", "lan0"), ("q:lan0", "u:eth1", "eth1")]
)
def test_a_cable_that_is_pulled_at_one_end(vnic_lab: vnic.Lab, near: str, far: str, interface: str) -> None:
    guest = vnic_lab.guest(far[0])
    with vnic_lab.nic(near).unplugged(wait=SEEN_S):
        assert vnic_lab.nic(far).wait_seen("down", timeout=SEEN_S).cause.kind == "far-end"
        assert guest.wait_carrier(False, interface)
    assert guest.wait_carrier(True, interface)
