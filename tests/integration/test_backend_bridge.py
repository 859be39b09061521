"""bridge against the kernel's own: made by vnic itself, and by QEMU's helper."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.fakes.loops import open_fds
from tests.integration.namespace import frame, in_namespace, ip, packet_socket, receive, run, up
from tests.needs import need
from tests.unit.backend.helpers import Lab, until

from vnic.backend import bridge, netdev_add
from vnic.backend.bridge import HELPERS
from vnic.backend.options import BridgeOptions
from vnic.net.errors import NetError


def make_bridge(name: str) -> None:
    ip("link", "add", name, "type", "bridge")
    up(name)
    ip("link", "add", "outside", "type", "veth", "peer", "name", "plugged")
    up("outside")
    up("plugged")
    ip("link", "set", "plugged", "master", name)


async def _natively() -> None:
    make_bridge("lab0")
    async with Lab() as lab:
        netdev, nic, guest = lab.wire(BridgeOptions(id="net0", br="lab0"))
        assert netdev.endpoint.info_text(0) == "ifname=tap0,br=lab0"
        assert "tap0" in ip("link", "show", "master", "lab0")
        with packet_socket("outside") as outside:
            await until(lambda: nic.send(0, frame(b"out" * 20)) and "LOWER_UP" in ip("link", "show", "tap0"))
            nic.send(0, frame(b"out" * 20))
            assert await receive(outside) == frame(b"out" * 20)
            outside.send(frame(b"in" * 30))
            await until(lambda: frame(b"in" * 30) in guest.got)
    assert "tap0" not in ip("link")


def test_with_the_permission_vnic_makes_the_tap() -> None:
    in_namespace(_natively)


async def _as_it_was() -> None:
    ip("link", "add", "lab0", "type", "bridge")
    ip("link", "add", "plugged", "address", "fa:00:00:00:00:01", "mtu", "9000", "type", "veth")
    ip("link", "set", "plugged", "master", "lab0")
    async with Lab() as lab:
        lab.add(BridgeOptions(id="net0", br="lab0"))
        assert "link/ether fa:00:00:00:00:01" in ip("link", "show", "lab0")
        for name in ("lab0", "tap0"):
            assert "mtu 9000" in ip("link", "show", name)


def test_the_bridge_keeps_its_mac_address_and_mtu() -> None:
    in_namespace(_as_it_was)


async def _refused(directory: Path) -> None:
    before = open_fds()
    async with Lab() as lab:
        with pytest.raises(NetError, match=r"could not add tap0 to bridge 'nobr': No such device"):
            lab.add(BridgeOptions(id="net0", br="nobr"))
        with pytest.raises(NetError, match=r"could not add tap0 to bridge 'lo': it is no bridge"):
            lab.add(BridgeOptions(id="net0", br="lo"))
        with pytest.raises(NetError, match="bridge helper failed"):
            await lab.add_prepared(BridgeOptions(id="net0", helper="/bin/false"))
        with pytest.raises(NetError, match="could not launch bridge helper /nonexistent: No such file"):
            await lab.add_prepared(BridgeOptions(id="net0", helper="/nonexistent"))
        liar = directory / "liar"
        liar.write_text("#!/bin/sh\nexit 0\n")
        need("exec-tmp")
        liar.chmod(0o755)
        with pytest.raises(NetError, match="bridge helper failed"):
            await lab.add_prepared(BridgeOptions(id="net0", helper=str(liar)))
        deaf = directory / "deaf"
        deaf.write_text("#!/bin/sh\nexec sleep 100\n")
        need("exec-tmp")
        deaf.chmod(0o755)
        bridge.HELPER_LIMIT_S = 0.05  # of this child
        with pytest.raises(NetError, match=r"bridge helper failed: it took more than 0.05 s"):
            await lab.add_prepared(BridgeOptions(id="net0", helper=str(deaf)))
        bridge.HELPER_LIMIT_S = 60.0
        later = netdev_add(lab.context, BridgeOptions(id="net0", helper=str(deaf)))
        assert later is not None
        await asyncio.sleep(0)
        later.cancel()
        with pytest.raises(asyncio.CancelledError):
            await later
        assert lab.context.coming == {}
    await until(lambda: open_fds() == before)  # the helpers that were ended are gone in a moment
    assert "tap0" not in ip("link")


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    in_namespace(_refused, tmp_path)


HELPER = """
import array, socket, sys
sys.path.insert(0, {source!r})
from vnic.backend.tap.device import add_to_bridge, open_tap

options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
fd, name, _ = open_tap(None, vnet_hdr="use-vnet" in options, multi_queue=False)
add_to_bridge(name, options["br"])
with socket.socket(fileno=int(options["fd"])) as sock:
    sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
"""


async def _by_helper(directory: Path) -> None:
    bridge.HELPER_LIMIT_S = 60.0  # of this child; the helper has to load our modules
    make_bridge("lab0")
    script = directory / "helper.py"
    script.write_text(HELPER.format(source=str(Path(__file__).parents[2] / "src")))
    helper = f"{sys.executable} {script}"
    async with Lab() as lab:
        netdev = await lab.add_prepared(BridgeOptions(id="net0", br="lab0", helper=helper))
        nic, _ = lab.nic("net0")
        assert netdev.endpoint.info_text(0) == f"helper={helper},br=lab0"
        assert nic.link_up
        assert netdev.endpoint.wants_offload
        assert "tap0" in ip("link", "show", "master", "lab0")


def test_a_helper_passes_the_tap(tmp_path: Path) -> None:
    in_namespace(_by_helper, tmp_path)


async def _by_qemus_helper(helper: str, directory: Path) -> None:
    """The helper's rules are read from a fixed place: this child's own /etc has them."""
    bridge.HELPER_LIMIT_S = 60.0
    for name in ("upper", "work"):
        (directory / name).mkdir()
    layers = f"lowerdir=/etc,upperdir={directory}/upper,workdir={directory}/work"
    run("mount", "-t", "overlay", "overlay", "-o", layers, "/etc")
    run("sh", "-c", "mkdir -p /etc/qemu && echo allow lab0 > /etc/qemu/bridge.conf")
    make_bridge("lab0")
    async with Lab() as lab:
        netdev = await lab.add_prepared(BridgeOptions(id="net0", br="lab0", helper=helper))
        nic, _ = lab.nic("net0")
        assert nic.link_up
        assert netdev.endpoint.info_text(0) == f"helper={helper},br=lab0"
        assert "tap0" in ip("link", "show", "master", "lab0")
        with pytest.raises(NetError, match="bridge helper failed"):
            await lab.add_prepared(BridgeOptions(id="net1", br="other0", helper=helper))


@pytest.mark.needs("bridge-helper")
def test_qemus_helper_opens_the_tap(tmp_path: Path) -> None:
    helper = next(path for path in HELPERS if os.access(path, os.X_OK))
    in_namespace(_by_qemus_helper, helper, tmp_path)
