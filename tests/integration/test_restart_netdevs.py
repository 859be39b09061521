"""`vnic run --keep` with netdevs of all kinds whose control gets SIGKILL: nothing at their other end notices it."""

from __future__ import annotations

import os
import socket
import struct
import time
from functools import partial
from typing import Any

from tests.fakes import passt_program
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import Place, PlayedGuest, guest_on, wait_for

from vnic.backend.framing import LENGTH
from vnic.backend.options import EchoOptions

NIC = ("-device", "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock")
KILLS = 4


def hold_kinds(vnic: KeptVnic, name: str = "net0") -> list[str]:
    (link,) = vnic.qmp.run("query-links", name=name)
    return [hold["kind"] for hold in link["holds"]]


def changes(vnic: KeptVnic, name: str = "nic0") -> int:
    (link,) = vnic.qmp.run("query-links", name=name)
    count: int = link["carrier-changes"]
    return count


def arp_request(number: int) -> bytes:
    """For the address of the netdev echo."""
    sender = bytes([10, 0, 2, 100 + number])
    head = b"\xff" * 6 + b"\2" * 6 + bytes.fromhex("0806 0001 0800 06 04 0001")
    return head + b"\2" * 6 + sender + bytes(6) + socket.inet_aton(EchoOptions(id="e").ip)


class Frames:
    """What the guest sends and receives."""

    def __init__(self, guest: PlayedGuest) -> None:
        self._driver = guest._driver
        self._driver.fill_rx(64)
        self._got: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._driver.send(frame)

    def wait(self, frame: bytes) -> None:
        """Until that has come, once."""

        def come() -> bool:
            got = self._driver.received()
            if got:
                self._driver.fill_rx(len(got))
            self._got += got
            return any(each.startswith(frame) for each in self._got)

        wait_for(come)
        assert sum(each.startswith(frame) for each in self._got) == 1
        self._got.clear()

    def ask(self, number: int) -> None:
        """The host at the netdev echo answers."""
        self.send(arp_request(number))
        self.wait(b"\2" * 6 + bytes.fromhex("5255 0a00 0202 0806 0001 0800 06 04 0002"))


def framed(frame: bytes) -> bytes:
    return LENGTH.pack(len(frame)) + frame


def read_frame(sock: socket.socket) -> bytes:
    (size,) = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))
    return sock.recv(size, socket.MSG_WAITALL)


def test_stream_peer_keeps_its_connection_in_the_middle_of_a_frame(place: Place) -> None:
    """With vnic-wire, where there is one, and without."""
    for path in ("auto", "python"):
        netdev = ("-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock")
        words = (*netdev, *NIC, "-datapath", path)
        with (
            kept_vnic(place, *words) as vnic,
            guest_on(place.path("nic0.sock")) as guest,
            socket.socket(socket.AF_UNIX) as peer,
        ):
            peer.settimeout(60)
            peer.connect(place.path("net0.sock"))
            wait_for(guest.sees_up)
            frames = Frames(guest)
            before = changes(vnic)
            for number in range(KILLS):
                frame = bytes([number]) * (60 + 500 * number)
                whole = framed(frame)
                cut = (1, 4, 40, len(whole) - 1)[number % 4]
                peer.sendall(whole[:cut])
                time.sleep(0.05)
                vnic.kill()
                peer.sendall(whole[cut:])
                frames.wait(frame)
                frames.send(frame[::-1])
                assert read_frame(peer) == frame[::-1]
                assert guest.sees_up()
                assert not hold_kinds(vnic)
            assert changes(vnic) == before
            assert "NETDEV_STREAM_CONNECTED" not in {each["event"] for each in vnic.qmp.events}


def test_vhost_user_back_end_keeps_the_rings_of_the_guest(place: Place) -> None:
    """It is another vnic: its NIC stays attached, and its link up."""
    far = ("-name", "far", "-netdev", "echo,id=net0", *NIC[:1], f"{NIC[1].replace('nic0.sock', 'far.sock')}")
    near = (
        *("-chardev", "socket,id=c0,path=far.sock,reconnect-ms=50"),
        *("-netdev", "vhost-user,id=net0,chardev=c0"),
        *NIC,
    )
    with place.run(*far, name="far") as other:
        wait_for(lambda: os.path.exists(place.path("far.sock")))
        with kept_vnic(place, *near) as vnic, guest_on(place.path("nic0.sock")) as guest:
            wait_for(guest.sees_up)
            frames = Frames(guest)
            frames.ask(0)
            before = changes(vnic)
            for number in range(1, KILLS):
                vnic.kill()
                frames.ask(number)
                assert guest.sees_up()
                assert changes(vnic) == before
                (link,) = vnic.qmp.run("query-links", name="nic0")
                assert link["datapath"] == "vhost"
                vnic.qmp.run("set_link", name="nic0", up=False)  # the rings come back, and go again
                wait_for(partial(_sees, guest, False))
                vnic.kill()
                vnic.qmp.run("set_link", name="nic0", up=True)
                wait_for(guest.sees_up)
                frames.ask(number)
                before = changes(vnic)
        assert other is not None


def _sees(guest: PlayedGuest, up: bool) -> bool:
    return guest.sees_up() is up


def test_passt_serves_on(place: Place, tmp_path: Any) -> None:
    program = passt_program.install(tmp_path)
    netdev = ("-netdev", f"passt,id=net0,path={program}")
    with kept_vnic(place, *netdev, *NIC) as vnic, guest_on(place.path("nic0.sock")) as guest:
        wait_for(guest.sees_up)
        frames = Frames(guest)
        network = vnic.qmp.run("human-monitor-command", command_line="info network")
        assert "connected to pid" in network
        for number in range(KILLS):
            vnic.kill()
            frame = bytes([number]) * 100
            frames.send(frame)
            frames.wait(frame)
            assert vnic.qmp.run("human-monitor-command", command_line="info network") == network
    pid = network.split("connected to pid ")[1].split()[0]
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_netdev_of_the_same_port_is_made_again_at_once(place: Place) -> None:
    """The keeper, too, has let go of the port by then."""
    with kept_vnic(place, "-netdev", "echo,id=net1") as vnic:
        arguments = {
            "type": "dgram",
            "id": "net0",
            "local": {"type": "inet", "host": "127.0.0.1", "port": "0"},
            "remote": {"type": "inet", "host": "127.0.0.1", "port": "9"},
        }
        tunnel = {
            "type": "tunnel",
            "id": "net2",
            "local": "127.0.0.1:47891",
            "remote": "127.0.0.1:47892",
            "vni": 7,
        }
        vnic.qmp.run("netdev_add", **arguments)
        for _ in range(3):
            vnic.qmp.run("netdev_add", **tunnel)
            vnic.qmp.run("netdev_del", id="net2")
            vnic.kill()
