"""Two network namespaces in place of two hosts, joined by a bridge of this one, for `vnic bench tunnel`."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from vnic.backend.interface_watch import open_route_socket
from vnic.backend.rtnetlink import set_link
from vnic.lab.bench.report import Missing

ADDRESSES: Final = ("10.251.0.1", "10.251.0.2")
_CLONE_NEWNET: Final = 0x40000000

T = TypeVar("T")


class TwoHosts:
    """The namespaces. Their links end in this one, where a path can be cut by one message to the kernel."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.names = (f"vnic-{pid}-0", f"vnic-{pid}-1")
        self._bridge = f"vb{pid}"
        self._outer = tuple(f"vo{pid}-{number}" for number in range(2))
        self._route: socket.socket

    @contextmanager
    def made(self) -> Iterator[TwoHosts]:
        """Missing if this is not allowed."""
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("link", "set", self._bridge, "up")
            for name, outer, address in zip(self.names, self._outer, ADDRESSES, strict=True):
                ip("netns", "add", name)
                ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", outer, "master", self._bridge, "up")
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    ip("-n", name, "link", "set", device, "up")
            with open_route_socket() as self._route:
                yield self
        finally:
            for words in (("link", "del", self._bridge), *(("netns", "del", name) for name in self.names)):
                subprocess.run(["ip", *words], check=False, capture_output=True)

    def inside(self, number: int) -> Sequence[str]:
        """The command before one that is to run there."""
        return ("ip", "netns", "exec", self.names[number])

    def set_path(self, up: bool) -> None:
        """Cut the path, or restore it: no error tells either host."""
        self._route.send(set_link(1, socket.if_nametoindex(self._outer[1]), up))

    def called_in(self, number: int, function: Callable[[], T]) -> T:
        """What a function returns in that namespace; sockets that it makes stay there."""
        results: list[T] = []

        def call() -> None:
            with open(f"/run/netns/{self.names[number]}", "rb") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), _CLONE_NEWNET) == 0:
                    results.append(function())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if not results:
            raise Missing(f"the namespace {self.names[number]} cannot be entered")
        return results[0]


def ip(*words: str) -> None:
    """Run `ip`; Missing if it fails."""
    run_command("ip", *words)


def run_command(*words: str) -> None:
    """Run a program; Missing if it fails, or is not there."""
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise Missing(f"`{words[0]}` is not installed (apt-get install iproute2 ethtool)") from None
    except subprocess.CalledProcessError as error:
        raise Missing(f"{' '.join(words)}: {error.stderr.strip()}") from None
