"""A vnic-wire without packets, as a program of its own: it answers requests, and dies or misbehaves when told.

Run as `python fake_wire.py MODE`; its channel is descriptor 3. It imports nothing of vnic, to start fast.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

HELLO = 1
ALL = (1 << 64) - 1
"""Features."""


def main(mode: str) -> None:
    if mode == "exit":
        return
    channel = socket.socket(fileno=3)
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 17, 128)
        if not data:
            return
        for fd in fds:
            os.close(fd)
        number, serial = struct.unpack_from("<II", data)
        body = b""
        if number == HELLO:
            version = 1 if mode == "version" else 2
            body = struct.pack("<IIQQQ", version, os.getpid(), 0, ALL, ALL)
        if mode == "garbage" and number != HELLO:
            channel.send(b"\xff" * 5)
        elif mode == "wrong-serial" and number != HELLO:
            channel.send(struct.pack("<IIiI", 0, serial + 7, 0, 0))
        elif mode == "refuse" and number != HELLO:
            channel.send(struct.pack("<IIiI", 0, serial, 22, 0) + b"kind: not today")
        elif mode == "die" and number != HELLO:
            return
        else:
            channel.send(struct.pack("<IIiI", 0, serial, 0, 0) + body)


main(sys.argv[1])
