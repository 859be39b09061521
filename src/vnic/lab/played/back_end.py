"""A vhost-user back-end that a caller starts and stops at will: a real NIC of vnic, served on a loop of its own.

`vnic bench loss` and the tests of back-end restarts use it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.virtio_net.device import VirtioNet


class BackEnd:
    """Listens at `path`, or connects there, from `open` to `lose`; what its client sends reaches `endpoint`.

    Its loop runs only within `until` and `run`.
    """

    def __init__(self, path: Path, endpoint: Endpoint | None = None, *, server: bool = True) -> None:
        self.loop = asyncio.new_event_loop()
        self._path = str(path)
        self._server = server
        self._network = Network(self.loop)
        self._network.add_netdev("net0", "echo", endpoint or Endpoint())
        self._device = VirtioNet()
        self._nic = self._network.add_nic(
            "nic0", "virtio-net", self._device, mac=bytes.fromhex("525400000001"), netdev_id="net0"
        )
        self._attachment: VhostUserAttachment | None = None

    def open(self) -> None:
        """Listen, or connect."""
        self._attachment = VhostUserAttachment(self._device, self._nic, self._path, self._server, self.loop)
        self._attachment.start()

    def hang_up(self) -> None:
        """Shut the connection down, and do nothing else: what its client sees first when a back-end dies."""
        session = self._attachment.session if self._attachment is not None else None
        if (
            session is not None
        ):  # the kernel, which does this to a dying process, uses no method of ours either
            session._connection._sock.shutdown(socket.SHUT_RDWR)

    def lose(self) -> None:
        """Close the connection and stop listening, at once."""
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None

    @property
    def running(self) -> bool:
        """Whether a client's driver is at work."""
        return self._nic.guest.driver_ok

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Serve until `condition()` holds. False: it did not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.loop.run_until_complete(asyncio.sleep(0))
        return True

    def run(self, seconds: float) -> None:
        """Serve for a while."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def close(self) -> None:
        self.lose()
        self._network.close()
        self.run(0)
        self.loop.close()
