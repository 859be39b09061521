"""A program that plays passt for tests: it forks into the background, writes its PID and serves its socket.

In stream mode it sends every frame back; with --vhost-user it is a vhost-user back-end. Options of its own make it
misbehave: --fail TEXT, --too-old, --die-after FRAMES. It is run as a script, with the repository on its path.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import struct
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]


def install(directory: Path) -> str:
    """A launcher in `directory` that runs this file with this Python; the path to give as `path=`."""
    from tests.needs import need  # the program itself runs without pytest

    need("exec-tmp")
    launcher = directory / "passt"
    packages = Path(msgspec.__file__).parents[1]  # -S leaves them out, as what they start takes time
    path = f"{ROOT}/src:{ROOT}:{packages}"
    launcher.write_text(
        f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -S {Path(__file__).resolve()} "$@"\n'
    )
    launcher.chmod(0o755)
    return str(launcher)


def serve_frames(sock: socket.socket, die_after: int) -> None:
    count = 0
    data = b""
    while piece := sock.recv(65536):
        data += piece
        while len(data) >= 4 and len(data) >= 4 + struct.unpack_from(">I", data)[0]:
            end = 4 + struct.unpack_from(">I", data)[0]
            sock.sendall(data[:end])
            data = data[end:]
            count += 1
            if count == die_after:
                return


async def serve_rings(listener: socket.socket) -> None:
    """One connection, as with --one-off."""
    from tests.fakes.vhost_user_backend import FakeBackend

    class OneOff(FakeBackend):
        def drop(self) -> None:
            served = self.sock is not None
            super().drop()
            if served:
                gone.set()

    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    backend = OneOff(loop, "", server=False)
    listener.setblocking(False)
    sock, _ = await loop.sock_accept(listener)
    listener.close()
    backend.adopt(sock)
    await gone.wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--pid")
    parser.add_argument("--fail")
    parser.add_argument("--fail-while")
    parser.add_argument("--die-after", type=int, default=0)
    parser.add_argument("--too-old", action="store_true")
    for word in ("--quiet", "--vhost-user", "--one-off"):
        parser.add_argument(word, action="store_true")
    given, _ = parser.parse_known_args()
    if given.too_old:
        print("passt: unrecognized option '--too-old'\nUsage: passt [OPTION]...", file=sys.stderr)
        return 1
    if given.fail or (given.fail_while and os.path.exists(given.fail_while)):
        print(f"Don't run as root. Changing to nobody...\n{given.fail or 'not yet'}", file=sys.stderr)
        return 1
    listener = None
    if given.socket is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(given.socket)
        listener.listen()
    child = os.fork()
    if child:
        if given.pid is not None:
            Path(given.pid).write_text(f"{child}\n")
        return 0
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if listener is not None:
        asyncio.run(asyncio.wait_for(serve_rings(listener), 100))
    else:
        with socket.socket(fileno=given.fd) as sock:
            serve_frames(sock, given.die_after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
