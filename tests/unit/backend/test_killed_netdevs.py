"""Netdevs in a process that gets SIGKILL at random under traffic: their peer sees whole frames in order."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.keeper import FakeKeeper
from tests.fakes.kept_netdev import Guest, KeptLab
from tests.fakes.ports import free_ports

from vnic.backend.framing import LENGTH
from vnic.backend.options import NetdevOptions, SocketOptions, StreamOptions
from vnic.net.queue import Frame
from vnic.sockets.address import UnixAddress
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier

KILLS = 25
WINDOW = 30
"""The most frames under way."""


class Mirror(Guest):
    """Sends every frame back."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.client.send(0, bytes(frame))
        return True


class Vnic:
    """The processes, one after the other. The keeper is the test's process."""

    def __init__(self, options: NetdevOptions) -> None:
        self._options = options
        self.keeper = FakeKeeper()
        self.pid = 0
        self.starts = 0

    def start(self) -> None:
        self.keeper.read()
        files = list(self.keeper.files)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(files)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self.starts += 1

    def _run(self, files: list[tuple[str, int]]) -> None:
        notifier = Notifier(self.keeper.address)
        first = not files
        lab = KeptLab(
            lambda schedule: StoredKeep(notifier, [(name, os.dup(fd)) for name, fd in files], schedule),
            first=first,
        )
        lab.guest_type = Mirror
        if first:
            lab.add(self._options)
            lab.nic("nic0", "net0")
        else:
            lab.plan([self._options], [("nic0", "net0")])
            lab.take_up()
        lab.loop.run_forever()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        self.kill()
        self.keeper.close()


class Peer:
    """Sends numbered frames in random pieces, and reads what comes back."""

    def __init__(self, sock: socket.socket, rng: random.Random) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self._rng = rng
        self._out = b""
        self._in = b""
        self.sent = 0
        self.most = 1 << 60
        """It sends no more frames than that."""
        self.returned: list[int] = []

    @property
    def last(self) -> int:
        """The newest frame that came back."""
        return self.returned[-1] if self.returned else 0

    def turn(self) -> None:
        if not self._out and self.sent < min(self.most, self.last + WINDOW):
            self.sent += 1
            frame = self.sent.to_bytes(8, "big") + bytes([self.sent % 251]) * self._rng.choice(
                [0, 52, 1400, 9000]
            )
            self._out = LENGTH.pack(len(frame)) + frame
        try:
            if self._out:
                self._out = self._out[self.sock.send(self._out[: self._rng.randrange(1, 4000)]) :]
        except BlockingIOError:
            pass
        try:
            data = self.sock.recv(self._rng.randrange(1, 20_000))
            assert data, "the connection was closed"
            self._in += data
        except BlockingIOError:
            pass
        while len(self._in) >= 4:
            (size,) = LENGTH.unpack_from(self._in)
            assert 8 <= size <= 9008, "out of step"
            if len(self._in) < 4 + size:
                return
            frame, self._in = self._in[4 : 4 + size], self._in[4 + size :]
            number = int.from_bytes(frame[:8], "big")
            assert frame[8:] == bytes([number % 251]) * (size - 8)
            self.returned.append(number)


def unix(folder: Path) -> tuple[NetdevOptions, Callable[[], socket.socket]]:
    path = str(folder / "s")

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock

    return StreamOptions(id="net0", server=True, addr=UnixAddress(path=path)), connect


def tcp(folder: Path) -> tuple[NetdevOptions, Callable[[], socket.socket]]:
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    options = SocketOptions(id="net0", listen=f"127.0.0.1:{port}")
    return options, lambda: socket.create_connection(("127.0.0.1", port))


def until(vnic: Vnic, peer: Peer, *, seconds: float = 0.0, last: int = 0) -> None:
    """Go on for some time, or until that frame, or a later one, has come back."""
    now = time.monotonic()
    while time.monotonic() < now + seconds or peer.last < last:
        assert time.monotonic() < now + 60, (peer.sent, peer.last)
        vnic.keeper.read()
        peer.turn()
        select.select([peer.sock, vnic.keeper._sock], [], [], 0.001)


@pytest.mark.parametrize("kind", [unix, tcp])
def test_stream_survives_sigkill_at_random(kind: Any, tmp_path: Path) -> None:
    rng = random.Random(os.urandom(4))
    options, connect = kind(tmp_path)
    vnic = Vnic(options)
    vnic.start()
    try:
        deadline = time.monotonic() + 30
        while True:
            vnic.keeper.read()
            try:
                peer = Peer(connect(), rng)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        for _ in range(KILLS):
            until(vnic, peer, seconds=rng.uniform(0.02, 0.15))
            until(vnic, peer, last=peer.last + 1)
            vnic.kill()
            vnic.start()
        until(vnic, peer, last=peer.last + WINDOW)
        peer.most = peer.sent
        until(vnic, peer, seconds=1)
        peer.most += 1
        until(vnic, peer, last=peer.most)
        assert peer.returned == sorted(set(peer.returned))  # in order, and none twice
        assert peer.sent - len(peer.returned) <= KILLS * WINDOW
        peer.sock.close()
    finally:
        vnic.close()
