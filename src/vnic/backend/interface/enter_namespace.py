"""A program: it enters a network namespace, opens sockets there, and passes them back over a socket.

`namespace` runs it as a file, with no packages, because a thread that enters a namespace stays there. It ends at once.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
IN_MOVED_FROM, IN_DELETE, IN_DELETE_SELF, IN_ONLYDIR = 0x40, 0x200, 0x400, 0x01000000
RTMGRP_LINK = 1


def main(path: str, pid: str, folder: str, number: str) -> None:
    """Send b"" with the descriptors of a packet socket, a netlink socket and (for a process or a folder) what becomes
    readable with the namespace's end; or `step errno` where a step fails."""
    with socket.socket(fileno=int(number)) as control:
        step = "watch"
        try:
            endings = _endings(pid, folder)
            step = "open"
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            step = "enter"
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            step = "packet"
            kinds = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            packet = socket.socket(socket.AF_PACKET, kinds, 0)
            step = "netlink"
            route = socket.socket(socket.AF_NETLINK, kinds, socket.NETLINK_ROUTE)
            route.bind((0, RTMGRP_LINK))
        except OSError as error:
            control.send(f"{step} {error.errno}".encode())
        else:
            socket.send_fds(control, [b"opened"], [packet.fileno(), route.fileno(), *endings])


def _endings(pid: str, folder: str) -> list[int]:
    if pid:
        return [os.pidfd_open(int(pid))]
    if not folder:
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch < 0:
        return []  # its end cannot be seen then
    wanted = IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_ONLYDIR
    if libc.inotify_add_watch(watch, os.fsencode(folder), wanted) < 0:
        os.close(watch)
        return []
    return [watch]


if __name__ == "__main__":
    main(*sys.argv[1:])
