"""The QEMU processes of this host, by /proc: which sockets each listens on, and whether they can be used.

`find` calls `qemus` here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vnic.adopt.scan.command_line import Chardev, CommandLine, is_qemu, read

PROC = Path("/proc")

_LISTENS = 0x10000
"""__SO_ACCEPTCON in the flags of /proc/net/unix."""
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class UnixSockets(msgspec.Struct, frozen=True):
    """The sockets of a network namespace that have a path."""

    listening: dict[int, str]
    """By inode."""
    connections: dict[str, int]
    """By the path at which they were accepted, how many there are."""


class Qemu(msgspec.Struct, frozen=True, kw_only=True):
    """A QEMU that runs."""

    pid: int
    name: str | None
    uuid: str | None
    qmp: str | None
    """The path of a QMP socket, as this process reaches it."""
    qga: str | None
    by_libvirt: bool
    problem: str | None
    """Why its QMP socket cannot be used."""


def qemus(proc: Path = PROC) -> Iterator[Qemu]:
    """All, in the order of their process ids."""
    pids = sorted(int(each.name) for each in proc.iterdir() if each.name.isdecimal())
    for pid in pids:
        words = _words(proc / str(pid) / "cmdline")
        if is_qemu(words):
            yield _qemu(proc / str(pid), read(words))


def _words(path: Path) -> list[str]:
    try:
        return os.fsdecode(path.read_bytes()).rstrip("\0").split("\0")
    except OSError:  # it has ended
        return []


def _qemu(process: Path, line: CommandLine) -> Qemu:
    sockets = _unix_sockets(process / "net" / "unix")
    qmp, problem = _choose(process, line, sockets)
    return Qemu(
        pid=int(process.name),
        name=line.name,
        uuid=line.uuid,
        qmp=qmp,
        qga=None if line.agent is None else _reach(process, _path(process, line.agent, sockets)),
        by_libvirt=line.by_libvirt,
        problem=problem,
    )


def _choose(process: Path, line: CommandLine, sockets: UnixSockets) -> tuple[str | None, str | None]:
    """The best of its QMP sockets, and what is wrong with it."""
    if not line.monitors:
        return None, "it has no QMP socket: start it with -qmp unix:PATH,server=on,wait=off"
    worst: tuple[str | None, str | None] = (None, None)
    for monitor in line.monitors:
        if monitor.tcp is not None:
            worst = (None, f"its QMP is at TCP port {monitor.tcp}: give it a UNIX socket, too")
            continue
        bound = _path(process, monitor, sockets)
        path = _reach(process, bound)
        if bound is None or path is None:
            worst = (None, "where its QMP socket is can only be seen by its user, or by root")
            continue
        problem = _problem(path, sockets.connections.get(bound, 0))
        if problem is None:
            return path, None
        worst = (path, problem)
    return worst


def _problem(path: str, connections: int) -> str | None:
    """Why a client cannot connect there."""
    if not os.access(path, os.W_OK):
        return "the socket is for its user, or root"
    if connections:
        return "its QMP socket has a client already, and room for one: give it another by -qmp"
    return None


def _path(process: Path, chardev: Chardev, sockets: UnixSockets) -> str | None:
    """The path that a socket of the process is bound to, as it is there; None where that cannot be seen."""
    if chardev.path is not None:
        return chardev.path
    if chardev.fd is None:
        return None
    try:
        found = _SOCKET.fullmatch(os.readlink(process / "fd" / str(chardev.fd)))
    except OSError:
        return None
    return None if found is None else sockets.listening.get(int(found.group(1)))


def _reach(process: Path, path: str | None) -> str | None:
    """`path` of that process as a path of this one: it may be relative, or in a container."""
    if path is None:
        return None
    try:
        if not os.path.isabs(path):
            path = os.path.join(os.readlink(process / "cwd"), path)
        inside = f"{process}/root{path}"
        there = os.stat(inside)
    except OSError:
        return path if os.path.isabs(path) else None
    try:
        same = os.path.samestat(there, os.stat(path))
    except OSError:
        same = False
    return path if same else inside


def _unix_sockets(table: Path) -> UnixSockets:
    listening: dict[int, str] = {}
    connections: dict[str, int] = {}
    try:
        lines = os.fsdecode(table.read_bytes()).splitlines()[1:]
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) < 8:
            continue
        _, _, _, flags, _, _, inode, path = fields
        if int(flags, 16) & _LISTENS:
            listening[int(inode)] = path
        else:
            connections[path] = connections.get(path, 0) + 1
    return UnixSockets(listening, connections)
