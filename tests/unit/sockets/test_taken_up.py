"""A listening socket that another process of ours takes up: it goes on at the same path, under the same lock."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vnic.descriptors import close_fds
from vnic.record import RecordError, decode, encode
from vnic.sockets import lock
from vnic.sockets.listener import Listening, ListeningHandles, ListeningRecord, listen_at
from vnic.sockets.lock import PathError, PathLock
from vnic.sockets.resolve import AddressError


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test shares lock files with another."""
    monkeypatch.setattr(lock, "_newest", {})
    monkeypatch.setattr(lock, "_inherited", {})


def killed(listening: Listening) -> tuple[ListeningRecord, ListeningHandles]:
    """Its record, and what a keeper has of it; the socket is closed, and the path stays."""
    record = decode(ListeningRecord, encode(listening.save()))
    sock, lock_fd = listening.handles
    assert lock_fd is not None
    handles = ListeningHandles(os.dup(sock), os.dup(lock_fd))
    listening.socket.close()
    return record, handles


def next_process() -> None:
    lock._newest.clear()


def test_clients_of_the_backlog_are_accepted(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    before = listen_at(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.send(b"early")
        record, handles = killed(before)
        next_process()

        after = Listening.taken_up(record, handles)

        accepted, _ = after.socket.accept()
        with accepted:
            assert accepted.recv(10) == b"early"
    after.close()
    assert not os.path.exists(path)
    assert not os.path.exists(path + lock.SUFFIX)


def test_path_stays_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    record, handles = killed(listen_at(path))
    next_process()
    after = Listening.taken_up(record, handles)

    with pytest.raises(PathError, match="this vnic listens there already"):
        PathLock(path)
    after.close()
    PathLock(path).release()


def test_paths_share_the_lock_file_as_before(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    saved = [killed(listen_at(path)) for path in paths]
    next_process()
    open_before = len(os.listdir("/proc/self/fd"))
    after = [Listening.taken_up(*each) for each in saved]

    assert len(os.listdir("/proc/self/fd")) == open_before - 2  # of three locks one is left
    new = listen_at(str(tmp_path / "d"))
    assert new.handles.lock == after[0].handles.lock
    for each in [*after, new]:
        each.close()
    assert not list(tmp_path.iterdir())


def test_path_that_another_program_took_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record, handles = killed(listen_at(str(path)))
    next_process()
    path.unlink()
    path.write_text("theirs")

    Listening.taken_up(record, handles).close()

    assert path.read_text() == "theirs"


def test_descriptor_that_does_not_listen_is_refused_and_stays_the_callers(tmp_path: Path) -> None:
    record, handles = killed(listen_at(str(tmp_path / "a")))
    pipe, other = os.pipe()
    with socket.socket(socket.AF_UNIX) as idle:
        for fd in (pipe, idle.fileno()):
            with pytest.raises(RecordError, match=r"^path: "):
                Listening.taken_up(record, handles._replace(socket=fd))
            os.fstat(fd)
    os.fstat(handles.socket)
    close_fds([pipe, other, *filter(None, handles)])


def test_lock_that_another_process_has_is_refused(tmp_path: Path) -> None:
    record, handles = killed(listen_at(str(tmp_path / "a")))
    next_process()
    assert handles.lock is not None
    stranger = os.open(
        str(tmp_path / "a") + lock.SUFFIX, os.O_RDWR
    )  # its own file: it does not have the lock
    with pytest.raises(RecordError, match=r"^path: "):
        Listening.taken_up(record, handles._replace(lock=stranger))
    close_fds([stranger, handles.socket, handles.lock])


def test_path_whose_socket_is_not_taken_up_can_be_listened_on_anew(tmp_path: Path) -> None:
    """Another path was taken up before, so that the lock file, which both are links to, is here."""
    first, second = (str(tmp_path / name) for name in "ab")
    saved = [killed(listen_at(path)) for path in (first, second)]
    next_process()
    after = Listening.taken_up(*saved[0])

    anew = listen_at(second)
    with pytest.raises(AddressError, match="this vnic listens there already"):
        listen_at(second)

    for each in (after, anew):
        each.close()
    assert not list(tmp_path.iterdir())
    close_fds(filter(None, saved[1][1]))
