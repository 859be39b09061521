"""FRR with OSPF and BFD: a fault behind a switch, which shows in no carrier, moves the route to the other path."""

from pathlib import Path

import vnic

LAB = Path(__file__).with_name("frr-bfd.yml")
PING = "until ping -c 1 -W 1 10.0.2.2; do :; done"
ROUTE = "ip route show 10.0.2.0/24"


def wait_path(router: vnic.Guest, interface: str) -> None:
    router.run(f"until {ROUTE} | grep -q 'dev {interface}'; do sleep 0.1; done")


def test_bfd_finds_what_no_carrier_shows() -> None:
    with vnic.Lab(LAB) as lab:
        r1, h1 = lab.guest("r1"), lab.guest("h1")
        r1.run("until [ $(vtysh -c 'show bfd peers brief' | grep -c ' up ') = 2 ]; do sleep 0.1; done")
        wait_path(r1, "eth1")
        h1.run(PING)
        with lab.nic("r2:eth1").unplugged():
            wait_path(r1, "eth2")
            assert r1.carrier("eth1")
            r1.run("grep 'up -> down reason:control-expired' /tmp/frr.log")
            h1.run(PING)
        wait_path(r1, "eth1")
        h1.run(PING)
