"""The keeper's protocol: what is sent to it, what it passes, and that it cannot hold up this process for long."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.keeper import FakeKeeper

from vnic.state import notify
from vnic.state.notify import Notifier, NotifyError, take_environment


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    keeper = FakeKeeper()
    yield keeper
    keeper.close()


def test_messages_are_those_of_systemd(keeper: FakeKeeper) -> None:
    notifier = Notifier(keeper.address)
    notifier.ready()
    notifier.status("two\nlines")
    notifier.alive()
    notifier.main_pid(7)
    notifier.stopping()
    fd = os.eventfd(0)
    notifier.store("~1", fd)
    os.close(fd)
    keeper.read()
    assert keeper.names == ["~1"]
    notifier.remove("~1")
    keeper.read()
    assert keeper.names == []
    assert keeper.messages == [
        ["READY=1"],
        ["STATUS=two lines"],
        ["WATCHDOG=1"],
        ["MAINPID=7"],
        ["STOPPING=1"],
        ["FDSTORE=1", "FDNAME=~1", "FDPOLL=0"],
        ["FDSTOREREMOVE=1", "FDNAME=~1"],
    ]
    notifier.close()


def test_the_socket_may_have_a_path(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path / "notify"))
    notifier = Notifier(keeper.address)
    notifier.ready()
    keeper.read()
    assert keeper.messages == [["READY=1"]]
    notifier.close()
    keeper.close()


def fill(keeper: FakeKeeper) -> None:
    """Send what the keeper's socket has room for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect("\0" + keeper.address[1:])
        while True:
            try:
                sock.send(b"STATUS=x")
            except BlockingIOError:
                return


def test_a_keeper_that_does_not_read_is_waited_for_only_so_long(
    keeper: FakeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 0.2)
    notifier = Notifier(keeper.address)
    fill(keeper)
    begun = time.monotonic()
    with pytest.raises(NotifyError, match=r"read nothing for 0\.2 s"):
        notifier.ready()
    assert 0.2 <= time.monotonic() - begun < 5
    keeper.read()
    notifier.alive()
    notifier.close()


def test_a_keeper_that_is_gone_is_an_error(tmp_path: Path) -> None:
    keeper = FakeKeeper(str(tmp_path / "notify"))
    notifier = Notifier(keeper.address)
    notifier.ready()
    keeper.close()
    for _ in range(2):
        with pytest.raises(NotifyError, match="refused"):
            notifier.ready()
    os.unlink(tmp_path / "notify")
    with pytest.raises(NotifyError, match="No such file"):
        notifier.ready()


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environ = {
        "NOTIFY_SOCKET": "@vnic",
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "FDSTORE": "512",
        "LISTEN_PID": "1",
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "a:b:c",
        "PATH": "/bin",
    }
    started = take_environment(environ)
    assert environ == {"PATH": "/bin"}
    assert started.notifier is not None
    assert started.files == []  # of another process
    assert started.watchdog_us == 3_000_000
    assert started.store_max == 512


@pytest.mark.parametrize("value", ["", "relative", "vsock:2:1", "/"])
def test_other_addresses_are_no_keeper(value: str) -> None:
    assert take_environment({"NOTIFY_SOCKET": value}).notifier is None


@pytest.mark.parametrize("value", ["", "0", "-1", "x", "9" * 40, "\u0663"])
def test_an_invalid_watchdog_is_none(value: str) -> None:
    assert take_environment({"WATCHDOG_USEC": value}).watchdog_us is None
    assert take_environment({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}).watchdog_us is None


CHILD = """
import fcntl, os, socket
from vnic.state.notify import take_environment
os.environ["LISTEN_PID"] = str(os.getpid())
started = take_environment()
for name, fd in started.files:
    closed = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    print(name, fd, closed, os.read(fd, 9).decode())
print([name for name in os.environ if name.startswith("LISTEN")])
"""


def test_passed_descriptors_are_taken_in_order_and_not_passed_on() -> None:
    pipes = [os.pipe() for _ in range(3)]
    for at, (_, write) in enumerate(pipes):
        os.write(write, b"%d" % at)

    def place() -> None:
        for at, (read, _) in enumerate(pipes):
            os.dup2(read, 100 + at)
        for at in range(3):
            os.dup2(100 + at, 3 + at)

    environ = {**os.environ, "LISTEN_FDS": "4", "LISTEN_FDNAMES": "~1:vnic-state"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=environ,
        preexec_fn=place,
        close_fds=False,
        capture_output=True,
        text=True,
        check=False,
    )
    for read, write in pipes:
        os.close(read)
        os.close(write)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["~1 3 1 0", "vnic-state 4 1 1", "unknown 5 1 2"], done.stderr
    assert lines[-1] == "[]"


def test_a_message_carries_as_many_descriptors_as_the_kernel_allows(keeper: FakeKeeper) -> None:
    """SCM_MAX_FD: 253."""
    notifier = Notifier(keeper.address)
    fds = [os.eventfd(0) for _ in range(253)]
    notifier.send("FDSTORE=1", "FDNAME=many", "FDPOLL=0", fds=fds)
    keeper.read()
    assert keeper.names == ["many"] * 253
    for fd in fds:
        os.close(fd)
    notifier.close()


def test_numbers_that_are_no_descriptors_are_passed_over() -> None:
    environ = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "1",
        "VNIC_LISTEN_FDS_START": "9" * 18,
        "VNIC_LISTEN_FDNAMES_FD": "9" * 18,
    }
    assert take_environment(environ).files == []
