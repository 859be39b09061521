"""Descriptors are told apart by what they are, without a call into a file system."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnic.descriptors import (
    HARMLESS,
    Kind,
    kind_of,
    mount_of,
    name_of,
    seals_of,
)

F_SEAL_SHRINK = 2
F_ADD_SEALS = 1033


@pytest.fixture
def opened() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def test_kinds_are_told_apart(opened: list[int], tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    named = tmp_path / "fifo"
    os.mkfifo(named)
    expected = {
        os.eventfd(0): Kind.EVENTFD,
        ours.detach(): Kind.SOCKET,
        theirs.detach(): Kind.SOCKET,
        os.memfd_create("guest"): Kind.MEMORY,
        os.open(os.devnull, os.O_RDWR): Kind.FILE,
        os.open(tmp_path, os.O_RDONLY): Kind.FILE,
        os.open(named, os.O_RDWR): Kind.FILE,
        os.open("/proc/self/status", os.O_RDONLY): Kind.FILE,
    }
    expected |= dict.fromkeys(os.pipe(), Kind.PIPE)
    opened += expected
    assert {fd: kind_of(fd) for fd in expected} == expected


def test_files_of_the_kernel_are_not_harmless() -> None:
    with select.epoll() as poll:
        assert kind_of(poll.fileno()) is Kind.ANONYMOUS
    assert Kind.ANONYMOUS not in HARMLESS
    assert Kind.FILE not in HARMLESS


def test_a_path_may_be_called_anything(opened: list[int], tmp_path: Path) -> None:
    """A path begins with a slash, whatever its last part is."""
    for name in ("anon_inode:[eventfd]", "socket:[1]", "pipe:[1]"):
        fd = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        opened.append(fd)
        assert kind_of(fd) in (Kind.FILE, Kind.MEMORY)  # the latter where the folder is on a tmpfs
        assert name_of(fd).startswith("/")


def test_closed_descriptors() -> None:
    fd = os.eventfd(0)
    os.close(fd)
    assert kind_of(fd) is Kind.CLOSED
    assert name_of(fd) == ""
    assert mount_of(fd) is None


def test_seals_are_those_of_the_file(opened: list[int]) -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    opened.append(fd)
    assert seals_of(fd) == 0
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    assert seals_of(fd) == F_SEAL_SHRINK
    opened.append(os.eventfd(0))
    assert seals_of(opened[-1]) is None


def test_the_mount_of_a_file() -> None:
    with open("/proc/self/status") as file:
        mount = mount_of(file.fileno())
    assert mount is not None
    assert mount.kind == "proc"
    with tempfile.TemporaryFile() as temporary:
        kind = mount_of(temporary.fileno())
        assert kind is None or kind.device == os.minor(os.fstat(temporary.fileno()).st_dev)
