"""A guest for machines that can boot none: a virtio-net driver in this process, which `vnic demo` labels as such.

It speaks vhost-user as User-Mode Linux does and drives real rings in real memory (vnic.lab.played), but there is no
kernel in it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import struct
import threading
import time
from pathlib import Path

from vnic.lab.guest.errors import BootFailed, GuestGone
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import (
    UML_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.net.offload import checksum
from vnic.nic.virtio_net import features as net
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio import features

RX_BUFFERS = 16
ANSWER_TIMEOUT_S = 10.0

_FEATURES = features.VERSION_1 | vu.F_PROTOCOL_FEATURES | net.MAC | net.STATUS
_MAC_AT, _MAC_BYTES = 0, 6  # in the config space (virtio 1.2 §5.1.4)


class FakeGuest:
    """A driver of one NIC. A thread of its own reads the link after each interrupt, as a kernel's work item does."""

    label = "the built-in fake guest driver (no kernel)"

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._end = contextlib.ExitStack()
        self._client: VhostUserClient | None = None
        self._talk = threading.Lock()
        self._changed = threading.Condition()
        self._up = False
        self._mac = bytes(_MAC_BYTES)
        self._address = bytes(4)

    # -- the guest ----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        try:
            self._start()
        except (OSError, Disconnected) as error:
            self.close()
            raise BootFailed(f"the fake guest cannot use {self._path}: {error or 'it was closed'}") from error

    def _start(self) -> None:
        memory = FakeGuestMemory()
        self._end.callback(memory.close)
        driver = NetDriver(memory)
        self._end.callback(driver.close)
        client = VhostUserClient(SocketWire.connect(self._path), memory, driver)
        self._end.callback(client.close)
        client.negotiate(UML_PROTOCOL_FEATURES, _FEATURES)
        client.set_memory()
        client.start_rings(driver.rings[:2])
        driver.fill_rx(RX_BUFFERS)
        self._client = client
        self._mac = client.read_config(_MAC_AT, _MAC_BYTES)
        self._read_link()
        stop, stopped = os.pipe()
        watcher = threading.Thread(target=self._watch, args=(stop,), name="fake-guest")
        watcher.start()
        # The other way round when it ends: the watcher first, which talks to the client.
        self._end.callback(os.close, stop)
        self._end.callback(watcher.join)
        self._end.callback(os.close, stopped)

    def carrier(self) -> bool:
        return self._up

    def wait_carrier(self, up: bool, *, timeout: int = 30) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._up == up, timeout)

    def set_address(self, address: str) -> None:
        self._address = ipaddress.IPv4Interface(address).ip.packed

    def ping(self, address: str, timeout: float = ANSWER_TIMEOUT_S) -> float | None:
        target = ipaddress.IPv4Address(address).packed
        answer = self._exchange(arp_request(self._mac, self._address, target), timeout)
        if answer is None:
            return None
        started = time.monotonic()
        answer = self._exchange(echo_request(answer[6:12], self._mac, self._address, target), timeout)
        return None if answer is None else (time.monotonic() - started) * 1e3

    def close(self) -> None:
        self._end.close()
        self._client = None

    # -- link ---------------------------------------------------------------------------------------------------

    def _watch(self, stop: int) -> None:
        """Read the link whenever the device says that its configuration changed (virtio 1.2 §5.1.4.2)."""
        client = self._running()
        assert client.requests is not None
        watched = [client.requests.fileno(), stop]
        with contextlib.suppress(Disconnected):  # the NIC is gone: its last word stays
            while stop not in select.select(watched, [], [])[0]:
                if not client.config_changes():
                    return  # the end of the channel
                self._read_link()

    def _read_link(self) -> None:
        with self._talk:
            up = self._running().link_up()
        with self._changed:
            self._up = up
            self._changed.notify_all()

    # -- packets ------------------------------------------------------------------------------------------------

    def _exchange(self, frame: bytes, timeout: float) -> bytes | None:
        """Send a frame; the next one that comes back for this guest within `timeout` seconds."""
        driver = self._running().driver
        driver.send(frame)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if select.select([driver.rings[0].call_fd], [], [], left)[0]:
                driver.rings[0].calls()
                answers = driver.received()
                driver.fill_rx(len(answers))
                for answer in answers:
                    if answer[:_MAC_BYTES] == self._mac:
                        return answer
        return None

    def _running(self) -> VhostUserClient:
        if self._client is None:
            raise GuestGone("the fake guest is not running")
        return self._client


def arp_request(mac: bytes, sender: bytes, target: bytes) -> bytes:
    """Who has `target`? (RFC 826)"""
    question = b"\0\1\x08\0\6\4\0\1" + mac + sender + bytes(6) + target
    return (b"\xff" * 6 + mac + b"\x08\x06" + question).ljust(60, b"\0")


def echo_request(to: bytes, mac: bytes, sender: bytes, target: bytes) -> bytes:
    """One ping (RFC 792)."""
    message = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1) + bytes(range(48))
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0, sender, target)
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    return to + mac + b"\x08\x00" + header + message
