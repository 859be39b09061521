"""How long a vhost-user back-end's loss takes to reach the guest: socket closed → config interrupt at its driver."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator

from vnic.attach.vhost_user import VhostUserAttachment
from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.virtio_net.device import VirtioNet
from vnic.testing.driver import NetDriver
from vnic.testing.guest_memory import FakeGuestMemory
from vnic.testing.vhost_user_client import SocketWire, VhostUserClient

from .process import VnicProcess
from .report import Missing, Row, row

LOSSES_PER_ROUND = 20
TIMEOUT_S = 5.0

METHOD = (
    "a running vnic between a guest's driver and a vhost-user back-end, both played by this process; the back-end's"
    " socket is closed → CONFIG_CHANGE readable on the driver's request channel. And: the back-end listens again →"
    " CONFIG_CHANGE, with reconnect-ms=10"
)


class _BackEnd:
    """A real one: a NIC of vnic on a loop of this process, without anything behind it."""

    def __init__(self, path: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._network = Network(self.loop)
        self._network.add_netdev("net0", "echo", Endpoint())
        self._device = VirtioNet()
        nic = self._network.add_nic("nic0", "virtio-net", self._device, mac=bytes(6), netdev_id="net0")
        self._nic = nic
        self._path = path
        self._attachment: VhostUserAttachment | None = None

    def open(self) -> None:
        self._attachment = VhostUserAttachment(self._device, self._nic, self._path, True, self.loop)
        self._attachment.start()

    def lose(self) -> None:
        """Close the connection and the listening socket, at once."""
        assert self._attachment is not None
        self._attachment.close()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise Missing(f"{what} did not come within {TIMEOUT_S:g} s")
            self.loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        self._network.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


def measure(rounds: int) -> Iterator[Row]:
    arguments = (
        *(
            "-chardev",
            "socket,id=c0,path=@/c0.sock,reconnect-ms=10",
            "-netdev",
            "vhost-user,id=vu0,chardev=c0",
        ),
        *("-device", "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=@/nic0.sock"),
    )
    with VnicProcess(*arguments) as vnic, FakeGuestMemory() as memory:
        driver = NetDriver(memory)
        client = VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
        back_end = _BackEnd(str(vnic.folder / "c0.sock"))
        try:
            client.start()
            losses, returns = _lose_and_return(client, back_end, rounds * LOSSES_PER_ROUND)
        finally:
            client.close()
            driver.close()
            back_end.close()
    yield row("back-end lost → config interrupt", "µs", losses, METHOD, "median at most 1000")
    yield row("back-end listens → config interrupt", "µs", returns, METHOD)


def _lose_and_return(
    client: VhostUserClient, back_end: _BackEnd, count: int
) -> tuple[list[float], list[float]]:
    losses, returns = [], []
    requests = client.requests
    assert requests is not None

    def told() -> bool:
        return _readable(requests, 0)

    for _ in range(count):
        client.config_changes()
        started = time.perf_counter()
        back_end.open()
        back_end.until(told, "the link's return")
        returns.append((time.perf_counter() - started) * 1e6)
        _settle(client, back_end, up=True)
        started = time.perf_counter()
        back_end.lose()
        if not _readable(requests, TIMEOUT_S):
            raise Missing("the driver was not told of the loss")
        losses.append((time.perf_counter() - started) * 1e6)
        _settle(client, back_end, up=False)
    return losses, returns


def _readable(sock: socket.socket, timeout: float) -> bool:
    return bool(select.select([sock], [], [], timeout)[0])


def _settle(client: VhostUserClient, back_end: _BackEnd, up: bool) -> None:
    """Read the news as a driver does, and let the handshake with the back-end come to its end."""
    client.config_changes()
    if client.link_up() != up:
        raise Missing("the driver read another link state than there is")
    deadline = time.monotonic() + 0.02
    while time.monotonic() < deadline:
        back_end.loop.run_until_complete(asyncio.sleep(0.001))
