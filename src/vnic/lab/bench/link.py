"""How long a set_link over QMP takes to reach a driver: the CONFIG_CHANGE on its vhost-user request channel.

`vnic bench link` runs it; a played driver in this process is the guest."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

CHANGES_PER_ROUND = 300
PAUSE_S = 0.001
"""Between two changes: each is measured by itself, on an idle vnic."""

METHOD = (
    "QMP request written → CONFIG_CHANGE readable in this process, another one than vnic; one client, no"
    f" traffic, {PAUSE_S * 1000:g} ms between changes; QEMU 11 itself, on a like machine: request → interrupt 350 µs"
)


def measure(rounds: int) -> Iterator[Row]:
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
    with VnicProcess("-netdev", "echo,id=net0", "-device", nic) as vnic, FakeGuestMemory() as memory:
        driver = NetDriver(memory)
        client = VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
        try:
            client.start()
            if not client.link_up():
                raise Missing("the NIC's link is not up at the start")
            arrival: list[float] = []
            reply: list[float] = []
            for change in range(rounds * CHANGES_PER_ROUND):
                to_driver, to_reply = _one_change(vnic, client, up=bool(change % 2))
                arrival.append(to_driver)
                reply.append(to_reply)
        finally:
            client.close()
            driver.close()
    yield row("set_link → CONFIG_CHANGE", "µs", arrival, METHOD, "median at most 175")
    yield row("set_link → QMP reply", "µs", reply, "the same changes: request written → reply read")


def _one_change(vnic: VnicProcess, client: VhostUserClient, up: bool) -> tuple[float, float]:
    """Both latencies of one change, in µs."""
    requests = client.requests
    assert requests is not None
    word = "true" if up else "false"
    request = b'{"execute":"set_link","arguments":{"name":"nic0","up":' + word.encode() + b"}}\n"
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    vnic.qmp.send(request)
    if not select.select([requests], [], [], 5)[0]:
        raise Missing("a CONFIG_CHANGE did not come within 5 s")
    arrived = time.perf_counter()
    vnic.reply()
    replied = time.perf_counter()
    client.config_changes()
    if client.link_up() != up:
        raise Missing("the driver read another link state than was set")
    return (arrived - started) * 1e6, (replied - started) * 1e6
