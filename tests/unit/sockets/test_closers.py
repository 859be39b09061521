"""Tests of Closers: a close that may block runs beside the loop, any other at once."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest
from tests.fakes.loops import few_descriptors, open_fds

from vnic.descriptors import Kind, Mount
from vnic.protocol.frames import FrameError
from vnic.sockets import closers as closers_module
from vnic.sockets import connection as fdsocket
from vnic.sockets import unblock
from vnic.sockets.closers import Closers

PATIENCE_S = 60.0


class Hanging:
    """os.close, where some descriptors block until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)
        self._close = os.close
        monkeypatch.setattr(os, "close", self)

    def __call__(self, fd: int) -> None:
        if threading.current_thread().name == "closer":
            self.entered.release()
            assert self.go.wait(PATIENCE_S)
        self._close(fd)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    hanging = Hanging(monkeypatch)
    yield hanging
    hanging.go.set()


def ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "closer":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def a_file() -> int:
    """A descriptor of a file that is not in memory, whatever TMPDIR is."""
    return os.open(os.devnull, os.O_RDWR)


def test_owner_is_busy_until_all_descriptors_are_closed(hanging: Hanging) -> None:
    before = open_fds()
    closers = Closers()
    for owner in ("nic0", "nic0", "nic1"):
        closers.close(a_file(), owner)
    for _ in range(3):
        assert hanging.entered.acquire(timeout=PATIENCE_S)
    assert closers.busy("nic0")
    assert closers.busy("nic1")
    assert not closers.busy("nic2")
    hanging.go.set()
    ended()
    assert not any(closers.busy(owner) for owner in ("nic0", "nic1"))
    assert open_fds() == before


def test_threads_are_bounded(hanging: Hanging) -> None:
    before = open_fds()
    closers = Closers(limit=2)
    for number in range(5):
        closers.close(a_file(), f"nic{number}")
    assert sum(thread.name == "closer" for thread in threading.enumerate()) == 2
    assert all(closers.busy(f"nic{number}") for number in range(5))
    hanging.go.set()
    ended()
    assert not any(closers.busy(f"nic{number}") for number in range(5))
    assert open_fds() == before


def test_descriptor_is_closed_later_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    closers = Closers()

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        closers.close(a_file(), "nic0")
    assert closers.busy("nic0")
    closers.close(a_file(), "nic1")
    ended()
    assert not closers.busy("nic0")
    assert open_fds() == before


def test_close_hands_over_descriptors_that_may_block(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not inspect the file: fstat may block too, or fail (a FUSE mount of another user: EACCES)."""

    def never(fd: int) -> None:
        raise PermissionError

    before = open_fds()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", never)
        unblock.close(a_file(), "nic0")
        assert hanging.entered.acquire(timeout=PATIENCE_S)
        assert closers_module.closers.busy("nic0")
        unblock.close(os.eventfd(0))
        unblock.close(os.memfd_create("guest"))
        unblock.close(socket.socket().detach())
    hanging.go.set()
    ended()
    assert open_fds() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        unblock.close(before + 1000)


def test_file_is_refused_before_use(hanging: Hanging) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_fds()
        fds = [os.eventfd(0), a_file()]
        socket.send_fds(theirs, [b"message"], fds)
        for fd in fds:
            os.close(fd)
        with pytest.raises(FrameError, match=r"a file was passed \(of \w+\), which no message carries"):
            fdsocket.receive(ours, 64, 8, "nic0")
        assert closers_module.closers.busy("nic0")
        hanging.go.set()
        ended()
        assert open_fds() == before


@pytest.mark.parametrize("room", [None, 0, 3])
def test_truncated_descriptors_are_closed(room: int | None) -> None:
    """MSG_CTRUNC: nine in one message where eight are allowed, or fewer than this process can open."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as sock:
        before = open_fds()
        socket.send_fds(theirs, [b"message"], [sock.fileno()] * (9 if room is None else 8))
        with (
            few_descriptors(room) if room is not None else contextlib.nullcontext(),
            pytest.raises(FrameError, match="cut off"),
        ):
            fdsocket.receive(ours, 64, 8, "nic0")
        assert open_fds() == before


def test_memory_and_eventfds_are_accepted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as sock:
        fds = [os.eventfd(0), os.memfd_create("guest"), *os.pipe(), os.dup(sock.fileno())]
        socket.send_fds(theirs, [b"message"], fds)
        data, passed = fdsocket.receive(ours, 64, 8)
        assert data == b"message"
        assert len(passed) == len(fds)
        for fd in (*fds, *passed):
            os.close(fd)


def test_error_says_how_to_end_a_blocked_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdsocket, "mount_of", lambda fd: Mount("fuse.sshfs", 53))
    with tempfile.TemporaryFile() as file:
        text = fdsocket._where(file.fileno(), Kind.FILE)
    assert "echo 1 > /sys/fs/fuse/connections/53/abort" in text
