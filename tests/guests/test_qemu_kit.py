"""The QEMU guest itself: what is in it, QEMU's own NICs for comparison, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guests.lab import SOURCES
from tests.needs import need

from vnic.lab.guest import qemu_kit
from vnic.lab.guest.errors import BootFailed, GuestError, GuestGone
from vnic.lab.guest.qemu import QemuGuest
from vnic.lab.guest.qemu_nic import emulated


@pytest.fixture(scope="module")
def kit() -> qemu_kit.QemuKit:
    need("qemu-guest")
    found = qemu_kit.find_qemu()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def guest(kit: qemu_kit.QemuKit) -> Iterator[QemuGuest]:
    wire = {"type": "hubport", "hubid": 0}
    nics = [emulated("virtio-net-pci", wire), emulated("e1000", wire)]
    files = {"/usr/bin/probe": b"#!/bin/sh\necho probed $1\n"}
    with QemuGuest(nics, kit=kit, tools=True, modules=["8021q"], files=files) as booted:
        yield booted


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}/cmdline").exists() and Path(f"/proc/{process}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_guest_has_the_tools_that_tests_need(guest: QemuGuest, kit: qemu_kit.QemuKit) -> None:
    assert guest.run("uname -r") == kit.kernel_version
    assert guest.label == kit.version_text()
    assert guest.run("probe here") == "probed here"
    assert guest.run("ethtool --version").startswith("ethtool version")
    assert "0200: 8086:100e" in guest.run("lspci -n")
    guest.run("ip link add link eth0 name eth0.7 type vlan id 7; ip link del eth0.7")


def test_guest_drops_no_frame_for_having_waited(guest: QemuGuest) -> None:
    for interface in ("eth0", "eth1"):
        assert " qdisc pfifo_fast " in guest.run(f"ip link show {interface}")


def test_qemus_own_nics_follow_qemus_set_link(guest: QemuGuest) -> None:
    for nic, interface in (("nic0", "eth0"), ("nic1", "eth1")):
        guest.qmp("set_link", name=nic, up=True)
        assert guest.wait_carrier(True, interface)
        guest.qmp("set_link", name=nic, up=False)
        assert guest.wait_carrier(False, interface)
        guest.qmp("set_link", name=nic, up=True)


def test_what_qemu_refuses_is_said_in_its_words(guest: QemuGuest) -> None:
    with pytest.raises(GuestError, match="refused set_link: Device 'nic7' not found"):
        guest.qmp("set_link", name="nic7", up=True)


def test_long_output_arrives_whole(guest: QemuGuest) -> None:
    assert guest.run("seq 1 3000").splitlines() == [str(number) for number in range(1, 3001)]


def test_powering_off_leaves_no_process_behind(kit: qemu_kit.QemuKit) -> None:
    with QemuGuest(kit=kit) as guest:
        process = guest.pid
        with pytest.raises(GuestGone):
            guest.run("poweroff -f")
        wait_until_gone(process)
        guest.close()
        with pytest.raises(GuestError, match="not running"):
            guest.run("true")


def test_a_qemu_that_ends_at_once_is_not_said_to_be_slow(kit: qemu_kit.QemuKit, tmp_path: Path) -> None:
    guest = QemuGuest([tmp_path / "nobody.sock"], kit=kit)
    with pytest.raises(BootFailed, match=r"(?s)ended before it had booted:.*Failed to connect to"), guest:
        pass


def test_a_guest_ends_with_the_process_that_booted_it(kit: qemu_kit.QemuKit) -> None:
    code = """\
from vnic.lab.guest.errors import BootFailed
from vnic.lab.guest.qemu import QemuGuest
guest = QemuGuest()
try:
    guest.boot(timeout=0.3)
except BootFailed:
    print(guest.pid, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCES},
    ) as harness:
        assert harness.stdout is not None
        process = int(harness.stdout.readline())
        harness.send_signal(signal.SIGKILL)
    wait_until_gone(process)
