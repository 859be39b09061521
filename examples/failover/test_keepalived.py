"""Two routers that share an address by VRRP: the second takes it over when the first loses its uplink or its port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import vnic

LAB = Path(__file__).with_name("keepalived.yml")
PING = "until ping -c 1 -W 1 10.0.0.254; do :; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[vnic.Lab]:
    with vnic.Lab(LAB) as running:
        yield running


def wait_address(router: vnic.Guest) -> None:
    router.run("until ip addr show eth1 | grep -q 10.0.0.254; do sleep 0.1; done")


@pytest.mark.parametrize("pulled", ["r1:eth2", "r1:eth1"])
def test_the_second_router_takes_over(lab: vnic.Lab, pulled: str) -> None:
    r1, r2, host = lab.guest("r1"), lab.guest("r2"), lab.guest("host")
    wait_address(r1)
    host.run(PING)
    with lab.nic(pulled).unplugged():
        wait_address(r2)
        host.run(PING)
    wait_address(r1)
    host.run(PING)
