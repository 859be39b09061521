"""The life of `vnic run`: how it starts, what it leaves behind when it ends, and its errors when it cannot start."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import stat
import subprocess

import pytest
from tests.integration.process import COMMAND, PATIENCE_S, PATIENT, Place, guest_on, wait_for

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
STREAM = "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock"


def with_lock(socket: str) -> list[str]:
    """The files of a socket that is listened on."""
    return [socket, f"{socket}.lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing_behind(place: Place, number: signal.Signals) -> None:
    running = place.run("-netdev", STREAM, "-device", NIC, "-pidfile", "pid")
    sockets = with_lock("net0.sock"), with_lock("nic0.sock"), with_lock("vnic.qmp")
    assert place.files() == sorted(["pid", "vnic.lock", *itertools.chain(*sockets)])
    assert int((place.folder / "pid").read_text()) == running.process.pid
    assert running.end(number) == (0, "")
    assert place.files() == []


def test_sockets_are_private_to_the_user(place: Place) -> None:
    with place.run("-netdev", STREAM, "-device", NIC) as running:
        assert stat.S_IMODE(os.stat(running.qmp_path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(running.qmp_path)).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(place.path("nic0.sock")).st_mode) == 0o600


def test_a_guest_sees_its_link_go_when_vnic_ends(place: Place) -> None:
    running = place.run("-netdev", "echo,id=net0", "-device", NIC, command=PATIENT)
    with guest_on(place.path("nic0.sock")) as guest:
        assert guest.sees_up()
        assert running.end() == (0, "")
        assert guest.gone.wait(PATIENCE_S)
        assert not guest.sees_up(), "the guest had the time to see its link go"


def test_run_imports_neither_the_client_nor_the_tables(place: Place) -> None:
    result = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], "run", "-netdev", STREAM, "-device", "nonsense"],
        env=place.environment,
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "vnic.machine" in result.stderr
    for heavy in ("rich", "qemu.qmp", "pyroute2", "argparse"):
        assert not any(line.endswith(f" {heavy}") for line in result.stderr.splitlines()), heavy


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_refused(place: Place) -> None:
    with place.run(name="lab") as running:
        result = place.command("run", "-name", "lab")
        assert result.returncode == 1
        assert result.stderr == (
            f"vnic: -name lab: a vnic named 'lab' is running already ({running.qmp_path}); choose another -name\n"
        )
        assert place.verb("link", "-n", "lab").returncode == 0


def test_what_a_killed_vnic_left_is_replaced(place: Place) -> None:
    running = place.run("-netdev", STREAM, "-device", NIC, "-pidfile", "pid", name="lab")
    running.process.kill()
    running.ended()
    sockets = with_lock("net0.sock"), with_lock("nic0.sock"), with_lock("lab.qmp")
    assert place.files() == sorted(["pid", "lab.lock", *itertools.chain(*sockets)])
    with place.run("-netdev", STREAM, "-device", NIC, "-pidfile", "pid", name="lab") as again:
        wait_for(lambda: place.verb("link", "-n", "lab").returncode == 0)
        assert int((place.folder / "pid").read_text()) == again.process.pid
    assert place.files() == []


def test_a_pidfile_of_a_running_vnic_is_locked(place: Place) -> None:
    with place.run("-pidfile", "pid", name="a"):
        result = place.command("run", "-name", "b", "-pidfile", "pid")
        assert result.returncode == 1
        assert result.stderr == (
            "vnic: cannot create PID file: Could not lock 'pid': Resource temporarily unavailable\n"
        )


# -- -S and -daemonize ------------------------------------------------------------------------------------------------


def test_paused_no_guest_is_let_in_before_cont(place: Place) -> None:
    with place.run("-S", "-netdev", "echo,id=net0", "-device", NIC):
        assert not os.path.exists(place.path("nic0.sock"))
        assert place.verb("hmp", "info", "status").stdout == "VM status: paused (prelaunch)\n"
        assert place.verb("link", "set", "nic0", "down").returncode == 0
        assert place.verb("hmp", "cont").returncode == 0
        with guest_on(place.path("nic0.sock")) as guest:
            assert not guest.sees_up()
        assert place.verb("hmp", "info", "status").stdout == "VM status: running\n"


def test_cont_says_which_socket_it_cannot_open(place: Place) -> None:
    with place.run("-S", "-device", "virtio-net,id=n1,attach.type=vhost-user,attach.path=no/n1.sock"):
        result = place.verb("hmp", "cont")
        assert result.returncode == 1
        assert result.stderr == "Error: n1: Failed to bind socket to no/n1.sock: No such file or directory\n"


def test_daemonize_returns_when_it_runs(place: Place) -> None:
    del place.environment["VNIC_LOG"]
    result = place.command("run", "-daemonize", "-pidfile", "pid", "-netdev", "echo,id=net0", "-device", NIC)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = int((place.folder / "pid").read_text())
    try:
        assert place.verb("link").returncode == 0
        assert os.getsid(pid) != os.getsid(0)
        assert place.verb("link", "set", "nic0", "down").returncode == 0
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: place.files() == ["vnic.log"])
    (log,) = place.folder.rglob("vnic.log")
    assert re.search(
        r"T[0-9:.]+ vnic: nic0: link down, operator: set_link nic0 off \(by QMP client .*\] of ",
        log.read_text(),
    )


def test_a_log_file_is_told_of_link_changes(place: Place) -> None:
    del place.environment["VNIC_LOG"]
    with place.run("-D", "log", "-netdev", "echo,id=net0", "-device", NIC):
        assert place.verb("link", "set", "nic0", "down").returncode == 0
    text = (place.folder / "log").read_text()
    assert re.search(
        r" vnic: nic0: link down, operator: set_link nic0 off \(by QMP client \S+\[\d+\] of .+\)\n", text
    )


def test_a_log_file_has_to_be_a_plain_one(place: Place) -> None:
    os.mkfifo(place.folder / "fifo")
    for option in ("-D", "-pidfile"):
        result = place.command("run", option, "fifo")
        assert result.returncode == 1
        assert "it is a FIFO, and has to be a plain file\n" in result.stderr


def test_daemonize_tells_of_a_failed_start(place: Place) -> None:
    result = place.command("run", "-daemonize", "-device", "nonsense")
    assert result.returncode == 1
    assert result.stderr == "vnic: -device nonsense: 'nonsense' is not a valid device model name\n"


@pytest.mark.parametrize("option", ["-monitor stdio", "-qmp stdio", "-chardev stdio,id=c0"])
def test_daemonize_refuses_stdio(place: Place, option: str) -> None:
    result = place.command("run", "-daemonize", *option.split())
    assert result.returncode == 1
    assert result.stderr == f"vnic: {option}: cannot use stdio with -daemonize\n"


# -- starts that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["-netdev", "stream,id=a"], "-netdev stream,id=a: Parameter 'addr' is missing"),
        (["-netdev", "echo,id=1"], "-netdev echo,id=1: Parameter 'id' expects an identifier. Identifiers consist"),
        (["-netdev", "echo,id=a", "-netdev", "echo,id=a"], "-netdev echo,id=a: Duplicate ID 'a'"),
        (["-netdev", "none,id=a"], "-netdev none,id=a: network backend 'none' is not compiled into this binary"),
        (["-device", "bogus"], "-device bogus: 'bogus' is not a valid device model name"),
        (
            ["-device", "usb-net"],
            "-device usb-net: 'usb-net' is not built into vnic; there are virtio-net, virtio-net-pci, e1000,",
        ),
        (["-device", '{"driver":"virtio-net","mq":3}'], None),
        (["-qmp", "unix:no/q,server=on"], "-qmp unix:no/q,server=on: Failed to bind socket to no/q: No such file"),
        (["-mon", "c9"], '-mon c9: chardev "c9" not found'),
        (["-name", "n" * 120], None),
    ],
)  # fmt: skip
def test_a_start_that_fails_says_why_in_one_line_and_leaves_nothing(
    place: Place, options: list[str], line: str | None
) -> None:
    result = place.command("run", "-netdev", STREAM, "-device", NIC, *options)
    assert result.returncode == 1
    assert result.stderr.startswith(f"vnic: {line}" if line else f"vnic: {options[0]} {options[1]}: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert place.files() == []


@pytest.mark.parametrize("options", [["-nonsense"], ["-netdev"], ["disk.img"]])
def test_wrong_usage_gives_2(place: Place, options: list[str]) -> None:
    result = place.verb("run", *options)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("file", "a plain file is there, which is left alone"),
        ("socket", "another program listens there already"),
    ],
)
def test_a_nic_socket_that_is_taken_is_refused(place: Place, made: str, why: str) -> None:
    path = place.folder / "nic0.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        if made == "file":
            path.write_text("precious")
        else:
            listening.bind(str(path))
            listening.listen()
        result = place.command("run", "-netdev", "echo,id=net0", "-device", NIC)
    assert result.returncode == 1
    assert result.stderr == f"vnic: -device {NIC}: Failed to bind socket to nic0.sock: {why}\n"
    assert path.exists(), "what was there stays"


def test_help_needs_nothing(place: Place) -> None:
    for words in (
        ["-h"],
        ["-netdev", "help"],
        ["-device", "help"],
        ["-device", "virtio-net,help"],
        ["-version"],
    ):
        result = place.verb("run", *words)
        assert result.returncode == 0
        assert result.stderr == ""
        assert result.stdout
