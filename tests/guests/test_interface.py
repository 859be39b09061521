"""A real kernel behind `interface`: its carrier and that of a veth's other end follow each other."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.guests.lab import TIMEOUT_S, Vnic, nic, uml, vnic_run
from tests.needs import is_met, need

from vnic.lab.guest.uml import UmlGuest

NAMESPACE = f"vnic-test-{os.getpid()}"
FAR = f"vt{os.getpid()}"
"""This end of the veth; eth1 is the other one, in the namespace."""


def ip(*words: str) -> str:
    return subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def has_carrier() -> bool:
    return "NO-CARRIER" not in ip("link", "show", FAR)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def running() -> Iterator[Vnic]:
    """A container's veth, and a NIC on it."""
    need("namespaces", "ip", "uml")
    with ExitStack() as stack:
        ip("netns", "add", NAMESPACE)
        stack.callback(ip, "netns", "del", NAMESPACE)
        ip("link", "add", FAR, "type", "veth", "peer", "name", "eth1", "netns", NAMESPACE)
        ip("-n", NAMESPACE, "link", "set", "eth1", "up")
        ip("addr", "add", "10.77.0.1/24", "dev", FAR)
        ip("link", "set", FAR, "up")
        netdev = f"interface,id=net0,ifname=eth1,netns={NAMESPACE},propagate=on"
        yield stack.enter_context(vnic_run("-netdev", netdev, *nic("nic0")))


@pytest.fixture
def guest(running: Vnic) -> Iterator[UmlGuest]:
    until(lambda: not has_carrier())  # nobody has come yet
    with uml(running, "nic0") as booted:
        booted.set_address("10.77.0.2/24")
        yield booted


def test_carrier_of_both_ends_until_the_vm_is_killed(running: Vnic, guest: UmlGuest) -> None:
    until(has_carrier)
    assert guest.wait_carrier(True)
    assert guest.ping("10.77.0.1") is not None
    if is_met("vnic-wire"):
        assert running.qmp.link("nic0")["datapath"] == "wire"
    for _ in range(2):
        ip("link", "set", FAR, "down")
        assert guest.wait_carrier(False)
        assert running.qmp.holds("nic0") == {"uplink"}
        ip("link", "set", FAR, "up")
        assert guest.wait_carrier(True)
        running.qmp.set_link("nic0", False)
        until(lambda: not has_carrier())
        assert running.qmp.holds("nic0") == {"operator"}
        assert guest.wait_carrier(False)
        running.qmp.set_link("nic0", True)
        until(has_carrier)
        assert guest.wait_carrier(True)
    assert guest.ping("10.77.0.1") is not None
    guest.kill()
    until(lambda: not has_carrier())
