"""A unit whose record is damaged starts anew beside the others: nothing holds what the lost record had."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.keeper import FakeKeeper

from vnic.keep import NO_HANDLES, NoHandles
from vnic.record import Record, RecordError
from vnic.state.let_go import let_go


class NumberRecord(Record, frozen=True):
    number: int


class Fds(NamedTuple):
    listener: socket.socket
    process: int


class Unit:
    def __init__(self, number: int, handles: object = NO_HANDLES) -> None:
        self.number = number
        self.handles = handles

    def save_kept(self) -> tuple[Record, object]:
        return NumberRecord(number=self.number), self.handles


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    keeper = FakeKeeper()
    yield keeper
    keeper.close()


def damage(keeper: FakeKeeper, text: bytes) -> None:
    """Change one byte of the store behind the first place of a text."""
    fd = dict(keeper.files)["vnic-state"]
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    at = content.index(text)
    os.pwrite(fd, b"?", at)


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def is_free(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) != 0


def store_two(keeper: FakeKeeper, path: Path) -> int:
    """The process before: unit `a` listens at a path and has a child, `b` has neither. The child's pidfd."""
    child = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
    process = os.pidfd_open(child)
    keep = keeper.start()
    with listening(path) as sock:
        keep.unit("a", Unit(4711, Fds(sock, process)))
        keep.unit("b", Unit(1))
        keep.settle()
    return process


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def reap(pidfd: int) -> None:
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)


def test_what_a_damaged_record_had_is_let_go_before_anything_starts(
    keeper: FakeKeeper, tmp_path: Path
) -> None:
    process = store_two(keeper, tmp_path / "a")
    damage(keeper, b"4711")
    keep = keeper.start()
    assert keep.keys() == ["b"]
    assert keeper.names == ["vnic-state"]
    assert is_free(tmp_path / "a")
    assert has_ended(process)
    found = keep.inherited("b", NumberRecord, NoHandles)
    assert found is not None
    assert found[0].number == 1
    reap(process)


def test_a_store_that_cannot_be_used_leaves_nothing_either(keeper: FakeKeeper, tmp_path: Path) -> None:
    process = store_two(keeper, tmp_path / "a")
    os.pwrite(dict(keeper.files)["vnic-state"], b"?" * 8, 0)
    keep = keeper.start()
    assert keep.active
    assert keep.keys() == []
    assert is_free(tmp_path / "a")
    assert has_ended(process)
    reap(process)


def test_the_process_of_a_refused_record_is_ended(keeper: FakeKeeper, tmp_path: Path) -> None:
    process = store_two(keeper, tmp_path / "a")
    keep = keeper.start()
    keep.refused("a", RecordError("number", "is odd"))
    assert is_free(tmp_path / "a")
    assert has_ended(process)
    reap(process)


def test_what_a_sound_record_has_stays(keeper: FakeKeeper, tmp_path: Path) -> None:
    process = store_two(keeper, tmp_path / "a")
    keep = keeper.start()
    found = keep.inherited("a", NumberRecord, Fds)
    assert found is not None
    keep.settle()
    assert not is_free(tmp_path / "a")
    assert not has_ended(process)
    found[1].listener.close()
    os.close(found[1].process)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    reap(process)


def test_a_file_that_came_before_its_record_is_let_go(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    keep.settle()
    fd = os.eventfd(0)
    keeper.client.store("~z", fd)
    os.close(fd)
    keeper.read()
    keeper.restart(keep)
    assert keeper.names == ["vnic-state"]


def test_other_descriptors_are_only_closed() -> None:
    fds = [os.eventfd(0), os.memfd_create("m")]
    let_go(fds)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_a_process_that_a_sound_record_has_too_goes_on(keeper: FakeKeeper, tmp_path: Path) -> None:
    process = os.pidfd_open(os.posix_spawnp("sleep", ["sleep", "1000"], os.environ))
    before = keeper.start()
    with listening(tmp_path / "a") as sock:
        for key in ("a", "b"):
            before.unit(key, Unit(1, Fds(sock, process)))
        before.settle()
    keep = keeper.restart(before)
    found = keep.inherited("b", NumberRecord, Fds)
    assert found is not None
    keep.refused("a", RecordError("number", "is odd"))
    keep.settle()
    assert not is_free(tmp_path / "a")
    assert not has_ended(process)
    found[1].listener.close()
    os.close(found[1].process)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    reap(process)
