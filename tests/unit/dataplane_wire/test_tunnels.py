"""Tunnels at vnic-wire, as the engine uses it: two networks in one loop, joined by a tunnel, each with a program."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.loops import fresh_loop
from tests.fakes.ports import free_ports
from tests.fakes.wire_lab import Guest, WireLab, frame, real_program

from vnic.backend.tunnel.backend import TunnelBackend
from vnic.backend.tunnel.info import TunnelInfo
from vnic.dataplane.wire.messages import Request
from vnic.dataplane.wire.tunnel_messages import CcmSet, PortToControl
from vnic.filter import object_add, object_del
from vnic.filter.options import BufferOptions, DumpOptions, NetemOptions
from vnic.net.records import HoldKind, ShownBy
from vnic.protocol.cfm import ccm
from vnic.protocol.cfm.ccm import InterfaceStatus
from vnic.protocol.vxlan import header

pytestmark = pytest.mark.needs("loopback")


class Ends:
    """Two labs, and the addresses of the tunnel between them."""

    def __init__(self, one: WireLab, two: WireLab) -> None:
        self.labs = (one, two)
        self.ports = sorted(free_ports(socket.SOCK_DGRAM, 2))
        self.guests: list[Guest] = []

    def tunnel(self, at: int, name: str = "net0", **options: Any) -> None:
        """One end; its CCMs are rare, so that a busy machine makes no silence."""
        here, there = self.ports[at], self.ports[1 - at]
        addresses = {"local": f"127.0.0.1:{here}", "remote": f"127.0.0.1:{there}"}
        rare = {} if options.get("ccm") == "off" else {"interval": 1000.0}
        self.labs[at].netdev("tunnel", name, **({"vni": 7} | rare | addresses | options))

    def start(self, **options: Any) -> list[Guest]:
        """Both ends, each with a guest whose packets are at vnic-wire."""
        for at, lab in enumerate(self.labs):
            self.tunnel(at, **options)
            guest = lab.guest(f"nic{at}", "net0")
            guest.nic.report.guest_attached(ShownBy.DEVICE)
            self.guests.append(guest)
            guest.plug()
        self.labs[0].until(lambda: all(guest.on_wire for guest in self.guests))
        return self.guests

    def held(self, at: int, name: str = "net0") -> str | None:
        hold = self.labs[at].netdev_client(name).holds.get(HoldKind.FAR_END)
        return None if hold is None else hold.text

    def info(self, at: int) -> TunnelInfo:
        """Its entry of query-tunnels, with the program's counters."""
        lab = self.labs[at]
        done: list[bool] = []
        lab.engine.refresh_tunnels(lambda: done.append(True))
        lab.until(lambda: done)
        return cast(TunnelBackend, lab.netdev_client("net0").endpoint).tunnel_info()

    def exchange(self) -> None:
        """Frames in both directions."""
        for lab, (one, two) in zip(self.labs, (self.guests, self.guests[::-1]), strict=True):
            frames = [frame(number, 1514) for number in range(10)]
            one.driver.send(*frames)
            found: list[bytes] = []
            lab.until(lambda found=found, two=two: _took(self, found, two) >= 10)  # type: ignore[misc]  # bound
            assert found == frames


def _took(ends: Ends, found: list[bytes], guest: Guest) -> int:
    for lab in ends.labs:
        lab.kick()
    found += guest.driver.received()
    return len(found)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with fresh_loop() as loop:
        labs = [WireLab(loop, real_program()) for _ in range(2)]
        try:
            yield Ends(*labs)
        finally:
            for lab in labs:
                lab.close()


@pytest.mark.parametrize("options", [{}, {"key": "secret"}, {"ccm": "off"}, {"ccm": "auto"}], ids=str)
def test_frames_and_link_state(ends: Ends, options: dict[str, Any]) -> None:
    ends.start(**options)
    ends.exchange()
    assert ends.info(0).path == "wire"
    if options.get("ccm") == "off":
        return
    one, two = ends.labs
    one.network.set_link("nic0", False, "test")
    two.until(lambda: "says down (2)" in (ends.held(1) or ""))
    assert ends.held(0) is None
    one.network.set_link("nic0", True, "test")
    two.until(lambda: ends.held(1) is None and all(guest.on_wire for guest in ends.guests))
    ends.exchange()
    ends.guests[1].driver.unplug()
    one.until(lambda: "says dormant (5)" in (ends.held(0) or ""))


def test_checks_go_on_while_link_is_down_and_while_python_moves_packets(ends: Ends) -> None:
    guests = ends.start()
    one, two = ends.labs
    object_add(one.context, BufferOptions(id="f0", netdev="net0", interval=1, status="on"))
    one.until(lambda: guests[0].path == "python")
    assert ends.info(0).path == "wire", "the sockets are there all the same"
    ends.exchange()
    one.network.set_link("nic0", False, "test")
    two.until(lambda: ends.held(1) is not None)
    one.network.set_link("nic0", True, "test")
    two.until(lambda: ends.held(1) is None)
    object_del(one.context, "f0")
    one.until(lambda: all(guest.on_wire for guest in guests))
    ends.exchange()


def test_far_end_hears_of_this_one_when_its_frames_have_a_way(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends at once, and this end's wire is ready some turns later."""
    ends.start()
    one, two = ends.labs
    two.network.set_link("nic1", False, "test")
    one.until(lambda: ends.held(0) is not None)
    asked: list[Request] = []
    channel = two.engine.program.channel
    request = channel.request

    def note(what: Request, *rest: Any, **named: Any) -> None:
        asked.append(what)
        request(what, *rest, **named)

    monkeypatch.setattr(channel, "request", note)
    two.network.set_link("nic1", True, "test")
    way, word = (each for each in asked if isinstance(each, PortToControl | CcmSet))
    assert isinstance(way, PortToControl)
    assert way.on
    assert isinstance(word, CcmSet)
    assert word.status == InterfaceStatus.UP
    one.until(lambda: ends.held(0) is None and all(guest.on_wire for guest in ends.guests))
    ends.exchange()


@pytest.mark.parametrize("options", [{}, {"key": "secret"}], ids=str)
def test_death_of_the_program_is_not_seen_at_the_far_end(ends: Ends, options: dict[str, Any]) -> None:
    guests = ends.start(**options)
    _, two = ends.labs
    ends.exchange()
    received = ends.info(0).counters.ccm_received
    changes = [lab.netdev_client("net0").carrier_down_changes for lab in ends.labs]
    for lab in ends.labs:
        pid = lab.engine.program.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        lab.until(lambda lab=lab, pid=pid: lab.engine.program.pid not in (None, pid))  # type: ignore[misc]  # bound
        two.until(lambda: all(guest.on_wire for guest in guests))
        ends.exchange()
    assert [lab.netdev_client("net0").carrier_down_changes for lab in ends.labs] == changes
    assert ends.info(0).counters.ccm_received >= received, "what it counted is not forgotten"
    assert ends.info(1).counters.old_sequence == 0
    assert ends.info(1).counters.replayed == 0


def test_deleted_tunnel_says_so_and_its_port_is_free(ends: Ends) -> None:
    ends.start()
    one, two = ends.labs
    texts: list[str | None] = []
    unwatch = ends.guests[1].nic.watch(lambda _: texts.append(ends.held(1)))
    one.network.delete_netdev("net0", "test")
    two.until(lambda: ends.held(1) is not None)
    unwatch()  # the end of the test is a change, too
    assert "notPresent (6)" in (texts[0] or "")
    leaving = one.engine.leaving()
    if leaving is not None:
        one.until(leaving.done)
    ends.tunnel(0)
    two.until(lambda: ends.held(1) is None and all(guest.on_wire for guest in ends.guests))
    ends.exchange()


def test_tunnels_that_share_a_socket_come_and_go(ends: Ends) -> None:
    ends.start()
    one, two = ends.labs
    for at in range(2):
        ends.tunnel(at, "more", vni=8)
        ends.labs[at].guest(f"more{at}", "more").plug()
        ends.labs[at].guests[-1].nic.report.guest_attached()
        ends.labs[at].guests[-1].nic.report.driver_ok(True)
    one.until(lambda: ends.held(0, "more") is None and ends.held(1, "more") is None)
    one.network.delete_netdev("net0", "test")
    two.until(lambda: ends.held(1) is not None)
    assert ends.held(1, "more") is None
    ends.tunnel(0)
    two.until(lambda: ends.held(1) is None and ends.guests[0].on_wire)
    ends.exchange()


def test_foreign_datagrams_are_counted(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vnic"):
        ends.start(level=2)
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            message = ccm.Ccm(level=1, interval=2, sequence=1, mep=9, maid=ccm.maid("other"))
            for datagram in (
                header(99) + frame(),
                header(7) + ccm.ethernet_header(1, b"\2" * 6) + message.pack(),
                b"\x08",
                bytes(60),
            ):
                for _ in range(50):
                    stranger.sendto(datagram, ("127.0.0.1", ends.ports[0]))
        ends.labs[0].until(lambda: ends.info(0).socket.not_vxlan == 50)
        info = ends.info(0)
        assert info.counters.wrong_level == 50
        assert (info.socket.truncated, info.socket.unknown_vni >= 50) == (50, True)
        ends.exchange()
    lines = [record.message for record in caplog.records if "lower level" in record.message]
    assert lines == [
        "netdev net0: continuity frames of a lower level than level= come; more of them are only counted"
    ]


def test_refused_socket_stays_here(ends: Ends) -> None:
    """Whatever the reason: the program gives back what it has of the socket, and Python goes on."""
    one, _ = ends.labs
    ends.start()
    tunnels = one.engine._tunnels
    assert tunnels is not None
    (shared,) = one.context.tunnel_sockets.values()
    tunnels.give_up(shared, "no more of that")
    one.until(lambda: ends.info(0).path == "python")
    one.until(lambda: ends.guests[0].path == "python")
    assert ends.guests[0].reason == "vnic-wire: no more of that"
    ends.exchange()
    assert (ends.held(0), ends.held(1)) == (None, None)
    one.network.delete_netdev("net0", "test")
    assert not tunnels._refused, "what is closed is forgotten"


def test_death_of_the_program_while_it_gives_a_socket_back(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers never come, and Python goes on with the tunnels."""
    one, _ = ends.labs
    ends.start()
    tunnels = one.engine._tunnels
    assert tunnels is not None
    monkeypatch.setattr(tunnels, "program_ready", lambda: None)  # the tunnels stay here
    (shared,) = one.context.tunnel_sockets.values()
    pid = one.engine.program.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    tunnels.give_up(shared, "no more of that")
    os.kill(pid, signal.SIGKILL)
    one.until(lambda: one.engine.program.pid not in (None, pid))
    assert ends.info(0).path == "python"
    one.until(lambda: ends.guests[0].path == "python")
    ends.exchange()
    assert (ends.held(0), ends.held(1)) == (None, None)


def test_dumps_and_impairments_end_with_the_tunnels_wire(ends: Ends, tmp_path: Path) -> None:
    """The port stays at the program for its checks; what Python does from now on is not done there as well."""
    guests = ends.start()
    one, _ = ends.labs
    file = tmp_path / "all.pcap"
    object_add(one.context, DumpOptions(id="d0", netdev="net0", file=str(file)))
    object_add(one.context, NetemOptions(id="n0", netdev="net0", delay="1us"))
    client = one.netdev_client("net0")
    one.until(lambda: client in one.engine._dumps._at and one.engine.impairments.present(client))
    one.until(lambda: guests[0].on_wire)
    object_add(one.context, BufferOptions(id="f0", netdev="net0", interval=1, status="on"))
    one.until(lambda: guests[0].path == "python")
    assert client not in one.engine._dumps._at
    ends.exchange()
    one.until(lambda: file.stat().st_size >= 24 + 20 * (16 + 1514))
    assert file.stat().st_size == 24 + 20 * (16 + 1514), "each frame is there once"
    object_del(one.context, "f0")
    one.until(lambda: guests[0].on_wire and one.engine.impairments.present(client))
    tunnels = one.engine._tunnels
    assert tunnels is not None
    (shared,) = one.context.tunnel_sockets.values()
    tunnels.give_up(shared, "no more of that")
    assert not one.engine.impairments.present(client)
    one.until(lambda: ends.info(0).path == "python")
    ends.exchange()
