"""A bond in mode active-backup: the second cable takes over while the first is pulled."""

from pathlib import Path

import vnic

LAB = Path(__file__).with_name("bonding.yml")
PING = "until ping -c 1 -W 1 10.0.0.2; do :; done"
ACTIVE = "cat /sys/class/net/bond0/bonding/active_slave"


def test_the_second_cable_takes_over() -> None:
    with vnic.Lab(LAB) as lab:
        server = lab.guest("server")
        assert server.run(ACTIVE) == "eth1"
        with lab.nic("server:eth1").unplugged():
            server.run(f"until [ $({ACTIVE}) = eth2 ]; do sleep 0.1; done")
            server.run(PING)
        server.run(f"until [ $({ACTIVE}) = eth1 ]; do sleep 0.1; done")
        server.run(PING)
