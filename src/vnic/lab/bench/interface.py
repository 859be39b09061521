"""How long a link change takes between a guest and the other end of a veth, in both directions.

`vnic bench interface` runs it; a played driver in this process is the guest, and a network namespace of the measure's
own is the container."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vnic.backend.interface_watch import open_route_socket
from vnic.backend.rtnetlink import IFF_LOWER_UP, LinkMessage, parse, set_link
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

CHANGES_PER_ROUND = 30
TIMEOUT_S = 5.0
PAUSE_S = 0.02
"""Between two changes: each is measured by itself, on an idle vnic."""

METHOD = (
    "a veth between this process and a network namespace, where -netdev interface,propagate=on is; this end is set down"
    " or up by netlink → CONFIG_CHANGE readable at a driver in this process"
)
OTHER_METHOD = (
    "the same; set_link written over QMP → netlink tells that this end has no carrier, or has it again"
)


def measure(rounds: int) -> Iterator[Row]:
    name = f"vnic-{os.getpid()}"
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
    with _veth(name) as (outer, route):
        netdev = f"interface,id=net0,ifname=eth1,netns={name},propagate=on"
        with VnicProcess("-netdev", netdev, "-device", nic) as vnic, FakeGuestMemory() as memory:
            driver = NetDriver(memory)
            client = VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
            try:
                client.start()
                vnic.wait_link("nic0", up=True)
                guest = [_far_end(client, route, outer, up) for up in _changes(rounds)]
                far = [_hold(vnic, client, route, outer, up) for up in _changes(rounds)]
            finally:
                client.close()
                driver.close()
    yield row("veth down → guest's interrupt", "µs", guest[::2], METHOD, "median at most 2000")
    yield row("veth up → guest's interrupt", "µs", guest[1::2], METHOD)
    yield row("set_link off → NO-CARRIER", "µs", far[::2], OTHER_METHOD, "median at most 5000")
    yield row("set_link on → carrier", "µs", far[1::2], OTHER_METHOD)


def _changes(rounds: int) -> Iterator[bool]:
    for change in range(2 * rounds * CHANGES_PER_ROUND):
        time.sleep(PAUSE_S)
        yield bool(change % 2)


@contextmanager
def _veth(name: str) -> Iterator[tuple[int, socket.socket]]:
    """The index of this end, and a netlink socket that hears of it; the other is eth1 in the namespace `name`."""
    outer = f"v{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth1", "netns", name)
        _ip("-n", name, "link", "set", "eth1", "up")
        _ip("link", "set", outer, "up")
        with open_route_socket() as route:
            yield socket.if_nametoindex(outer), route
    finally:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise Missing("`ip` is not installed (apt-get install iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise Missing(f"ip {' '.join(words)}: {error.stderr.strip()}") from None


def _far_end(client: VhostUserClient, route: socket.socket, outer: int, up: bool) -> float:
    requests = client.requests
    assert requests is not None
    _drain(route)
    started = time.perf_counter()
    route.send(set_link(1, outer, up))
    _readable(requests)
    told = time.perf_counter() - started
    _settle(client, up)
    return told * 1e6


def _hold(vnic: VnicProcess, client: VhostUserClient, route: socket.socket, outer: int, up: bool) -> float:
    _drain(route)
    started = time.perf_counter()
    word = b"true" if up else b"false"
    vnic.qmp.send(b'{"execute":"set_link","arguments":{"name":"nic0","up":' + word + b"}}\n")
    while True:
        _readable(route)
        if _carrier(route.recv(1 << 16), outer) is up:
            break
    seen = time.perf_counter() - started
    vnic.reply()
    _settle(client, up)
    return seen * 1e6


def _carrier(data: bytes, index: int) -> bool | None:
    """Whether the newest message about that interface says that it has carrier; None: there is none."""
    states = [each.state for each in parse(data) if isinstance(each, LinkMessage)]
    return next((bool(each.flags & IFF_LOWER_UP) for each in reversed(states) if each.index == index), None)


def _readable(sock: socket.socket) -> None:
    if not select.select([sock], [], [], TIMEOUT_S)[0]:
        raise Missing(f"a link change was not seen within {TIMEOUT_S:g} s")


def _drain(route: socket.socket) -> None:
    while select.select([route], [], [], 0)[0]:
        route.recv(1 << 16)


def _settle(client: VhostUserClient, up: bool) -> None:
    """Read the status as a driver does."""
    client.config_changes()
    if client.link_up() != up:
        raise Missing("the driver read another link state than there is")
