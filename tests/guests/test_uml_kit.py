"""The guest kit itself, on a real kernel: commands, time-outs, and nothing left behind."""

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

from vnic.lab.guest import kit
from vnic.lab.guest.errors import CommandFailed, GuestError, GuestGone
from vnic.lab.guest.uml import UmlGuest


@pytest.fixture(scope="module")
def found_kit() -> kit.UmlKit:
    need("uml")
    found = kit.find_uml()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def guest(found_kit: kit.UmlKit) -> Iterator[UmlGuest]:
    with UmlGuest(kit=found_kit, files={"/bin/probe": b"#!/bin/sh\necho probed $1\n"}) as booted:
        yield booted


def test_programs_keep_all_of_their_registers(guest: UmlGuest) -> None:
    """Also where a fault of a page comes between the load and the store of a copy."""
    line = "0123456789abcdefghijklmnopqrstuv" * 2
    lines = guest.run(f"for i in $(seq 20); do echo '{line} -' | cut -d' ' -f1; done").split()
    assert set(lines) == {line}


def group_processes(group: int) -> list[str]:
    """The processes of a group, by name and state; zombies are only waiting for their parent to look."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        state, _parent, of_group = rest.split()[:3]
        if int(of_group) == group and state != "Z":
            found.append(f"{name}) {state}")
    return found


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while left := group_processes(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_guest_reports_its_kernel(guest: UmlGuest, found_kit: kit.UmlKit) -> None:
    assert guest.boot_seconds > 0
    assert guest.run("uname -r") == found_kit.version_text()
    assert guest.label == f"User-Mode Linux {found_kit.version_text()}"


def test_commands_return_output_and_status(guest: UmlGuest) -> None:
    assert guest.run("echo out; echo err >&2") == "out\nerr"
    assert guest.try_run("exit 7").status == 7
    assert guest.run("/bin/probe here") == "probed here"
    assert guest.run("seq 1 5000").splitlines()[-1] == "5000"
    assert guest.run("cd /proc\npwd") == "/proc"
    assert guest.run("pwd") == "/"
    with pytest.raises(CommandFailed, match="No such file"):
        guest.run("cat /nonesuch")


def test_waiting_for_a_carrier_ends(guest: UmlGuest) -> None:
    assert guest.wait_carrier(True, "lo")
    assert not guest.wait_carrier(False, "lo", timeout=0)
    assert guest.start_wait_carrier(True, "lo").result().status == 0


def test_floating_point_survives_page_faults_and_switches(guest: UmlGuest) -> None:
    """What a kernel that loses register state would get wrong (see vnic.lab.guest.exec_uml)."""
    sums = (
        "for run in 1 2 3 4; do (seq 1 2000 | awk '{s += $1 / 7} END {printf \"%.6f\\n\", s}') & done; wait"
    )
    assert guest.run(sums).splitlines() == ["285857.142857"] * 4


def test_a_guest_that_powers_itself_off_is_gone(found_kit: kit.UmlKit) -> None:
    with UmlGuest(kit=found_kit) as guest:
        group = guest.pid
        with pytest.raises(GuestGone):
            guest.run("poweroff -f")
    wait_until_gone(group)


def test_a_guest_that_dies_of_its_reboot_is_switched_on_again(
    found_kit: kit.UmlKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UmlGuest(kit=found_kit) as guest:
        console = guest._booted_console()
        monkeypatch.setattr(console, "forget", guest.kill)  # what the reboot does once it has begun
        guest.reboot()
        assert guest.run("echo here") == "here"


@pytest.mark.parametrize("busy", [False, True])
def test_closing_leaves_no_process_behind(found_kit: kit.UmlKit, busy: bool) -> None:
    guest = UmlGuest(kit=found_kit)
    guest.boot()
    group = guest.pid
    assert group_processes(group)
    if busy:
        guest.start("while :; do :; done")
    guest.close()
    guest.close()
    wait_until_gone(group)
    with pytest.raises(GuestError, match="not running"):
        guest.run("true")


def test_the_guest_ends_with_the_process_that_booted_it(found_kit: kit.UmlKit, tmp_path: Path) -> None:
    code = (
        "from vnic.lab.guest.uml import UmlGuest; g = UmlGuest(); g.boot(); print(g.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCES, "TMPDIR": str(tmp_path)},
    ) as harness:
        assert harness.stdout is not None
        group = int(harness.stdout.readline())
        harness.send_signal(signal.SIGKILL)
    wait_until_gone(group)
