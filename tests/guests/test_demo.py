"""`vnic demo` as a user runs it: on a kernel, on the fake guest, and where no kernel can be had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.guests.lab import SOURCES

from vnic.lab.demo.steps import STEPS


def demo(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vnic", "demo", *options],
        env={**os.environ, "PYTHONPATH": SOURCES, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize(
    "guest",
    [
        pytest.param("uml", marks=pytest.mark.needs("uml")),
        pytest.param("qemu", marks=pytest.mark.needs("qemu-guest")),
        "fake",
    ],
)
def test_demo_finds_every_row_right(guest: str) -> None:
    done = demo("--guest", guest, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert ("fake" in said["guest"]) is (guest == "fake")
    rows = said["rows"]
    assert [row["done"] for row in rows] == ["boot", *(step.title for step in STEPS)]
    assert all(row["right"] for row in rows)
    assert [row["carrier"] for row in rows] == [1, *(int(step.up) for step in STEPS)]
    unseen = [row["done"] for row in rows if row["seen-latency-us"] is None]
    assert unseen == [step.title for step in STEPS if not step.changes]


def test_without_a_kernel_it_says_so_first_and_does_not_look_like_success(tmp_path: Path) -> None:
    done = demo(PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("NO KERNEL: this shows no real guest. Mend it with: a Debian or Ubuntu system")
    assert said[-1] == said[0] or said[-2:] == said[:2], "where the reader's eye is at the end"
    assert "The reason: linux.uml is not installed" in done.stdout
    assert "Guest: the built-in fake guest driver (no kernel)." in done.stdout


def test_a_model_needs_a_guest_that_has_it() -> None:
    done = demo("--guest", "uml", "--model", "e1000")
    assert done.returncode == 1
    assert (
        done.stderr == "vnic: --model is for --guest qemu: the uml guest has a virtio-net over vhost-user\n"
    )


def test_json_tells_of_a_missing_kernel(tmp_path: Path) -> None:
    done = demo("--json", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["no-kernel"]["reason"].startswith("linux.uml is not installed")
    assert said["no-kernel"]["remedy"]


def test_a_kernel_that_was_asked_for_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = demo("--guest", "uml", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("vnic: linux.uml is not installed")
    assert "; mend it with: a Debian or Ubuntu system" in done.stderr


@pytest.mark.needs("exec-tmp")
def test_ctrl_c_ends_a_download(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sleep").symlink_to("/bin/sleep")
    (tools / "dpkg-deb").symlink_to("/bin/true")
    (tools / "apt-get").write_text(
        """#!/bin/sh
for word; do case "$word" in APT::Status-Fd=*) fd=${word#*=};; esac; done
while :; do echo "dlstatus:1:10:Retrieving file 1 of 2" >/proc/self/fd/$fd || exit; sleep 0.05; done
"""
    )
    (tools / "apt-get").chmod(0o755)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "vnic", "demo"],
        env={**os.environ, "PYTHONPATH": SOURCES, "PATH": str(tools), "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(cache.glob("vnic/.packages-*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
    assert list((cache / "vnic").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_broken_off_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vnic", "demo", "--guest", "fake"],
        env={**os.environ, "PYTHONPATH": SOURCES, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(
            tmp_path.glob("vnic-demo-*/net0.sock")
        ):  # it is at its stream, with a peer or before it
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []
    words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(bytes(tmp_path) in line for line in words)
