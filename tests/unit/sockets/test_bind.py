"""Tests of bind_path: which files may be at a path, and how it detects a running vnic without a connection."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.loops import no_fd_leak, open_fds

from vnic.net.errors import NetError
from vnic.sockets import bind, diag, lock
from vnic.sockets.bind import BoundPath, bind_path, socket_mode
from vnic.sockets.lock import PathError, PathLock

SOURCE = Path(__file__).parents[3] / "src"

HOLDER = """
import socket, sys, time
from vnic.sockets.bind import bind_path
sock = socket.socket(socket.AF_UNIX)
bound = bind_path(sock, sys.argv[1])
sock.listen()
print("bound", flush=True)
time.sleep(600)
"""
"""Stands in for another vnic that has locked a path."""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use relative paths: TMPDIR may be too long for a socket's."""
    monkeypatch.chdir(tmp_path)
    with no_fd_leak():
        yield


@pytest.fixture(params=["unix_diag", "proc"])
def _each_way_to_ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Iterator[diag._Bound]:
        raise FileNotFoundError

    if request.param == "proc":
        monkeypatch.setattr(diag, "_bound", absent)


def bound(path: str, mode: int = bind.PRIVATE) -> BoundPath:
    """Bind to `path` and close the socket, so that the path and its lock remain."""
    with socket.socket(socket.AF_UNIX) as sock:
        return bind_path(sock, path, mode=mode)


def stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def test_socket_and_lock_are_removed() -> None:
    path = bound("s")
    assert sorted(os.listdir()) == ["s", "s.lock"]
    path.remove()
    assert os.listdir() == []
    path.remove()


def test_socket_mode_ignores_umask() -> None:
    before = os.umask(0o077)
    try:
        for mode in (0o600, 0o660, 0o666):
            path = bound("s", mode)
            assert stat.S_IMODE(os.lstat("s").st_mode) == mode
            path.remove()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


@pytest.mark.usefixtures("_each_way_to_ask")
def test_stale_socket_is_replaced() -> None:
    stale("s")
    before = os.lstat("s").st_ino, os.lstat("s").st_ctime_ns
    path = bound("s")
    assert (os.lstat("s").st_ino, os.lstat("s").st_ctime_ns) != before
    path.remove()


@pytest.mark.usefixtures("_each_way_to_ask")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_socket_in_use_is_detected_without_connecting(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind("s")
        if kind is socket.SOCK_STREAM:
            other.listen()
        with pytest.raises(PathError, match="another program listens there already"):
            bound("s")
        assert select.select([other], [], [], 0) == ([], [], [])
    assert sorted(os.listdir()) == ["s"]


def test_accepted_connection_does_not_keep_path() -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind("s")
        other.listen()
        client.connect("s")
        accepted = other.accept()[0]
    with accepted:
        bound("s").remove()


def test_same_relative_name_in_other_folder_is_ignored() -> None:
    os.mkdir("elsewhere")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("elsewhere/s")
        other.listen()
        stale("s")
        bound("s").remove()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Path("s").write_text("precious"), "a plain file"),
        (lambda: os.mkdir("s"), "a folder"),
        (lambda: os.symlink("nowhere", "s"), "a symbolic link"),
        (lambda: os.symlink("s.lock", "s"), "a symbolic link"),
        (lambda: os.mkfifo("s"), "a named pipe"),
    ],
)
def test_other_file_is_left_alone(make: object, word: str) -> None:
    assert callable(make)
    make()
    before = os.lstat("s")
    with pytest.raises(PathError, match=f"{word} is there, which is left alone"):
        bound("s")
    assert os.lstat("s") == before
    assert os.listdir() == ["s"]


def test_socket_of_another_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stale("s")
    owner = os.lstat("s").st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PathError, match=f"a socket of user {owner} is there, which is left alone"):
        bound("s")
    assert os.listdir() == ["s"]


def test_replaced_socket_is_not_removed() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        path = bind_path(sock, "s")
        os.unlink("s")
        Path("s").write_text("precious")
        path.remove()
    assert os.listdir() == ["s"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing/s", "No such file or directory"),
        ("file/s", "Not a directory"),
        ("s" * 300, "File name too long"),
    ],
)
def test_unusable_folder_is_refused(path: str, why: str) -> None:
    Path("file").touch()
    with pytest.raises(PathError, match=why):
        bound(path)


# -- locks ------------------------------------------------------------------------------------------------------------


def test_path_is_used_once_per_process() -> None:
    path = bound("s")
    with pytest.raises(PathError, match="this vnic listens there already"):
        bound("s")
    path.remove()
    bound("s").remove()


def test_path_of_running_vnic_is_refused_until_it_is_killed() -> None:
    """The check makes no connection, and the killed vnic's lock file has no effect."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "s"], env=environment, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"bound\n"
            with pytest.raises(
                PathError, match=rf"another vnic \(process {holder.pid}\) listens there already"
            ):
                bound("s")
            os.unlink("s")  # holds after its socket was removed, too
            with pytest.raises(PathError, match="another vnic"):
                bound("s")
        finally:
            holder.send_signal(signal.SIGKILL)
    assert os.listdir() == ["s.lock"]
    bound("s").remove()
    assert os.listdir() == []


@pytest.mark.parametrize(
    "make",
    [lambda: os.mkfifo("s.lock"), lambda: os.mkdir("s.lock"), lambda: os.symlink("precious", "s.lock")],
)
def test_file_that_is_no_lock_is_left_alone(make: object) -> None:
    assert callable(make)
    make()
    before = os.lstat("s.lock")
    with pytest.raises(PathError, match=r"s\.lock"):
        bound("s")
    assert os.lstat("s.lock") == before
    assert os.listdir() == ["s.lock"]


def test_replaced_lock_file_is_locked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder exited and removed the file between our open and our flock."""
    real = fcntl.flock
    calls = []

    def flock(fd: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            os.unlink("s.lock")
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    held = PathLock("s")
    assert os.path.exists("s.lock")
    assert len(calls) == 2
    held.release()


def test_lock_of_killed_holder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread is a zombie while another thread blocks in the kernel with the table of descriptors."""
    with socket.socket(socket.AF_UNIX) as sock:
        first = bind_path(sock, "s")
        sock.listen()
        fields = lock._stat_fields(os.getpid())
        with monkeypatch.context() as patch:
            patch.setattr(lock, "_newest", {})  # as in another process
            patch.setattr(lock, "_stat_fields", lambda pid: ["Z", *fields[1:]])
            second = bound("s")
        first.remove()
        assert sorted(os.listdir()) == ["s", "s.lock"]
        second.remove()
    assert os.listdir() == []


def test_reused_pid_is_not_the_holder() -> None:
    assert not lock._is_dead(f"{os.getpid()} 0\n")
    assert not lock._is_dead("")
    assert lock._name("") == "another vnic"


def test_paths_of_a_process_take_one_descriptor() -> None:
    before = open_fds()
    paths = [bound(f"s{number}") for number in range(20)]
    assert open_fds() == before + 1
    for path in paths[:19]:
        path.remove()
        bound(path.path).remove()
    with pytest.raises(PathError, match="this vnic listens there already"):
        bound("s19")
    paths[19].remove()
    assert open_fds() == before
    bound("s19").remove()
    assert os.listdir() == []


def test_paths_are_locked_where_no_more_links_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, path: str, *, src_dir_fd: int) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", link)
    first, second = bound("a"), bound("b")
    assert os.lstat("a.lock").st_ino != os.lstat("b.lock").st_ino
    for path in (first, second):
        path.remove()
    assert os.listdir() == []


def test_two_vnics_may_share_the_paths_of_a_killed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock files of the killed one are links to one file, which does not become that of either."""
    killed = PathLock("a"), PathLock("b")
    assert os.lstat("a.lock").st_nlink == 2
    monkeypatch.setattr(lock, "_newest", {})
    os.link("a.lock", "a.kept")
    os.link("b.lock", "b.kept")
    for each in killed:
        each.release()
    os.rename("a.kept", "a.lock")
    os.rename("b.kept", "b.lock")
    mine = bound("a")
    monkeypatch.setattr(lock, "_newest", {})  # as in another process
    others = bound("b")
    for path in (mine, others):
        path.remove()
    assert os.listdir() == []


@pytest.fixture
def _replaced_lock() -> Iterator[None]:
    """Another vnic holds the lock of a killed one, which it replaces."""
    Path("s.lock").write_text(f"{os.getpid()} 0\n")  # the number is in use again: the start time is another
    with open("s.lock", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("_replaced_lock")
def test_lock_that_is_being_replaced_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_yield", lambda: os.unlink("s.lock"))
    bound("s").remove()


@pytest.mark.usefixtures("_replaced_lock")
def test_lock_of_holder_in_another_pid_namespace_is_refused() -> None:
    with pytest.raises(PathError, match="listens there already"):
        bound("s")


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "mode"), [(None, 0o600), ("660", 0o660), ("0666", 0o666)])
def test_mode_is_octal(text: str | None, mode: int) -> None:
    assert socket_mode(text) == mode


@pytest.mark.parametrize("text", ["", "rw", "0o660", "6600", "-660", "888", "66"])
def test_invalid_mode_is_refused(text: str) -> None:
    with pytest.raises(NetError, match="expects permissions in octal"):
        socket_mode(text)
