"""Finds the UNIX sockets that are bound to a path, through the kernel (unix_diag). `bind` calls it.

A connection would disturb the program that listens there.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_SOCKET: Final = struct.Struct("=BBBxIII")  # struct unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr
_VFS: Final = struct.Struct("=II")  # struct unix_diag_vfs: inode (32 bits of it), device
_SHOW_NAME: Final = 1
_SHOW_VFS: Final = 2
_ATTR_NAME: Final = 0
_ATTR_VFS: Final = 1
_ESTABLISHED: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF


class _Bound(NamedTuple):
    kind: int
    state: int
    name: bytes
    inode: int


def is_in_use(path: str) -> bool:
    """Whether a program in this network namespace listens or receives at the socket `path`.

    An accepted connection does not count.
    """
    inode = os.lstat(path).st_ino & 0xFFFFFFFF
    name = os.path.basename(os.fsencode(path))
    try:
        found = list(_bound())
    except OSError:  # a kernel without unix_diag
        return _is_listed(path)
    return any(
        each.inode == inode
        and os.path.basename(each.name) == name
        and (each.kind == socket.SOCK_DGRAM or each.state != _ESTABLISHED)
        for each in found
    )


def _bound() -> Iterator[_Bound]:
    """All UNIX sockets with a path. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as sock:
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME | _SHOW_VFS, 0, 0)
        size = _HEADER.size + len(request)
        sock.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        while True:
            data = sock.recv(1 << 16)
            at = 0
            while at + _HEADER.size <= len(data):
                size, message, *_ = _HEADER.unpack_from(data, at)
                if message == _NLMSG_DONE:
                    return
                if message == _NLMSG_ERROR or size < _HEADER.size:
                    raise OSError("the kernel has no unix_diag")
                found = _parse(data[at + _HEADER.size : at + size])
                if found is not None:
                    yield found
                at += (size + 3) & ~3


def _parse(data: bytes) -> _Bound | None:
    _, kind, state, *_ = _SOCKET.unpack_from(data)
    name, inode = b"", None
    at = _SOCKET.size
    while at + _ATTRIBUTE.size <= len(data):
        size, attribute = _ATTRIBUTE.unpack_from(data, at)
        value = data[at + _ATTRIBUTE.size : at + size]
        if attribute == _ATTR_NAME:
            name = value.rstrip(b"\0")
        elif attribute == _ATTR_VFS:
            inode = _VFS.unpack_from(value)[0]
        at += max((size + 3) & ~3, _ATTRIBUTE.size)
    return None if inode is None else _Bound(kind, state, name, inode)


def _is_listed(path: str) -> bool:
    """Check the names in /proc/net/unix, as they were bound: a relative name may be in this folder or in another."""
    wanted = os.path.realpath(path)
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
        names = {line.rstrip("\n").split(" ", 7)[-1].strip() for line in table}
    return any(
        os.path.basename(name) == os.path.basename(path)
        and (not os.path.isabs(name) or os.path.realpath(name) == wanted)
        for name in names
    )
