"""`vnic lab console`: a person's terminal on a node's console, until Ctrl-] or the node's end."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import Final

from vnic.cli.client import Refused
from vnic.lab.live.wire import Request, ask

ESCAPE: Final = b"\x1d"
"""Ctrl-], as of telnet(1)."""
_PIECE: Final = 1 << 16


def attach(path: Path) -> None:
    """Pass bytes both ways. Refused if stdin is no terminal."""
    if not sys.stdin.isatty():
        raise Refused("the console wants a terminal on stdin; `vnic lab exec` takes commands")
    stream, _ = ask(path, Request("console"))
    with stream:
        print(f"console of {path.stem}; Ctrl-] leaves it", flush=True)
        modes = termios.tcgetattr(0)
        tty.setraw(0)
        try:
            stream.sendall(b"\r")  # the prompt once more: it was shown before we came
            _pass(stream)
        except OSError:
            pass
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, modes)
            print(flush=True)


def _pass(stream: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([0, stream.fileno()], [], [])
        if stream.fileno() in ready:
            data = stream.recv(_PIECE)
            if not data:
                return
            while data:
                data = data[os.write(1, data) :]
        if 0 in ready:
            typed = os.read(0, _PIECE)
            before, left, _ = typed.partition(ESCAPE)
            stream.sendall(before)
            if left or not typed:
                return
