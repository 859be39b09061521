"""Hostile clients beside an honest guest: no turn of the loop, and so no other client's wait, is longer than 50 ms.

The amount of what they do is fixed, not its time, and a turn's time leaves out that of other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import require
from tests.fakes import timed_vnic
from tests.integration.process import PATIENCE_S, Place, guest_on, wait_for

from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

COMMAND = [sys.executable, str(Path(timed_vnic.__file__))]
LAG_MAX_US = 50_000

NETDEVS = ["stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock", "echo,id=net1"]
NICS = [
    "virtio-net,id=good,netdev=net1,attach.type=vhost-user,attach.path=good.sock",
    "virtio-net,id=bad,netdev=net0,attach.type=vhost-user,attach.path=bad.sock",
    "virtio-net,id=stormy,attach.type=vhost-user,attach.path=stormy.sock",
    "e1000,id=odd,attach.type=vfio-user,attach.path=odd.sock",
]


class Qmp:
    """A client that writes and reads lines, and no more."""

    def __init__(self, path: str) -> None:
        self._sock = connect(path)
        self._file = self._sock.makefile("rwb")
        self._file.readline()
        self.ask(b'{"execute":"qmp_capabilities"}')

    def ask(self, command: bytes) -> Any:
        self._file.write(command)
        self._file.flush()
        return self.reply()

    def reply(self) -> Any:
        while (line := self._file.readline()).startswith(b'{"timestamp"'):
            pass
        return json.loads(line)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def connect(path: str, timeout: float = PATIENCE_S) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            # As many as may are waiting to be let in (connect(2)), which vnic may be slow to do after a storm.
            if not isinstance(error, BlockingIOError) or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return sock


# -- those who mean harm ----------------------------------------------------------------------------------------------


def storm(path: str) -> None:
    """Come and go, with half a message; where vnic slows that down, there is no waiting for it."""
    for n in range(150):
        with contextlib.suppress(OSError), connect(path, 0.01) as sock:
            sock.send(struct.pack("<III", n % 40 + 1, 1, (0, 8, 0xFFFFFFFF, 4096)[n % 4])[: n % 13])


def flood_of_qmp(path: str) -> None:
    """Long answers, errors and a command that is 4 MiB long."""
    client = Qmp(path)
    for _ in range(15):
        client.ask(b'{"execute":"query-qmp-schema"}')
        client.ask(b'{"execute":"query-links"}' + b'{"execute":"nothing"}' * 500)
        for _ in range(500):
            client.reply()
    client.close()
    for too_much in (b'"' + b"y" * (4 << 20) + b'"', b"[" * 1000 + b"]" * 1000):
        client = Qmp(path)
        client.ask(b'{"execute":"query-name","arguments":{"x":' + too_much + b"}}")
        client.close()


def deaf(path: str) -> None:
    """Ask, and read nothing."""
    with connect(path) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.2)
        sock.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 300)


def long_frames(path: str) -> None:
    """The longest frames of a stream, and then one that is too long."""
    with connect(path) as sock, contextlib.suppress(OSError):
        for _ in range(200):
            sock.sendall(struct.pack(">I", 65536) + bytes(65536))
        sock.sendall(struct.pack(">I", 0xFFFFFFFF) + bytes(65536))


def kicks(path: str) -> None:
    """A driver that kicks, and has done nothing, or all there is room for."""
    memory = FakeGuestMemory()
    driver = NetDriver(memory)
    client = VhostUserClient(SocketWire.connect(path), memory, driver)
    try:
        client.start()
        for n in range(2000):
            for ring in driver.rings:
                os.eventfd_write(ring.kick_fd, 1)
            if n % 10 == 0:
                with contextlib.suppress(AssertionError, IndexError):  # no room
                    driver.send(bytes(60))
    finally:
        client.close()
        driver.close()
        memory.close()


# -- the test ---------------------------------------------------------------------------------------------------------


def test_hostile_clients_delay_no_other_client(place: Place) -> None:
    require(os.access(timed_vnic.SCHEDSTAT, os.R_OK), timed_vnic.SCHEDSTAT)
    options = [word for netdev in NETDEVS for word in ("-netdev", netdev)]
    options += [word for nic in NICS for word in ("-device", nic)]
    # On a busy machine the journal's thread may wait for a processor while it holds Python's lock: the loop then waits
    # for the machine's load, which the measured lag cannot tell from its own work.
    options += ["-journal", "none"]
    with place.run(*options, command=COMMAND) as running, guest_on(place.path("good.sock")) as guest:
        honest = Qmp(running.qmp_path)
        problems: list[BaseException] = []

        def attack(work: Callable[[str], None], path: str) -> threading.Thread:
            def run() -> None:
                try:
                    work(path)
                except BaseException as error:
                    problems.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        attackers = [
            attack(storm, place.path("net0.sock")),
            attack(storm, place.path("stormy.sock")),
            attack(storm, place.path("odd.sock")),
            attack(flood_of_qmp, running.qmp_path),
            attack(deaf, running.qmp_path),
            attack(deaf, running.qmp_path),
            attack(long_frames, place.path("net0.sock")),
            attack(kicks, place.path("bad.sock")),
        ]
        up = True
        while any(thread.is_alive() for thread in attackers):
            up = not up
            honest.ask(
                b'{"execute":"set_link","arguments":{"name":"good","up":%s}}' % (b"true" if up else b"false")
            )
            wait_for(lambda up=up: guest.sees_up() is up)  # type: ignore[misc]  # bound per turn
        for thread in attackers:
            thread.join()
        assert not problems
        lag = honest.ask(b'{"execute":"query-vnic"}')["return"]["loop-lag"]
        honest.close()
    assert lag["turns"] > 1000
    assert lag["max-us"] < LAG_MAX_US, lag
