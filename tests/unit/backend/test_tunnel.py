"""Tests of tunnels in Python: link state that travels with the frames, what is dropped and told once, and the key."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ports import free_ports
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend.options import HubPortOptions, TunnelOptions
from vnic.backend.tunnel.backend import TunnelBackend
from vnic.backend.tunnel.config import Place
from vnic.backend.tunnel.info import CcmInfo, TunnelInfo
from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.records import HoldKind, ShownBy
from vnic.protocol.cfm import ccm
from vnic.protocol.trailer import Trailer, derive
from vnic.protocol.vxlan import header

pytestmark = pytest.mark.needs("loopback")

VNI = 7


class End:
    """One end of a tunnel, with a NIC whose guest is ready."""

    def __init__(self, lab: Lab, name: str, **options: Any) -> None:
        self.lab = lab
        self.client = lab.add(TunnelOptions(id=name, **options))
        self.nic, self.guest = lab.nic(name, f"nic-{name}")
        start(self.nic)

    @property
    def held(self) -> str | None:
        hold = self.client.holds.get(HoldKind.FAR_END)
        return None if hold is None else hold.text

    @property
    def info(self) -> TunnelInfo:
        assert isinstance(self.client.endpoint, TunnelBackend)
        return self.client.endpoint.tunnel_info()

    @property
    def ccm(self) -> CcmInfo:
        assert self.info.ccm is not None
        return self.info.ccm


def start(nic: Nic) -> None:
    nic.report.guest_attached(ShownBy.DEVICE)
    nic.report.driver_ok(True)


def status_of(end: End) -> str:
    return end.ccm.status


class Ports:
    """Two UDP ports of the loopback interface."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.one, self.two = sorted(free_ports(socket.SOCK_DGRAM, 2))  # the first has MEP id 1
        self.host = f"[{host}]" if ":" in host else host

    def end(self, lab: Lab, name: str, **options: Any) -> End:
        """The end `a` at the first port, any other at the second. Its CCMs are rare: what changes is told at once, and
        a busy machine makes no silence."""
        here, there = (self.one, self.two) if name[0] == "a" else (self.two, self.one)
        addresses = {"local": f"{self.host}:{here}", "remote": f"{self.host}:{there}"}
        rare = {} if options.get("ccm") == "off" else {"interval": 1000}
        return End(lab, name, **({"vni": VNI} | rare | addresses | options))

    @contextmanager
    def peer(self) -> Iterator[Callable[[bytes], object]]:
        """A socket in place of the end `b`; yields what sends from there to `a`."""
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((self.host, self.two))
            yield lambda datagram: sock.sendto(datagram, (self.host, self.one))


def frame(payload: bytes = b"payload", ethertype: bytes = b"\x88\xb5") -> bytes:
    return b"\xff" * 6 + b"\2" * 6 + ethertype + payload


def continuity(**fields: Any) -> bytes:
    """A datagram with a CCM, as the end `b` of these tests would send it."""
    given: dict[str, Any] = {
        "level": 0,
        "interval": 4,
        "sequence": 0,
        "mep": 2,
        "maid": ccm.maid(f"vnic {VNI}"),
    } | fields
    message = ccm.Ccm(**given)
    return header(VNI) + ccm.ethernet_header(message.level, b"\2" * 6) + message.pack()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level": 5, "mtu": 1500},
        {"key": "secret"},
        {"md": "ovs", "ma": "ovs", "interval": 10000},
        {"ccm": "off"},
        {"ccm": "auto"},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.needs("ipv6"))])
def test_frames_and_link_state_travel(options: dict[str, Any], host: str) -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports(host)
            a, b = ports.end(lab, "a", **options), ports.end(lab, "b", **options)
            await until(lambda: a.held is None and b.held is None)
            a.nic.send(0, frame(b"to b"))
            b.nic.send(0, frame(b"to a"))
            await until(lambda: b.guest.got and a.guest.got)
            assert (a.guest.got, b.guest.got) == ([frame(b"to a")], [frame(b"to b")])
            if options.get("ccm") == "off":
                assert a.info.ccm is None
                return
            await until(lambda: a.ccm.remote.heard == "yes" == b.ccm.remote.heard)
            assert {a.ccm.mep, b.ccm.mep} == {1, 2}
            lab.network.set_link("nic-a", False, "test")
            await until(lambda: (b.held or "").endswith("says down (2): it was put down there"))
            assert a.held is None, "a wire does not hold itself by way of the other end"
            assert b.nic.operstate == "lowerlayerdown"
            lab.network.set_link("nic-a", True, "test")
            await until(lambda: b.held is None)
            assert b.guest.link[-2:] == [False, True]

    run(main())


def test_status_of_the_wire_is_told() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a"), ports.end(lab, "b")

            async def told(status: str, change: Callable[[], object]) -> None:
                change()
                assert b.ccm.status == status
                await until(lambda: a.ccm.remote.status == status)
                assert (a.held is None) is (status == "up"), a.held

            await until(lambda: a.held is None and b.held is None)
            report = b.nic.report
            await told("dormant", lambda: report.driver_ok(False))
            await told("up", lambda: report.driver_ok(True))
            await told("notPresent", report.guest_detached)
            report.guest_attached()
            assert status_of(b) == "notPresent", "nothing is known before the VM has negotiated"
            report.guest_shown_by(ShownBy.DEVICE)
            await told("up", lambda: report.driver_ok(True))
            await told("lowerLayerDown", lambda: b.client.hold(HoldKind.UPLINK, "test", "eth1 is down"))
            await told("down", lambda: lab.network.set_link("b", False, "test"))
            lab.network.set_link("b", True, "test")
            await told("up", lambda: b.client.release(HoldKind.UPLINK, "test", "eth1 is up"))
            report.driver_ok(True, admin_down=True)
            assert status_of(b) == "up", "follow= does not name it"
            await told("notPresent", lambda: lab.network.delete_nic("nic-b"))

    run(main())


@pytest.mark.parametrize(
    ("follow", "change", "status"),
    [
        ("admin", lambda nic: nic.report.driver_ok(True, admin_down=True), "down"),
        ("attached", lambda nic: nic.report.driver_ok(False), "up"),
        ("attached", lambda nic: nic.report.guest_detached(), "notPresent"),
        ("driver", lambda nic: nic.hold(HoldKind.OPERATOR, "test", "pulled"), "up"),
        ("none", lambda nic: nic.report.guest_detached(), "up"),
    ],
)
def test_follow_says_what_counts(follow: str, change: Callable[[Nic], object], status: str) -> None:
    async def main() -> None:
        async with Lab() as lab:
            a = Ports().end(lab, "a", follow=follow)
            change(a.nic)
            assert a.ccm.status == status

    run(main())


def test_hub_of_tunnels_is_up() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            b = ports.end(lab, "b")
            here, there = f"127.0.0.1:{ports.one}", f"127.0.0.1:{ports.two}"
            lab.add(TunnelOptions(id="a", vni=VNI, local=here, remote=there))
            lab.add(HubPortOptions(id="h0", hubid=0, netdev="a"))
            await until(lambda: b.held is None)

    run(main())


def test_other_end_that_ends_says_so() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a"), ports.end(lab, "b")
            await until(lambda: a.held is None and b.held is None)
            texts = []
            a.nic.watch(lambda event: texts.append(a.held))
            lab.network.delete_netdev("b", "test")
            await until(lambda: a.held is not None)
            assert texts[0] is not None
            assert "notPresent (6)" in texts[0]
            await until(lambda: "refuses: nothing listens on port" in (a.held or ""))
            here, there = f"127.0.0.1:{ports.two}", f"127.0.0.1:{ports.one}"
            lab.add(TunnelOptions(id="b", vni=VNI, local=here, remote=there))
            await until(lambda: a.held is None and b.nic.link_up)

    run(main())


def test_silence_is_told_with_its_time_and_rdi_with_its_direction() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            with ports.peer() as peer:
                a = ports.end(lab, "a")
                assert a.held == f"nothing heard yet from 127.0.0.1:{ports.two}"
                peer(continuity(interval=2))
                await until(lambda: a.held is None)
                await until(lambda: a.held is not None)
                assert a.held is not None
                assert a.held.startswith(f"nothing heard from 127.0.0.1:{ports.two} for ")
                assert a.ccm.rdi
                peer(continuity(rdi=True))
                await until(lambda: "(RDI)" in (a.held or ""))
                assert a.held == (
                    "the far end hears nothing from here (RDI):"
                    f" frames from here to 127.0.0.1:{ports.two} are lost"
                )
                assert not a.ccm.rdi

    run(main())


def test_auto_judges_only_whoever_sent_a_ccm() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            with ports.peer() as peer:
                a = ports.end(lab, "a", ccm="auto")
                assert a.held is None
                a.nic.send(0, frame())
                peer(header(VNI) + frame())
                await until(lambda: a.guest.got)
                peer(continuity(interval=2))
                await until(lambda: a.held is not None)
                assert a.ccm.remote.heard == "lost"

    run(main())


TROUBLES: dict[str, tuple[bytes, str]] = {
    "wrong-maid": (continuity(level=2, maid=ccm.maid("other")), "another maintenance association"),
    "wrong-mep": (continuity(level=2, mep=1), "this end's own MEP id"),
    "wrong-level": (continuity(level=1), "a lower level"),
    "bad-ccm": (continuity(level=2)[:60], "malformed"),
    "truncated": (header(VNI) + bytes(13), "come that are too short"),
}
AT_PORT: dict[str, tuple[bytes, str]] = {
    "unknown-vni": (header(VNI + 1) + frame(), "VNI 8 from 127.0.0.1, which no tunnel here has"),
    "truncated": (header(VNI)[:7], "too short for VXLAN"),
    "not-vxlan": (bytes(60), "no VXLAN"),
}


@pytest.mark.parametrize("flood", [1, 200])
def test_foreign_datagrams_are_counted_and_told_once(flood: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            with ports.peer() as peer:
                a = ports.end(lab, "a", level=2, mep=1)
                for datagram, _ in (*TROUBLES.values(), *AT_PORT.values()):
                    for _ in range(flood):
                        peer(datagram)
                        await asyncio.sleep(0)
                peer(continuity(level=2))
                await until(lambda: a.ccm.remote.heard == "yes")
                counters = {**vars_of(a.info.counters)}
                assert {name: counters[name] for name in TROUBLES} == dict.fromkeys(TROUBLES, flood)
                at_port = vars_of(a.info.socket)
                assert {name: at_port[name] for name in AT_PORT} == dict.fromkeys(AT_PORT, flood)
                assert a.guest.got == []

    with caplog.at_level(logging.WARNING, "vnic.backend"):
        run(main())
    for _, text in (*TROUBLES.values(), *AT_PORT.values()):
        assert sum(text in record.message for record in caplog.records) == 1, text


def vars_of(counters: Any) -> dict[str, int]:
    return {name.replace("_", "-"): getattr(counters, name) for name in counters.__struct_fields__}


def test_datagram_of_another_host_is_counted() -> None:
    async def main() -> None:
        async with Lab() as lab:
            (port,) = free_ports(socket.SOCK_DGRAM, 1)
            a = End(lab, "a", vni=VNI, local=f"0.0.0.0:{port}", remote=f"127.0.0.9:{port}", ccm="off")
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                stranger.sendto(header(VNI) + frame(), ("127.0.0.1", port))
                await until(lambda: a.info.socket.unknown_source == 1)
            assert a.guest.got == []

    run(main())


def test_key_refuses_strangers_and_replays(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            with ports.peer() as peer:
                a = ports.end(lab, "a", key="secret")
                theirs = Trailer(derive("secret"), 2, 1)
                sealed = theirs.seal(header(VNI) + frame())
                strangers = Trailer(derive("guess"), 2, 1)
                for datagram in (
                    continuity(),
                    strangers.seal(continuity()),
                    sealed,
                    sealed,
                    header(VNI) + bytes(10),
                ):
                    peer(datagram)
                peer(theirs.seal(continuity()))
                await until(lambda: a.ccm.remote.heard == "yes")
                assert a.guest.got == []  # the link was down when the frame came
                peer(theirs.seal(header(VNI) + frame(b"now")))
                await until(lambda: a.guest.got)
                counters = a.info.counters
                assert (counters.bad_key, counters.replayed, counters.truncated) == (2, 1, 1)
                assert a.info.key
                shown = [lab.info(), repr(a.info), str(lab.events), caplog.text]
                assert not any("secret" in text or derive("secret").hex() in text for text in shown)

    run(main())


def test_guest_does_not_speak_for_its_end() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a", level=2), ports.end(lab, "b", level=2)
            await until(lambda: a.held is None and b.held is None)
            for level in range(8):
                a.nic.send(0, continuity(level=level, mep=1)[8:])
            a.nic.send(0, frame(b"last"))
            await until(lambda: frame(b"last") in b.guest.got)
            assert [ccm.level_of(each) for each in b.guest.got] == [3, 4, 5, 6, 7, None]
            assert b.info.counters.wrong_level == 0

    run(main())


def test_frames_pass_whole_or_not_at_all() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a", ccm="off"), ports.end(lab, "b", ccm="off", mtu=1500)
            sizes = (14, 1514, 1515, 1518, 9000, 65499, 65500)
            for size in sizes:
                a.nic.send(0, frame(bytes(size - 14)))
            a.nic.send(0, frame(bytes(1504), b"\x81\0"))
            a.nic.send(0, frame(bytes(1505), b"\x81\0"))
            a.nic.send(0, frame(b"last"))
            await until(lambda: frame(b"last") in b.guest.got)
            assert [len(each) for each in b.guest.got] == [14, 1514, 1518, 18], (
                "mtu= counts for both directions"
            )
            for size in sizes:
                b.nic.send(0, frame(bytes(size - 14)))
            b.nic.send(0, frame(b"last"))
            await until(lambda: frame(b"last") in a.guest.got)
            assert [len(each) for each in a.guest.got] == [14, 1514, 18]

    run(main())


def test_guest_without_room_does_not_stop_ccms() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a"), ports.end(lab, "b")
            await until(lambda: a.held is None and b.held is None)
            b.guest.room = 1
            for number in range(5):
                a.nic.send(0, frame(bytes([number])))
            await until(lambda: b.client.peer is not None and b.client.peer.has_waiting)
            received = b.info.counters.ccm_received
            for up in (False, True):
                lab.network.set_link("nic-a", up, "test")
            await until(lambda: b.info.counters.ccm_received == received + 2)
            b.guest.make_room()
            await until(lambda: len(b.guest.got) == 5)

    run(main())


def test_tunnels_share_a_port() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            ends = [
                (ports.end(lab, f"a{vni}", vni=vni), ports.end(lab, f"b{vni}", vni=vni)) for vni in range(5)
            ]
            await until(lambda: not any(end.held for pair in ends for end in pair))
            for vni, (a, _) in enumerate(ends):
                a.nic.send(0, frame(bytes([vni])))
            await until(lambda: all(b.guest.got for _, b in ends))
            assert [b.guest.got for _, b in ends] == [[frame(bytes([vni]))] for vni in range(5)]
            with pytest.raises(NetError, match=r"VNI 3 with 127\.0\.0\.1 is another tunnel's"):
                ports.end(lab, "again", vni=3)
            assert ends[3][0].held is None
            for vni in range(5):
                lab.network.delete_netdev(f"a{vni}", "test")
            assert lab.context.tunnel_sockets.keys() == {next(iter(lab.context.tunnel_sockets))}

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vni": 1 << 24}, "'vni' expects a number from 0 to 16777215, not '16777216'"),
        ({"mtu": 60}, "'mtu' expects a number from 68 to 65535, not '60'"),
        ({"interval": 20}, "'interval' expects 3.3, 10, 100, .*, not '20'"),
        ({"level": 8}, "'level' expects a number from 0 to 7, not '8'"),
        ({"mep": 0}, "'mep' expects a number from 1 to 8191, not '0'"),
        ({"md": "x"}, "'md' needs 'ma'"),
        ({"ma": "x" * 50}, "do not fit into a CCM"),
        ({"key": ""}, "'key' expects a key"),
        ({"key": "a", "key_file": "/x"}, "mutually exclusive"),
        ({"key_file": "/nonexistent/file"}, "key-file /nonexistent/file: No such file"),
        ({"key_file": "/dev/null"}, "it is a device"),
        ({"follow": "all"}, "'follow' expects 'none', .*, not 'all'"),
        ({"remote": "10.0.0.1:"}, "'remote' expects HOST or HOST:PORT"),
        ({"remote": "[::1"}, "'remote' expects HOST or HOST:PORT"),
        ({"remote": "10.0.0.1:70000"}, "'remote' expects HOST or HOST:PORT"),
        ({"local": "", "remote": "10.0.0.1"}, "'local' expects HOST"),
        ({"local": "::1", "remote": "127.0.0.1"}, "no address of the other end's family"),
        ({"remote": "0.0.0.0"}, "'remote' expects the address of one host, and not '0.0.0.0'"),
        ({"remote": "[ff02::1%lo]:4789"}, "'remote' expects the address of one host"),
        ({"ccm": "off", "interval": 10}, "'interval' has no effect with 'ccm=off'"),
        ({"ccm": "off", "level": 0}, "'level' has no effect with 'ccm=off'"),
        ({"ccm": "off", "ma": "x"}, "'ma' has no effect with 'ccm=off'"),
        ({"ccm": "off", "follow": "none"}, "'follow' has no effect with 'ccm=off'"),
        ({"ccm": "off", "mep": 2}, "'mep' has no effect with 'ccm=off'"),
        ({"local": "192.0.2.1"}, "can't bind to 192.0.2.1:4789: Cannot assign requested address"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    async def main() -> None:
        async with Lab() as lab:
            given: dict[str, Any] = {"id": "a", "vni": 1, "local": "127.0.0.1:0", "remote": "127.0.0.1"}
            given |= options
            if given["local"] == "127.0.0.1:0":
                given["local"] = f"127.0.0.1:{free_ports(socket.SOCK_DGRAM, 1)[0]}"
            with pytest.raises(NetError, match=text):
                lab.add(TunnelOptions(**given))
            assert not lab.network.find_all("a")
            assert lab.context.tunnel_sockets == {}

    run(main())


def test_key_of_a_file_is_its_first_line(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "key"
        path.write_text("secret\nwhatever\n")
        path.chmod(0o600)
        async with Lab() as lab:
            ports = Ports()
            a, b = ports.end(lab, "a", key_file=str(path)), ports.end(lab, "b", key="secret")
            await until(lambda: a.held is None and b.held is None)
            path.chmod(0o604)
            with pytest.raises(NetError, match="others can read it"):
                ports.end(lab, "again", vni=8, key_file=str(path))

    run(main())


def test_text_of_a_link_local_address_names_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(index: int) -> str:
        if index != 3:
            raise OSError
        return "eth1"

    monkeypatch.setattr(socket, "if_indextoname", name)
    assert Place(socket.AF_INET6, ("fe80::1", 4789, 0, 3)).text() == "[fe80::1%eth1]:4789"
    assert Place(socket.AF_INET6, ("fe80::1", 4789, 0, 9)).text() == "[fe80::1%9]:4789"
    assert Place(socket.AF_INET6, ("2001:db8::1", 4789, 0, 0)).text() == "[2001:db8::1]:4789"


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            real = socket.getaddrinfo

            def answer(host: str, *rest: Any, **more: Any) -> Any:
                if host == "nowhere.test":
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                return real("127.0.0.1" if host == "far.test" else host, *rest, **more)

            monkeypatch.setattr(socket, "getaddrinfo", answer)
            here, there = f"127.0.0.1:{ports.one}", f"far.test:{ports.two}"
            client = await lab.add_prepared(TunnelOptions(id="a", vni=VNI, local=here, remote=there))
            assert isinstance(client, NetClient)
            b = ports.end(lab, "b")
            await until(lambda: b.ccm.remote.heard == "yes")
            with pytest.raises(NetError, match=r"address resolution failed for nowhere\.test"):
                await lab.add_prepared(TunnelOptions(id="c", vni=1, remote="nowhere.test"))

    run(main())


def test_info_names_both_ends() -> None:
    async def main() -> None:
        async with Lab() as lab:
            ports = Ports()
            ports.end(lab, "a", key="secret")
            ports.end(lab, "b", ccm="off")
            info = lab.info()
            one, two = f"127.0.0.1:{ports.one}", f"127.0.0.1:{ports.two}"
            assert f"local={one},remote={two},vni=7,ccm=on,interval=1000,level=0,mep=1,key=set" in info
            assert f"local={two},remote={one},vni=7,ccm=off" in info

    run(main())
