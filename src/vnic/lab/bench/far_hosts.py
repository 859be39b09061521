"""The host at the far ends of a guest's NICs: taps with addresses of this machine, and one end of a TCP connection.

`wire-guest` uses it, as root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vnic.dataplane.wire.messages import Kind
from vnic.lab.bench.report import Missing
from vnic.lab.bench.wire_program import BareWire

_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_INFO: Final = 0x1002
_IFREQ: Final = struct.Struct("16sH22x")
CHUNK_BYTES: Final = 1 << 20
CONNECT_TIMEOUT_S: Final = 30.0


def ip(*arguments: str) -> None:
    """Run ip(8). Raises Missing with what it says."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise Missing("ip is not installed (apt-get install iproute2)") from None
    if done.returncode != 0:
        raise Missing(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def tap_name(number: int) -> str:
    """The name of one of this process's taps."""
    return f"vt{number}-{os.getpid()}"


def host_address(number: int) -> str:
    """This machine's address on that tap."""
    return f"10.213.{number}.2"


def guest_address(number: int) -> str:
    return f"10.213.{number}.15"


def await_interface(name: str) -> None:
    """Until some program has made it. Raises Missing if none does."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while not Path(f"/sys/class/net/{name}").exists():
        if time.monotonic() > deadline:
            raise Missing(f"the interface {name} was not made")
        time.sleep(0.01)


def set_up(number: int) -> None:
    """Give the tap, which some program makes, its address."""
    await_interface(tap_name(number))
    ip("link", "set", tap_name(number), "addrgenmode", "none", "up")
    ip("addr", "add", f"{host_address(number)}/24", "dev", tap_name(number))


class StreamHost:
    """A context manager: listens at `path` for a stream netdev, and joins it to a tap by a vnic-wire of its own."""

    def __init__(self, number: int, path: Path) -> None:
        self._number = number
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(CONNECT_TIMEOUT_S)
        self._wire = BareWire()

    def __enter__(self) -> StreamHost:
        self._wire.__enter__()
        return self

    def connect(self) -> None:
        """Accept the netdev, and make the tap."""
        stream, _ = self._listener.accept()
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            stream.close()
            raise Missing(f"/dev/net/tun: {error.strerror}") from None
        try:
            fcntl.ioctl(tap, _TUNSETIFF, _IFREQ.pack(tap_name(self._number).encode(), _TAP_WITHOUT_INFO))
            self._wire.add(0, Kind.STREAM, [stream.fileno()])
            self._wire.add(1, Kind.TAP, [tap])
        finally:
            stream.close()
            os.close(tap)
        self._wire.join(0, 0, 1)
        set_up(self._number)

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._wire.__exit__(None, None, None)


@contextlib.contextmanager
def tcp_server(number: int, seconds: float) -> Iterator[int]:
    """The host's end of one connection on that tap: sends for `seconds`, and then takes all that comes. The port."""
    with served(socket.create_server((host_address(number), 0)), seconds) as port:
        yield port


@contextlib.contextmanager
def served(listener: socket.socket, seconds: float) -> Iterator[int]:
    """The same at a socket that listens, which is closed then."""
    with listener:
        listener.settimeout(CONNECT_TIMEOUT_S)
        thread = threading.Thread(target=_serve, args=(listener, seconds), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _serve(listener: socket.socket, seconds: float) -> None:
    chunk = bytearray(CHUNK_BYTES)
    with contextlib.suppress(OSError), listener.accept()[0] as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv_into(chunk):
            pass
