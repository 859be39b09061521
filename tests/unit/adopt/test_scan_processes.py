"""The scan of /proc, in a folder of the test's that looks like it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vnic.adopt.scan.processes import Qemu, qemus

HEADER = "Num       RefCount Protocol Flags    Type St Inode Path\n"


class FakeProc:
    """Processes, and one table of sockets that all of them have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table = HEADER
        self._open = ExitStack()
        (folder / "self").symlink_to("1")

    def listen(self, path: Path, inode: int = 1) -> None:
        sock = self._open.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(os.fspath(path))
        sock.listen()
        self._table += f"0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}\n"

    def connected(self, path: Path) -> None:
        self._table += f"0000000000000000: 00000003 00000000 00000000 0001 03 77 {path}\n"

    def add(self, pid: int, *words: str, fds: dict[int, str] | None = None, cwd: str = "/") -> None:
        process = self.folder / str(pid)
        (process / "net").mkdir(parents=True)
        (process / "net" / "unix").write_text(self._table)
        (process / "cmdline").write_text("\0".join(words) + "\0")
        (process / "root").symlink_to("/")
        (process / "cwd").symlink_to(cwd)
        (process / "fd").mkdir()
        for fd, text in (fds or {}).items():
            (process / "fd" / str(fd)).symlink_to(text)

    def only(self) -> Qemu:
        (found,) = qemus(self.folder)
        return found

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[FakeProc]:
    folder = tmp_path / "proc"
    folder.mkdir()
    fake = FakeProc(folder)
    yield fake
    fake.close()


def test_other_processes_are_no_vms(proc: FakeProc) -> None:
    proc.add(1, "/sbin/init")
    proc.add(2)
    assert list(qemus(proc.folder)) == []


def test_a_qmp_socket_is_found(proc: FakeProc, tmp_path: Path) -> None:
    proc.listen(tmp_path / "q")
    proc.add(7, "qemu-kvm", "-name", "web", "-qmp", f"unix:{tmp_path}/q,server=on")
    found = proc.only()
    assert (found.pid, found.name, found.qmp, found.problem) == (7, "web", f"{tmp_path}/q", None)


def test_a_relative_path_is_that_of_the_process(proc: FakeProc, tmp_path: Path) -> None:
    proc.listen(tmp_path / "q")
    proc.add(7, "qemu-kvm", "-qmp", "unix:q,server=on", cwd=str(tmp_path))
    assert proc.only().qmp == f"{tmp_path}/q"


def test_a_socket_by_descriptor_is_found_by_its_inode(proc: FakeProc, tmp_path: Path) -> None:
    proc.listen(tmp_path / "q", inode=4711)
    words = ("-chardev", "socket,id=m,fd=9,server=on", "-mon", "m,mode=control")
    proc.add(7, "qemu-kvm", *words, fds={9: "socket:[4711]"})
    assert proc.only().qmp == f"{tmp_path}/q"


def test_a_socket_in_a_container_is_reached_through_its_process(proc: FakeProc, tmp_path: Path) -> None:
    inside = tmp_path / "container"
    (inside / "only-there").mkdir(parents=True)
    proc.listen(inside / "only-there" / "q")
    proc.add(7, "qemu-kvm", "-qmp", "unix:/only-there/q,server=on")
    (proc.folder / "7" / "root").unlink()
    (proc.folder / "7" / "root").symlink_to(inside)
    assert proc.only().qmp == f"{proc.folder}/7/root/only-there/q"


def test_a_socket_with_a_client_is_a_problem(proc: FakeProc, tmp_path: Path) -> None:
    proc.listen(tmp_path / "q")
    proc.connected(tmp_path / "q")
    proc.add(7, "qemu-kvm", "-qmp", f"unix:{tmp_path}/q,server=on")
    assert "has a client already" in (proc.only().problem or "")


def test_a_free_socket_is_preferred(proc: FakeProc, tmp_path: Path) -> None:
    for name in ("busy", "free"):
        proc.listen(tmp_path / name)
    proc.connected(tmp_path / "busy")
    words = [word for name in ("busy", "free") for word in ("-qmp", f"unix:{tmp_path}/{name},server=on")]
    proc.add(7, "qemu-kvm", *words)
    assert (proc.only().qmp, proc.only().problem) == (f"{tmp_path}/free", None)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "no QMP socket"),
        (("-qmp", "tcp:127.0.0.1:4444,server=on"), "TCP port 127.0.0.1:4444"),
        (("-chardev", "socket,id=m,fd=9,server=on", "-mon", "m,mode=control"), "only be seen by its user"),
    ],
)
def test_a_qemu_without_a_usable_socket_says_why(proc: FakeProc, words: tuple[str, ...], text: str) -> None:
    proc.add(7, "qemu-kvm", *words)
    assert proc.only().qmp is None
    assert text in (proc.only().problem or "")


def test_a_process_that_ends_meanwhile_is_left_out(proc: FakeProc) -> None:
    proc.add(7, "qemu-kvm")
    (proc.folder / "7" / "cmdline").unlink()
    assert list(qemus(proc.folder)) == []
