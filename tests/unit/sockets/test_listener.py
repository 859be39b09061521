"""Tests of Listener: pause, gate and close. Netdevs, chardevs, monitors and NICs test it with their peers."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.fakes.loops import fresh_loop, no_fd_leak, until

from vnic.sockets.listener import Listener, listen_at


class Closed:
    """A gate that admits no client until it is opened."""

    def __init__(self) -> None:
        self.open = False
        self.asked = 0

    def delay(self) -> float:
        self.asked += 1
        return 0.0 if self.open else 0.001


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def test_paused_listener_accepts_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "s"
    accepted: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        accepted.append(sock)
        listener.pause()

    with fresh_loop() as loop, no_fd_leak():
        listener = Listener(loop, listen_at(str(path)), serve, "s")
        with connect(path), connect(path):
            until(loop, lambda: len(accepted) == 1)
            accepted[0].close()
            listener.resume()
            until(loop, lambda: len(accepted) == 2)
            accepted[1].close()
        listener.close()
        listener.close()
        assert not path.exists()


def test_closed_gate_keeps_clients_in_backlog(tmp_path: Path) -> None:
    path = tmp_path / "s"
    accepted: list[socket.socket] = []
    gate = Closed()
    with fresh_loop() as loop, no_fd_leak():
        listener = Listener(loop, listen_at(str(path)), accepted.append, "s", gate=gate)
        with connect(path):
            until(loop, lambda: gate.asked > 2)
            assert not accepted
            gate.open = True
            until(loop, lambda: bool(accepted))
            accepted[0].close()
        listener.close()


def test_duplicate_does_not_remove_path(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with fresh_loop() as loop, no_fd_leak():
        listening = listen_at(str(path))
        Listener(loop, listening.dup(), lambda _: None, "s").close()
        connect(path).close()
        listening.close()
        assert not path.exists()
