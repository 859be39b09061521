"""FdTable: each open file has one name in the keeper, as long as some record names it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.needs import need

from vnic import open_files
from vnic.open_files import identity_of, same_file
from vnic.state.fdtable import FdTable, name_for, number_of

TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI = 0x0002, 0x0100, 0x1000


class Stored:
    """The keeper: what it has, by name."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}

    def store(self, name: str, fd: int) -> None:
        assert name not in self.files
        assert not any(same_file(fd, other) for other in self.files.values())
        self.files[name] = os.dup(fd)

    def remove(self, name: str) -> None:
        os.close(self.files.pop(name))


@pytest.fixture
def stored() -> Iterator[Stored]:
    stored = Stored()
    yield stored
    for fd in stored.files.values():
        os.close(fd)


@pytest.fixture
def table(stored: Stored) -> Iterator[FdTable]:
    table = FdTable(stored, count().__next__)
    yield table
    table.clear()


@pytest.fixture
def opened() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def every_kind(tmp_path: Path) -> list[int]:
    """Two different files of each kind that looks alike."""
    fds: list[int] = []
    for at in range(2):
        fds += [os.eventfd(0), os.memfd_create("same"), os.open("/dev/null", os.O_RDONLY)]
        fds += os.pipe()
        fds += [sock.detach() for sock in socket.socketpair()]
        fds.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())
        (tmp_path / f"{at}").touch()
        fds.append(os.open(tmp_path / f"{at}", os.O_RDWR))
        fds.append(os.open(tmp_path / "0", os.O_RDWR))  # one file, opened more than once: locks differ
    fds += [os.pidfd_open(os.getpid()), os.pidfd_open(os.getppid())]
    return fds


def test_different_files_have_different_names(table: FdTable, opened: list[int], tmp_path: Path) -> None:
    opened += every_kind(tmp_path)
    names = [table.name(fd) for fd in opened]
    assert len(set(names)) == len(opened)


def test_a_file_has_one_name_whichever_descriptor_is_asked_for(
    table: FdTable, stored: Stored, opened: list[int], tmp_path: Path
) -> None:
    opened += every_kind(tmp_path)
    names = [table.name(fd) for fd in opened]
    opened += [os.dup(fd) for fd in opened]
    assert [table.name(fd) for fd in opened] == names * 2
    assert len(stored.files) == len(names)


def test_the_queues_of_a_tap_are_different_files(table: FdTable, opened: list[int]) -> None:
    """Nothing that /proc says tells them apart."""
    need("tun", "namespaces")
    for _ in range(3):
        opened.append(os.open("/dev/net/tun", os.O_RDWR))
        request = struct.pack("16sH22x", b"vnicfd0", IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI)
        fcntl.ioctl(opened[-1], TUNSETIFF, request)
    names = [table.name(fd) for fd in opened]
    assert len(set(names)) == 3
    again = [os.dup(fd) for fd in opened]
    opened += again
    assert [table.name(fd) for fd in again] == names


def test_what_the_kernel_cannot_compare_is_stored_twice(
    monkeypatch: pytest.MonkeyPatch, opened: list[int], stored: Stored
) -> None:
    """As systemd does it: never is one of two files lost."""
    monkeypatch.setattr(open_files, "_F_DUPFD_QUERY", -1)
    monkeypatch.setattr(open_files, "_KCMP_NUMBERS", {})
    monkeypatch.setattr(stored, "store", lambda name, fd: stored.files.__setitem__(name, os.dup(fd)))
    table = FdTable(stored, count().__next__)
    opened.append(os.open("/dev/null", os.O_RDONLY))
    opened.append(os.dup(opened[0]))
    assert table.name(opened[0]) != table.name(opened[1])
    table.clear()


def test_older_kernels_compare_by_kcmp(monkeypatch: pytest.MonkeyPatch, opened: list[int]) -> None:
    monkeypatch.setattr(open_files, "_F_DUPFD_QUERY", -1)
    opened.append(os.open("/dev/null", os.O_RDONLY))
    opened.append(os.dup(opened[0]))
    opened.append(os.open("/dev/null", os.O_RDONLY))
    if not same_file(opened[0], opened[0]):
        pytest.skip("kcmp is not allowed here")
    assert same_file(opened[0], opened[1])
    assert not same_file(opened[0], opened[2])


def test_a_file_is_removed_with_its_last_user(table: FdTable, stored: Stored, opened: list[int]) -> None:
    opened.append(os.eventfd(0))
    name = table.name(opened[0])
    table.use([name])
    table.use([name])
    table.release([name])
    assert list(stored.files) == [name]
    table.release([name])
    assert not stored.files
    assert table.name(opened[0]) != name  # a name is never used again


def test_a_number_that_is_used_again_for_a_descriptor_is_another_file(
    table: FdTable, opened: list[int]
) -> None:
    fd = os.eventfd(0)
    first = table.name(fd)
    os.close(fd)
    opened.append(os.eventfd(0))
    assert opened[0] == fd
    assert table.name(fd) != first


def test_adopted_files_stay_until_the_sweep(table: FdTable, stored: Stored, opened: list[int]) -> None:
    for name in ("~a", "~b"):
        opened.append(os.eventfd(0))
        stored.store(name, opened[-1])
        table.adopt(name, opened[-1])
    assert table.name(opened[0]) == "~a"
    table.use(["~a"])
    table.sweep()
    assert list(stored.files) == ["~a"]


def test_a_closed_descriptor_is_an_error(table: FdTable) -> None:
    fd = os.eventfd(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        table.name(fd)


def test_names_are_short_and_their_own() -> None:
    for number in (0, 1, 35, 36, 12345, 36**6):
        name = name_for(number)
        assert number_of(name) == number
        assert len(name) <= 8
    for other in ("", "~", "vnic-state", "a", "~A", "~-1", "~a.b", "~" + "z" * 13, "stored"):
        assert number_of(other) is None


def test_processes_that_have_ended_are_different_files(table: FdTable, opened: list[int]) -> None:
    """The number of one may be that of another by then."""
    for _ in range(2):
        child = os.posix_spawnp("true", ["true"], os.environ)
        opened.append(os.pidfd_open(child))
        os.waitpid(child, 0)
    names = [table.name(fd) for fd in opened]
    assert len(set(names)) == 2
    assert not any(identity_of(fd).certain for fd in opened)
