"""systemd-networkd: the routes of the first uplink go with its carrier, and come back with it."""

from pathlib import Path

import vnic

LAB = Path(__file__).with_name("networkd.yml")


def wait_path(server: vnic.Guest, interface: str) -> None:
    server.run(f"until ip route get 192.0.2.1 | grep -q 'dev {interface}'; do sleep 0.1; done")
    server.run("until ping -c 1 -W 1 192.0.2.1; do :; done")


def test_the_second_uplink_takes_over() -> None:
    with vnic.Lab(LAB) as lab:
        server = lab.guest("server")
        wait_path(server, "eth1")
        with lab.nic("server:eth1").unplugged():
            wait_path(server, "eth2")
        wait_path(server, "eth1")
