"""`vnic guest` on a terminal: a person's shell in a kernel on a running vnic's NIC."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import pytest
from tests.guests.lab import ECHO, SOURCES, nic, vnic_run

from vnic.lab.guest.verb import default_address


class Terminal:
    """The master's end of a pty."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = b""

    def type(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def wait_for(self, text: str) -> None:
        """Until `text` was printed; what was printed before it is forgotten."""
        deadline = time.monotonic() + 60
        while text.encode() not in self._read:
            left = deadline - time.monotonic()
            assert left > 0, self._read
            if select.select([self._fd], [], [], left)[0]:
                self._read += os.read(self._fd, 4096)
        self._read = self._read.partition(text.encode())[2]


@pytest.mark.needs("uml")
def test_shell_serves_a_terminal() -> None:
    with vnic_run("-name", "shell", *ECHO, *nic("nic0")) as running:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "vnic", "guest", str(running.socket("nic0"))]
        environment = {**os.environ, "PYTHONPATH": SOURCES}
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
            os.close(slave)
            try:
                terminal = Terminal(master)
                terminal.wait_for("/ #")
                terminal.type("ping -c 1 10.0.2.2")
                terminal.wait_for("1 packets received")
                terminal.type("ping 10.0.2.2")
                terminal.wait_for("seq=0")
                terminal.type("\x03")
                terminal.wait_for("/ #")
                # Unlike ping, sleep leaves SIGINT as it finds it; it is in the foreground when it has spoken.
                terminal.type("sh -c \"echo asl''eep; exec sleep 1000\"")
                terminal.wait_for("asleep")
                terminal.type("\x03")
                terminal.wait_for("/ #")
                terminal.type("exit")
                assert process.wait(60) == 0
            finally:
                process.terminate()
                os.close(master)


@pytest.mark.needs("uml")
def test_without_a_nic_behind_the_socket_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vnic", "guest", "/nonesuch/nic0.sock"],
        env={**os.environ, "PYTHONPATH": SOURCES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "vnic: no NIC listens on /nonesuch/nic0.sock: start `vnic run` first\n"


def guest(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vnic", "guest", *words],
        env={**os.environ, "PYTHONPATH": SOURCES},
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.needs("uml")
def test_a_command_is_run_and_its_exit_code_passed_on() -> None:
    with vnic_run("-name", "script", *ECHO, *nic("nic0"), *nic("nic1", netdev=None)) as running:
        sockets = [str(running.socket(name)) for name in ("nic0", "nic1")]
        done = guest(*sockets, "--", "sh", "-c", "ip -4 -o addr show eth0; echo 'a  b' >&2; exit 7")
        assert (done.returncode, done.stderr) == (7, "")
        address, said = done.stdout.splitlines()
        assert "10.0.2.15/24" in address.split()
        assert said == "a  b"
        addresses = ["--address", "10.0.2.99/24", "--address", "fd00::9/64"]
        done = guest(*addresses, *sockets, stdin="ping -c 1 10.0.2.2 >/dev/null && ip addr\nfalse\n")
        assert done.returncode == 1
        assert "10.0.2.99/24" in done.stdout
        assert "fd00::9/64" in done.stdout


def test_wrong_arguments_are_refused_before_a_kernel_boots() -> None:
    done = guest("--address", "10.0.2.5/24", "--address", "10.0.3.5/24", "nic0.sock", "--", "true")
    assert (done.returncode, done.stderr) == (1, "vnic: 2 addresses for 1 NICs\n")
    assert guest("--address", "10.0.2.500/24", "nic0.sock").returncode == 2


def test_default_addresses_differ_as_mac_addresses_do() -> None:
    macs = [f"52:54:00:12:{number >> 8:02x}:{number & 255:02x}" for number in range(0x3456, 0x3456 + 240)]
    addresses = [default_address(mac) for mac in macs]
    assert addresses[:2] == ["10.0.2.15/24", "10.0.2.16/24"]
    assert addresses[-1] == "10.0.2.254/24"
    assert len(set(addresses)) == 240
