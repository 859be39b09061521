"""How long a vhost-user back-end's loss takes to reach the guest: socket closed → config interrupt at its driver.

`vnic bench loss` runs it; this process plays both the driver and the back-end."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.back_end import BackEnd
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

LOSSES_PER_ROUND = 20
TIMEOUT_S = 5.0

METHOD = (
    "a running vnic between a guest's driver and a vhost-user back-end that connects to it, both played by this"
    " process; the back-end shuts its socket down → CONFIG_CHANGE readable on the driver's request channel. And: the"
    " back-end begins to connect → CONFIG_CHANGE"
)


def measure(rounds: int) -> Iterator[Row]:
    arguments = (
        *(
            "-chardev",
            "socket,id=c0,path=@/c0.sock,server=on,wait=off",
            "-netdev",
            "vhost-user,id=vu0,chardev=c0",
        ),
        *("-device", "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=@/nic0.sock"),
    )
    with VnicProcess(*arguments) as vnic, FakeGuestMemory() as memory:
        driver = NetDriver(memory)
        client = VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
        back_end = BackEnd(vnic.folder / "c0.sock", server=False)
        try:
            client.start()
            losses, returns = _lose_and_return(client, back_end, rounds * LOSSES_PER_ROUND)
        finally:
            client.close()
            driver.close()
            back_end.close()
    yield row("back-end lost → config interrupt", "µs", losses, METHOD, "median at most 1000")
    yield row("back-end connects → config interrupt", "µs", returns, METHOD)


def _lose_and_return(
    client: VhostUserClient, back_end: BackEnd, count: int
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
        if not back_end.until(told):
            raise Missing("the driver was not told of the return")
        returns.append((time.perf_counter() - started) * 1e6)
        _settle(client, back_end, up=True)
        started = time.perf_counter()
        back_end.hang_up()
        if not _readable(requests, TIMEOUT_S):
            raise Missing("the driver was not told of the loss")
        losses.append((time.perf_counter() - started) * 1e6)
        back_end.lose()
        _settle(client, back_end, up=False)
    return losses, returns


def _readable(sock: socket.socket, timeout: float) -> bool:
    return bool(select.select([sock], [], [], timeout)[0])


def _settle(client: VhostUserClient, back_end: BackEnd, up: bool) -> None:
    """Read the status as a driver does, and wait for the end of the handshake with the back-end."""
    client.config_changes()
    if client.link_up() != up:
        raise Missing("the driver read another link state than there is")
    back_end.run(0.02)
