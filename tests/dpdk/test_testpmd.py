"""DPDK as vnic's peer: testpmd's net_vhost as the back-end of a Linux guest's NIC, and its virtio-user as the guest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.testpmd import Testpmd
from vnic.lab.guest.uml import UmlGuest

pytestmark = [pytest.mark.dpdk, pytest.mark.timeout(600), pytest.mark.needs("testpmd", "uml")]

ADDRESS, PEER = "10.0.2.15", "10.0.2.2"
CONNECTS = "socket,id=c0,path=@/c0.sock,reconnect-ms=50"
LISTENS = "socket,id=c0,path=@/c0.sock,server=on,wait=off"
NETDEV = "vhost-user,id=vu0,chardev=c0"
NIC = "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=@/nic0.sock"


def vnic(chardev: str) -> VnicProcess:
    return VnicProcess("-chardev", chardev, "-netdev", NETDEV, "-device", NIC)


@contextlib.contextmanager
def back_end(path: Path, mode: str = "icmpecho", *, client: bool = False) -> Iterator[Testpmd]:
    """testpmd on net_vhost, which answers pings; it refuses to listen on what a killed one left behind."""
    if not client:
        path.unlink(missing_ok=True)
    vdev = f"net_vhost0,iface={path},queues=1" + (",client=1" if client else "")
    with Testpmd(vdev, f"--forward-mode={mode}", cpu=1) as testpmd:
        testpmd.command("start")
        yield testpmd


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass"
        time.sleep(0.02)


def pings(guest: UmlGuest) -> bool:
    """Whether the far end answers. DPDK touches all of a new guest's memory first, which takes its time."""
    return any(guest.try_run(f"ping -c 1 -W 10 {PEER}", 60).status == 0 for _ in range(10))


@pytest.mark.parametrize("chardev", [CONNECTS, LISTENS], ids=["vnic-connects", "vnic-listens"])
def test_a_dpdk_back_end_comes_is_killed_and_comes_back(chardev: str) -> None:
    client = chardev is LISTENS
    with vnic(chardev) as running, contextlib.ExitStack() as stack:
        path = running.folder / "c0.sock"
        first = stack.enter_context(back_end(path, client=client))
        running.wait_link("nic0", up=True)
        guest = stack.enter_context(UmlGuest([running.folder / "nic0.sock"]))
        guest.run(f"ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up")
        assert guest.carrier()
        assert pings(guest)
        first.kill()
        assert guest.wait_carrier(False), "the loss of the back-end is the loss of the link"
        changes = cast(int, running.link("nic0")["carrier-changes"])
        with back_end(path, client=client):
            assert guest.wait_carrier(True)
            assert pings(guest)
            assert running.link("nic0")["carrier-changes"] == changes + 1
            running.execute("set_link", name="nic0", up=False)
            assert guest.wait_carrier(False)
        with back_end(path, client=client):
            running.wait_link("vu0", up=True)
            assert not guest.carrier(), "the operator's hold outlives the back-end"
            running.execute("set_link", name="nic0", up=True)
            assert guest.wait_carrier(True)
            assert pings(guest)


def test_a_dpdk_driver_reaches_a_dpdk_back_end_both_ways_and_sees_the_link_by_its_socket() -> None:
    with vnic(CONNECTS) as running, contextlib.ExitStack() as stack:
        back = stack.enter_context(back_end(running.folder / "c0.sock", "macswap"))
        running.wait_link("nic0", up=True)
        vdev = f"net_virtio_user0,path={running.folder}/nic0.sock,queues=1"
        driver = stack.enter_context(Testpmd(vdev, "--forward-mode=txonly", cpu=0))
        driver.command("start")
        until(lambda: driver.statistics().get("TX-packets", 0) > 1000, "sending")
        until(lambda: back.statistics()["RX-packets"] > 1000, "the back-end's receiving")
        driver.command("stop")
        driver.command("set fwd rxonly")
        driver.command("start")
        until(lambda: driver.statistics()["RX-packets"] > 100, "receiving what the back-end sent back")
        assert driver.link_up()
        running.execute("set_link", name="nic0", up=False)
        until(lambda: not driver.link_up(), "the driver's seeing the link down")
