"""Tests of passt and user: the arguments of passt, its start, end and restart. A script stands in for passt."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from tests.fakes import passt_program
from tests.processes import is_alive
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import (
    NetdevOptions,
    PasstOptions,
    String,
    UserOptions,
)
from vnic.backend.passt.arguments import passt_arguments
from vnic.backend.user.backend import UserPlan
from vnic.net.errors import NetError


def strings(*texts: str) -> list[String]:
    return [String(text=text) for text in texts]


def test_arguments_match_qemu() -> None:
    options = PasstOptions(
        id="p",
        mtu=1500,
        address="10.0.0.9",
        mac="02:00:00:00:00:01",
        search=strings("a.org", "b.org"),
        dhcp_dns=False,
        tcp=True,
        udp=False,
        freebind=True,
        ipv6=False,
        tcp_ports=strings("22", "80:8080"),
        param=strings("--trace", "-l", "x"),
    )
    expected = (
        "passt --quiet --mtu 1500 --address 10.0.0.9 --mac-addr 02:00:00:00:00:01 --no-dhcp-dns --no-udp --ipv4-only"
        " --freebind --search|a.org b.org|--tcp-ports 22,80:8080 --trace -l x"
    )
    words = expected.replace("|", "\0").replace(" ", "\1").replace("a.org\1b.org", "a.org b.org")
    assert passt_arguments(options) == re.split("[\0\1]", words)
    assert passt_arguments(PasstOptions(id="p", path="/x/passt", quiet=False)) == ["/x/passt"]


@pytest.mark.parametrize(
    ("options", "desc"),
    [
        (PasstOptions(id="p", mac="zz"), "Property 'passt.mac' doesn't take value 'zz'"),
        (
            PasstOptions(id="p", mac="01:00:00:00:00:01"),
            "Property 'passt.mac' doesn't take value '01:00:00:00:00:01': it is a multicast address",
        ),
        (PasstOptions(id="p", mtu=99999999), "Parameter 'mtu' must be from 0 to 65535"),
        (PasstOptions(id="p", mtu=-1), "Parameter 'mtu' must be from 0 to 65535"),
    ],
)
def test_bad_option_is_refused_by_key(options: PasstOptions, desc: str) -> None:
    with pytest.raises(NetError) as refused:
        passt_arguments(options)
    assert refused.value.desc == desc


# -- life -------------------------------------------------------------------------------------------------------------


def test_killed_passt_is_restarted(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(PasstOptions(id="net0", path=passt_program.install(tmp_path)))
            assert lab.why("net0") == "starting passt"
            assert netdev.endpoint.info_text(0) == "launching passt"
            for _ in range(2):
                await until(lambda: nic.link_up)
                pid = int(netdev.endpoint.info_text(0).removeprefix("stream,connected to pid "))
                nic.send(0, b"there and back")
                await until(lambda: guest.got == [b"there and back"])
                guest.got.clear()
                os.kill(pid, signal.SIGKILL)
                await until(lambda: not nic.link_up)
                assert lab.why_last_down("net0") == "passt ended; it is started again"
            await until(lambda: nic.link_up)
            assert guest.link == [True, False] * 2 + [True]
            assert {name for name, _ in lab.events} == {"LINK_CHANGED"}, (
                "QEMU's passt emits no events of its own"
            )
            pid = int(netdev.endpoint.info_text(0).removeprefix("stream,connected to pid "))
        await until(lambda: not is_alive(pid))

    run(main())


def test_failed_start_is_logged_and_retried(tmp_path: Path) -> None:
    async def main() -> None:
        block = tmp_path / "block"
        block.touch()
        options = PasstOptions(
            id="net0", path=passt_program.install(tmp_path), param=strings("--fail-while", str(block))
        )
        async with Lab() as lab:
            _, nic, _ = lab.wire(options)
            await until(lambda: lab.why("net0") == "passt failed: not yet; it is started again")
            await until(lambda: lab.why("net0").startswith("passt failed: not yet, 3 times in a row or more"))
            block.unlink()
            await until(lambda: nic.link_up)

    run(main())


def test_too_old_passt_is_not_retried(tmp_path: Path) -> None:
    async def main() -> None:
        options = PasstOptions(id="net0", path=passt_program.install(tmp_path), param=strings("--too-old"))
        async with Lab() as lab:
            lab.add(options)
            text = "passt does not know --too-old: the one that is installed is too old"
            await until(lambda: lab.why("net0") == text)

    run(main())


def test_missing_passt_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lab() as lab:
            for vhost_user in (False, True):
                options = PasstOptions(id="p", path=str(tmp_path / "none"), vhost_user=vhost_user)
                with pytest.raises(
                    NetError, match=r"Failed to execute child process .*No such file or directory"
                ):
                    lab.add(options)
            assert not list(lab.network.clients)

    run(main())


def test_netdev_can_be_deleted_while_passt_starts(tmp_path: Path) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with Lab() as lab:
            lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path)))
            lab.network.delete_netdev("net0", "test")
            lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path), vhost_user=True))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # when the old processes have ended

    run(main())


# -- user -------------------------------------------------------------------------------------------------------------

PLAIN = (
    "passt --quiet --address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 --mac-addr 52:55:0a:00:02:02"
    " --dns-forward 10.0.2.3"
)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (UserOptions(id="u"), f"{PLAIN} --tcp-ports none --udp-ports none"),
        (UserOptions(id="u", ipv6=False), f"{PLAIN} --ipv4-only --tcp-ports none --udp-ports none"),
        (UserOptions(id="u", ipv4=True), f"{PLAIN} --ipv4-only --tcp-ports none --udp-ports none"),
        (UserOptions(id="u", ipv4=False), "passt --quiet --ipv6-only --tcp-ports none --udp-ports none"),
        (UserOptions(id="u", ipv6=True), "passt --quiet --ipv6-only --tcp-ports none --udp-ports none"),
        (
            UserOptions(id="u", net="192.168.7.0/26", host="192.168.7.62", dhcpstart="192.168.7.9"),
            "passt --quiet --address 192.168.7.9 --netmask 26 --gateway 192.168.7.62 --mac-addr 52:55:c0:a8:07:3e"
            " --dns-forward 192.168.7.3 --tcp-ports none --udp-ports none",
        ),
        (
            UserOptions(
                id="u",
                hostfwd=strings("tcp::2222-:22", ":127.0.0.1:8080-10.0.2.15:80", "udp:0.0.0.0:53-:5353"),
            ),
            f"{PLAIN} --tcp-ports 2222:22 --tcp-ports 127.0.0.1/8080:80 --udp-ports 53:5353",
        ),
        (
            UserOptions(id="u", restrict=True, hostname="vm"),
            f"{PLAIN} --hostname vm --no-icmp --no-map-gw --no-dhcp-dns"
            " --no-tcp --tcp-ports none --no-udp --udp-ports none",
        ),
        (
            UserOptions(id="u", ipv6_prefix="fd00:1::"),
            f"{PLAIN} --address fd00:1::15 --gateway fd00:1::2 --dns-forward fd00:1::3"
            " --tcp-ports none --udp-ports none",
        ),
    ],
)
def test_user_options_become_passt_arguments(options: UserOptions, arguments: str) -> None:
    assert " ".join(UserPlan(options).arguments()) == arguments


@pytest.mark.parametrize(
    ("options", "net", "host", "guest"),
    [
        (UserOptions(id="u", net="10.9.0.0/16"), "10.9.0.0/16", "10.9.2.2", "10.9.2.15"),
        (UserOptions(id="u", net="10.9.4.0/28"), "10.9.4.0/28", "10.9.4.2", "10.9.4.15"),
        (UserOptions(id="u", net="10.9.4.1"), "10.0.0.0/8", "10.0.2.2", "10.0.2.15"),
        (UserOptions(id="u", net="172.20.0.0"), "172.16.0.0/12", "172.16.2.2", "172.16.2.15"),
        (UserOptions(id="u", net="172.40.5.0"), "172.40.0.0/16", "172.40.2.2", "172.40.2.15"),
        (UserOptions(id="u", net="192.168.76.0"), "192.168.0.0/16", "192.168.2.2", "192.168.2.15"),
        (UserOptions(id="u", net="192.0.2.16"), "192.0.2.16/28", "192.0.2.18", "192.0.2.31"),
        (UserOptions(id="u", ip="10.3.7.5"), "10.3.7.0/24", "10.3.7.2", "10.3.7.15"),
        (UserOptions(id="u", ip="10.3.7.5", net="10.4.0.0/16"), "10.4.0.0/16", "10.4.2.2", "10.4.2.15"),
    ],
)
def test_addresses_match_qemu(options: UserOptions, net: str, host: str, guest: str) -> None:
    """As QEMU 7.2's own -netdev user gave them to a DHCP client."""
    plan = UserPlan(options)
    assert (str(plan.net), str(plan.host), str(plan.guest)) == (net, host, guest)


FORWARD = "Invalid host forwarding rule '{}' ({})"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (UserOptions(id="u", tftp="x"), "Parameter 'tftp' of user is not built in"),
        (UserOptions(id="u", bootfile="x"), "Parameter 'bootfile' of user is not built in"),
        (UserOptions(id="u", tftp_server_name="x"), "Parameter 'tftp-server-name' of user is not built in"),
        (UserOptions(id="u", smb="x"), "Parameter 'smb' of user is not built in"),
        (UserOptions(id="u", smbserver="x"), "Parameter 'smbserver' of user is not built in"),
        (UserOptions(id="u", domainname="x"), "Parameter 'domainname' of user is not built in"),
        (UserOptions(id="u", guestfwd=strings("x")), "Parameter 'guestfwd' of user is not built in"),
        (UserOptions(id="u", ipv4=False, ipv6=False), "IPv4 and IPv6 disabled"),
        (UserOptions(id="u", net="10.0.2"), "Failed to parse netmask"),
        (UserOptions(id="u", net="10.0.2.0/x"), "Failed to parse netmask (trailing chars)"),
        (UserOptions(id="u", net="10.0.2.0/33"), "Invalid netmask provided (must be in range 4-32)"),
        (UserOptions(id="u", dns="x"), "Failed to parse DNS"),
        (UserOptions(id="u", dhcpstart="x"), "Failed to parse DHCP start address"),
        (UserOptions(id="u", dhcpstart="1.2.3.4"), "DHCP doesn't belong to network"),
        (UserOptions(id="u", ipv6_prefixlen=127), "IPv6 prefix length must be between 0 and 126"),
        (UserOptions(id="u", net="10.0.2.0/30"), "DHCP must be different from host and DNS"),
        (UserOptions(id="u", net="10.0.2.0/32"), "DNS must be different from host"),
        (UserOptions(id="u", ip="10.0.2.0/8"), "Failed to parse netmask (trailing chars)"),
        (UserOptions(id="u", restrict=True, dns="8.8.8.8"), "DNS doesn't belong to network"),
        (UserOptions(id="u", ipv4=False, net="10.0.2.0/24"), "IPv4 disabled but netmask/host/dns provided"),
        (UserOptions(id="u", ipv6=True, host="10.0.2.1"), "IPv4 disabled but netmask/host/dns provided"),
        (
            UserOptions(id="u", ipv6=False, ipv6_host="fec0::5"),
            "IPv6 disabled but prefix/host6/dns6 provided",
        ),
        (
            UserOptions(id="u", ipv4=True, ipv6_prefix="fec0::"),
            "IPv6 disabled but prefix/host6/dns6 provided",
        ),
        (UserOptions(id="u", ipv6_host="fe00::1"), "IPv6 Host doesn't belong to network"),
        (UserOptions(id="u", restrict=True, ipv6_dns="2001::1"), "IPv6 DNS doesn't belong to network"),
        (UserOptions(id="u", ipv6_prefixlen=48), "'ipv6-prefixlen' of user has to be 64"),
        (UserOptions(id="u", host="10.0.3.2"), "Host doesn't belong to network"),
        (UserOptions(id="u", dns="10.0.2.2"), "DNS must be different from host"),
        (UserOptions(id="u", dhcpstart="10.0.2.3"), "DHCP must be different from host and DNS"),
        (
            UserOptions(id="u", ipv6_prefixlen=60, ipv6_prefix="fd00::"),
            "'ipv6-prefixlen' of user has to be 64",
        ),
        (UserOptions(id="u", ipv6_prefix="zz"), "Failed to parse IPv6 prefix"),
        *(
            (UserOptions(id="u", hostfwd=strings(rule)), FORWARD.format(rule, reason))
            for rule, reason in (
                ("tcp", "No : separators"),
                ("sctp::1-:1", "Bad protocol name"),
                ("tcp:1", "Missing : separator"),
                ("tcp::1", "Bad host port separator"),
                ("tcp::1-", "Missing guest address"),
                ("tcp:x:1-:1", "Bad host address"),
                ("tcp::x-:1", "Bad host port"),
                ("tcp::70000-:1", "Bad host port"),
                ("tcp::1-x:1", "Bad guest address"),
                ("tcp::1-:0", "Bad guest port"),
                ("tcp::1-10.0.2.99:1", "passt forwards to the guest that it serves only: 10.0.2.15"),
            )
        ),
    ],
)
def test_unsupported_user_option_is_refused_by_name(options: NetdevOptions, text: str) -> None:
    async def main() -> None:
        async with Lab() as lab:
            with pytest.raises(NetError, match=re.escape(text)):
                lab.add(options)

    run(main())
