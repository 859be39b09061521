"""Tests of user: host forwarding rules that change at run time, and a restricted guest. A script stands in for
passt."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest
from tests.fakes import passt_program
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import String, UserOptions
from vnic.backend.user.backend import UserBackend
from vnic.backend.user.host_forward import TABLE_HEAD, HostForward, parse_rule
from vnic.backend.user.restricted import RestrictedGuest
from vnic.net.errors import NetError

GUEST = "10.0.2.15"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_changed_rules_restart_passt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passt_program.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    port = free_port()

    async def main() -> None:
        async with Lab() as lab:
            netdev, nic, _ = lab.wire(UserOptions(id="net0"))
            user = netdev.endpoint
            assert isinstance(user, UserBackend)
            await until(lambda: nic.link_up)
            assert user.info_usernet() == TABLE_HEAD
            rule = f"tcp:127.0.0.1:{port}-:22"
            user.add_forward(rule)
            assert lab.why("net0") == "passt is started again with other host forwarding rules"
            await until(lambda: nic.link_up)
            arguments = user._keeper._arguments
            assert arguments[arguments.index("--tcp-ports") + 1] == f"127.0.0.1/{port}:22"
            assert user.info_usernet() == (
                f"{TABLE_HEAD}  TCP[HOST_FORWARD]  -1       127.0.0.1 {port:5}       10.0.2.15    22     0     0\n"
            )
            with pytest.raises(NetError, match="Could not set up host forwarding rule"):
                user.add_forward(rule)
            with pytest.raises(NetError, match=r"\(Bad host port\)"):
                user.add_forward("tcp::x-:22")
            assert user.remove_forward("tcp::1") is False
            assert user.remove_forward("xx") is None
            assert user.remove_forward(f":127.0.0.1:{port}") is True
            await until(lambda: nic.link_up)
            assert user.info_usernet() == TABLE_HEAD

    run(main())


def test_busy_port_is_refused_and_passt_keeps_running() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert not parse_rule(f"tcp:127.0.0.1:{other.getsockname()[1]}-:22", GUEST).can_listen()
    assert not parse_rule("udp:192.0.2.1:53-:53", GUEST).can_listen(), "no address of this host"


def test_rule_is_listed_as_in_qemu() -> None:
    """As QEMU 7.2 prints it, but for the descriptor, which is passt's."""
    line = HostForward("udp", "", 2299, GUEST, 22).line()
    assert (
        line.replace(" -1 ", "  3 ")
        == "  UDP[HOST_FORWARD]   3               *  2299       10.0.2.15    22     0     0\n"
    )


# -- restrict=on ----------------------------------------------------------------------------------------------------

SYN, ACK = 0x02, 0x10


def tcp(source: int, flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", source, 40000, 0, 0, 0x50, flags, 0, 0, 0)


def udp(source: int, target: int) -> bytes:
    return struct.pack(">HHHH", source, target, 8, 0)


def ipv4(protocol: int, payload: bytes, fragment: int = 0, words: int = 5) -> bytes:
    header = struct.pack(">BBHHHBBH8x", 0x40 | words, 0, 20 + len(payload), 0, fragment, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + header.ljust(4 * words, b"\0") + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB32x", 6 << 28, len(payload), protocol, 64) + payload


@pytest.mark.parametrize(
    ("frame", "passes"),
    [
        (bytes(12) + b"\x08\x06" + bytes(28), True),
        (ipv4(6, tcp(22, SYN | ACK)), True),
        (ipv4(6, tcp(22, ACK)), True),
        (ipv4(6, tcp(22, ACK), words=6), True),
        (ipv4(6, tcp(22, SYN)), False),
        (ipv4(6, tcp(80, ACK)), False),
        (ipv4(6, tcp(22, ACK), fragment=0x2000), False),
        (ipv4(6, tcp(22, ACK), fragment=1), False),
        (ipv4(6, tcp(22, ACK), words=4), False),
        (ipv4(6, tcp(22, ACK)[:19]), False),
        (ipv4(17, udp(53, 40000)), True),
        (ipv4(17, udp(68, 67)), True),
        (ipv4(17, udp(68, 53)), False),
        (ipv4(1, bytes(8)), False),
        (ipv6(6, tcp(22, SYN | ACK)), True),
        (ipv6(6, tcp(22, SYN)), False),
        (ipv6(58, b"\x87" + bytes(23)), True),
        (ipv6(58, b"\x80" + bytes(7)), False),
        (ipv6(0, b"\x06" + bytes(30)), False),
        (bytes(12) + b"\x88\xb5" + bytes(46), False),
        (bytes(14), False),
        (b"", False),
    ],
)
def test_restricted_guest_only_answers(frame: bytes, passes: bool) -> None:
    guest = RestrictedGuest([HostForward("tcp", "", 2222, GUEST, 22), HostForward("udp", "", 53, GUEST, 53)])
    assert guest.may_send(frame) is passes


def test_restrict_with_forward_drops_connections_from_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passt_program.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def main() -> None:
        async with Lab() as lab:
            rule = String(text=f"tcp:127.0.0.1:{free_port()}-:22")
            netdev, nic, guest = lab.wire(UserOptions(id="net0", restrict=True, hostfwd=[rule]))
            assert isinstance(netdev.endpoint, UserBackend)
            words = netdev.endpoint._keeper._arguments
            assert "--no-tcp" not in words
            assert "--no-udp" in words
            await until(lambda: nic.link_up)
            nic.send(0, ipv4(6, tcp(22, SYN)))
            nic.send(0, ipv4(6, tcp(22, ACK)))
            await until(lambda: guest.got)
            assert guest.got == [ipv4(6, tcp(22, ACK))]

    run(main())
