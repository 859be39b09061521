"""Tunnels between network namespaces, which stand for hosts: to a second vnic, the kernel, Open vSwitch.

Everything is in a child with namespaces of its own. Nothing here measures a time: `vnic bench tunnel` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.namespace import in_namespace, ip, run
from tests.integration.process import COMMAND, Place, PlayedGuest, guest_on, new_place, wait_for
from tests.needs import need

PATHS = ("python", "wire")
ADDRESSES = {"one": "10.9.0.1", "two": "10.9.0.2"}
DEVICE = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"


def two_hosts() -> None:
    """Namespaces `one` and `two` with the ends `v-one` and `v-two` of a veth pair."""
    run("mount", "-t", "tmpfs", "none", "/run")  # `ip netns` keeps its names here
    for name in ADDRESSES:
        ip("netns", "add", name)
    ip("link", "add", "v-one", "netns", "one", "type", "veth", "peer", "name", "v-two", "netns", "two")
    for name, address in ADDRESSES.items():
        ip("-n", name, "addr", "add", f"{address}/24", "dev", f"v-{name}")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", f"v-{name}", "up")


async def _beside_the_loop(main: Callable[..., None], *args: object) -> None:
    """The verbs have a loop of their own."""
    await asyncio.to_thread(main, *args)


class Host:
    """A vnic in a namespace, with a tunnel `net0` to the other one."""

    def __init__(self, place: Place, name: str, path: str, *more: str, **options: object) -> None:
        self.place = place
        self.name = name
        self.path = path
        (far,) = (address for each, address in ADDRESSES.items() if each != name)
        given = {"local": ADDRESSES[name], "remote": far, "vni": 7} | options
        words = ",".join(f"{key.replace('_', '-')}={value}" for key, value in given.items())
        self.options = ["-netdev", f"tunnel,id=net0,{words}", *more]
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        datapath = ["-datapath", "python"] if self.path == "python" else []
        command = ["ip", "netns", "exec", self.name, *COMMAND]
        self.process = self.place.start("run", "-name", self.name, *datapath, *self.options, command=command)
        wait_for(
            lambda: self.place.verb("ps", "-n", self.name).returncode == 0 or self.process.poll() is not None
        )
        assert self.process.poll() is None, self.process.communicate()[1]
        return self.process

    def verb(self, *words: str) -> str:
        done = self.place.verb(*words, "-n", self.name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tunnel(self) -> dict[str, Any]:
        (found,) = json.loads(self.verb("tunnel", "--json"))
        assert isinstance(found, dict)
        return found

    def held(self) -> str:
        """The text of its far-end hold, or nothing."""
        links = json.loads(self.verb("link", "show", "net0", "--json"))
        (holds,) = (link["holds"] for link in links if link["name"] == "net0")
        return "".join(hold["text"] for hold in holds if hold["kind"] == "far-end")

    def until_held(self, text: str) -> None:
        wait_for(lambda: text in self.held())

    def until_up(self) -> None:
        wait_for(lambda: not self.held())

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors, errors


@contextlib.contextmanager
def guest_of(host: Host) -> Iterator[PlayedGuest]:
    path = host.place.path(f"{host.name}.sock")
    with guest_on(path) as guest:
        yield guest


def nic(name: str) -> list[str]:
    return ["-device", DEVICE.replace("nic0.sock", f"{name}.sock")]


def _two_vnics(path: str, options: dict[str, object]) -> None:
    two_hosts()
    with new_place() as place:
        one, two = (Host(place, name, path, *nic(name), **options) for name in ADDRESSES)
        one.until_held("notPresent (6)")
        with guest_of(one) as at_one, guest_of(two) as at_two:
            for host in (one, two):
                host.until_up()
                assert host.tunnel()["path"] == path
            wait_for(lambda: at_one.sees_up() and at_two.sees_up())
            one.verb("link", "set", "nic0", "down")
            wait_for(lambda: not at_two.sees_up())
            two.until_held("says down (2)")
            assert not one.held()
            assert "says down (2)" in two.verb("why", "nic0")
            one.verb("link", "set", "nic0", "up")
            wait_for(at_two.sees_up)
            _cut_one_direction(one, two)
            wait_for(lambda: at_one.sees_up() and at_two.sees_up())
            ip("-n", "two", "link", "set", "v-two", "down")
            for host in (one, two):
                host.until_held("nothing heard from 10.9.0.")
            ip("-n", "two", "link", "set", "v-two", "up")
            wait_for(lambda: at_one.sees_up() and at_two.sees_up())
        two.process.kill()
        two.process.communicate()
        wait_for(lambda: "notPresent (6)" in one.held() or "refuses" in one.held())
        one.until_held("refuses: nothing listens on port 4789")
        assert "refuses" in one.verb("tunnel", "net0")
        two.start()
        with guest_of(one), guest_of(two):
            one.until_up()
            two.until_up()
        for host in (one, two):
            host.end()


def _cut_one_direction(one: Host, two: Host) -> None:
    """Frames from `one` go to a MAC address that is nobody's: no error tells of it."""
    ip("-n", "one", "neigh", "replace", ADDRESSES["two"], "lladdr", "02:00:00:00:00:99", "dev", "v-one")
    two.until_held("nothing heard from 10.9.0.1:4789")
    one.until_held("the far end hears nothing from here (RDI): frames from here to 10.9.0.2:4789 are lost")
    assert "frames from here to 10.9.0.2:4789 are lost" in one.verb("why", "net0")
    assert "hears nothing (RDI)" in two.verb("tunnel", "net0")
    ip("-n", "one", "neigh", "del", ADDRESSES["two"], "dev", "v-one")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", [{}, {"key": "secret"}], ids=["plain", "key"])
def test_two_vnics(path: str, options: dict[str, object]) -> None:
    if path == "wire":
        need("vnic-wire")
    in_namespace(_beside_the_loop, _two_vnics, path, options)


TAP = [
    *("-netdev", "hubport,id=h0,hubid=0,netdev=net0"),
    *("-netdev", "tap,id=tap0,ifname=tap0", "-netdev", "hubport,id=h1,hubid=0,netdev=tap0"),
]
"""A tap that is joined with the tunnel: the host plays the guest, as the one of the kernel's peer does."""
INNER = {"one": "192.168.7.1", "two": "192.168.7.2"}


def give_address(name: str, device: str) -> None:
    ip("-n", name, "addr", "add", f"{INNER[name]}/24", "dev", device)
    ip("-n", name, "link", "set", device, "up")


def _kernel(path: str, ccm: str) -> None:
    two_hosts()
    ip("-n", "two", "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789",
       "local", ADDRESSES["two"], "remote", ADDRESSES["one"])  # fmt: skip
    give_address("two", "vx0")
    with new_place() as place:
        one = Host(place, "one", path, *TAP, ccm=ccm)
        give_address("one", "tap0")
        assert not one.held()
        for size in ("56", "1472", "8000"):
            answer = run(
                "ip",
                "netns",
                "exec",
                "two",
                "ping",
                "-c",
                "3",
                "-i",
                "0.2",
                "-W",
                "20",
                "-s",
                size,
                INNER["one"],
            )
            assert ", 0% packet loss" in answer, answer
        assert run("ip", "netns", "exec", "one", "ping", "-c", "1", "-W", "20", INNER["two"])
        info = one.tunnel()
        assert info["path"] == path
        if ccm == "auto":
            assert info["ccm"]["remote"]["heard"] == "never"
        one.end()


@pytest.mark.needs("ping")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ccm", ["off", "auto"])
def test_vxlan_of_the_kernel(path: str, ccm: str) -> None:
    """Larger than its interface's MTU, too: the outer packets are fragmented."""
    if path == "wire":
        need("vnic-wire")
    in_namespace(_beside_the_loop, _kernel, path, ccm)


def kernel_vxlan(name: str) -> None:
    """A VXLAN device `vx0` at `two`, for a peer that makes CCMs of its own."""
    ip("-n", name, "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789",
       "local", ADDRESSES["two"], "remote", ADDRESSES["one"])  # fmt: skip
    ip("-n", name, "link", "set", "vx0", "up")


@contextlib.contextmanager
def open_vswitch(place: Place) -> Iterator[Callable[..., str]]:
    """Open vSwitch in the namespace `two`, in user space; yields `ovs-vsctl` and, by its name, `ovs-appctl`."""
    folder = place.folder / "ovs"
    folder.mkdir()
    inside = [
        "ip",
        "netns",
        "exec",
        "two",
        "env",
        *(f"{key}={folder}" for key in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR")),
    ]
    database, unix = folder / "conf.db", f"unix:{folder}/db.sock"
    run("ovsdb-tool", "create", str(database), "/usr/share/openvswitch/vswitch.ovsschema")
    server = subprocess.Popen(
        [
            *inside,
            "ovsdb-server",
            str(database),
            f"--remote=punix:{folder}/db.sock",
            f"--unixctl={folder}/db.ctl",
        ],
        stderr=subprocess.DEVNULL,
    )
    switch = None
    try:
        wait_for((folder / "db.sock").exists)
        run("ovs-vsctl", f"--db={unix}", "--no-wait", "init")
        switch = subprocess.Popen(
            [*inside, "ovs-vswitchd", unix, f"--unixctl={folder}/switch.ctl", "--disable-system"],
            stderr=subprocess.DEVNULL,
        )
        wait_for((folder / "switch.ctl").exists)

        def command(program: str, *words: str) -> str:
            if program == "ovs-vsctl":
                return run(program, f"--db={unix}", "--timeout=30", *words)
            return run(program, f"--target={folder}/switch.ctl", *words)

        yield command
    finally:
        for process in (switch, server):
            if process is not None:
                process.terminate()
                process.wait()


def _ovs(path: str) -> None:
    two_hosts()
    kernel_vxlan("two")
    with new_place() as place, open_vswitch(place) as ovs:
        ovs("ovs-vsctl", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        ovs("ovs-vsctl", "add-port", "br0", "vx0", "--", "set", "interface", "vx0", "cfm_mpid=2",
            "other_config:cfm_interval=100")  # fmt: skip
        one = Host(place, "one", path, *TAP, md="ovs", ma="ovs", interval=100, mep=1)
        one.until_up()
        assert one.tunnel()["ccm"]["remote"]["heard"] == "yes"

        def health() -> str:
            return ovs("ovs-vsctl", "get", "interface", "vx0", "cfm_fault", "cfm_remote_mpids")

        wait_for(lambda: health().split() == ["false", "[1]"])
        ip("-n", "two", "link", "set", "v-two", "down")
        wait_for(lambda: health().split()[0] == "true")
        one.until_held("nothing heard from 10.9.0.2:4789")
        ip("-n", "two", "link", "set", "v-two", "up")
        one.until_up()
        wait_for(lambda: health().split()[0] == "false")
        one.end()


@pytest.mark.needs("ovs")
@pytest.mark.parametrize("path", PATHS)
def test_cfm_of_open_vswitch(path: str) -> None:
    if path == "wire":
        need("vnic-wire")
    in_namespace(_beside_the_loop, _ovs, path)


def _bridge(path: str) -> None:
    two_hosts()
    kernel_vxlan("two")
    ip("-n", "two", "link", "add", "br0", "type", "bridge")
    ip("-n", "two", "link", "set", "vx0", "master", "br0")
    ip("-n", "two", "link", "set", "br0", "up")
    cfm = ("ip", "netns", "exec", "two", "cfm")
    run(
        *cfm,
        "mep-create",
        "bridge",
        "br0",
        "instance",
        "1",
        "domain",
        "port",
        "direction",
        "down",
        "port",
        "vx0",
    )
    run(
        *cfm,
        "mep-config",
        "bridge",
        "br0",
        "instance",
        "1",
        "mac",
        "02:00:00:00:00:02",
        "level",
        "0",
        "mepid",
        "2",
    )
    run(*cfm, "cc-config", "bridge", "br0", "instance", "1", "enable", "1", "interval", "100ms", "priority", "7",
        "maid-name", "vnic 7")  # fmt: skip
    run(*cfm, "cc-peer", "add", "bridge", "br0", "instance", "1", "mepid", "1")
    run(*cfm, "cc-ccm-tx", "bridge", "br0", "instance", "1", "dmac", "01:80:c2:00:00:30", "period", "100000")
    with new_place() as place:
        one = Host(place, "one", path, *TAP, interval=100, mep=1)
        one.until_up()
        one.end()


@pytest.mark.needs("bridge-cfm")
@pytest.mark.parametrize("path", PATHS)
def test_cfm_of_the_kernels_bridge(path: str) -> None:
    if path == "wire":
        need("vnic-wire")
    in_namespace(_beside_the_loop, _bridge, path)
