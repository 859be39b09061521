"""How long a set_link over QMP takes to reach a driver: the CONFIG_CHANGE on its vhost-user request channel.

`vnic bench link` runs it; a played driver in this process is the guest."""

from __future__ import annotations

import contextlib
import select
import statistics
import time
from collections.abc import Iterator

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

CHANGES_PER_ROUND = 300
CHANGES_PER_TURN = 20
PAUSE_S = 0.001
"""Between two changes: each is measured by itself, on an idle vnic."""

METHOD = (
    "QMP request written → CONFIG_CHANGE readable in this process, another one than vnic; one client, no"
    f" traffic, {PAUSE_S * 1000:g} ms between changes; QEMU 11 itself, on a like machine: request → interrupt 350 µs"
)


WITHOUT = f"in turns with the above, {CHANGES_PER_TURN} changes each: a vnic with -journal none"


def measure(rounds: int) -> Iterator[Row]:
    with _guest() as kept, _guest("-journal", "none") as forgetful:
        arrival: list[float] = []
        reply: list[float] = []
        without: list[float] = []
        more: list[float] = []
        for turn in range(rounds * CHANGES_PER_ROUND // CHANGES_PER_TURN):
            # Each is first as often as it is second.
            for vnic in (kept, forgetful) if turn % 2 else (forgetful, kept):
                latencies = [_one_change(*vnic, up=bool(change % 2)) for change in range(CHANGES_PER_TURN)]
                (arrival if vnic is kept else without).extend(to_driver for to_driver, _ in latencies)
                if vnic is kept:
                    reply.extend(to_reply for _, to_reply in latencies)
            pair = (
                statistics.median(arrival[-CHANGES_PER_TURN:]),
                statistics.median(without[-CHANGES_PER_TURN:]),
            )
            more.append(100 * (pair[0] / pair[1] - 1))
    yield row("set_link → CONFIG_CHANGE", "µs", arrival, METHOD, "median at most 175")
    yield row("set_link → QMP reply", "µs", reply, "the same changes: request written → reply read")
    yield row("set_link → CONFIG_CHANGE, no journal", "µs", without, WITHOUT)
    yield row("what the journal adds", "%", more, "the medians of each turn", "median at most 5")


@contextlib.contextmanager
def _guest(*options: str) -> Iterator[tuple[VnicProcess, VhostUserClient]]:
    """A vnic with a NIC, and its guest."""
    nic = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=@/nic0.sock"
    with (
        VnicProcess(*options, "-netdev", "echo,id=net0", "-device", nic) as vnic,
        FakeGuestMemory() as memory,
        contextlib.closing(NetDriver(memory)) as driver,
        contextlib.closing(
            VhostUserClient(SocketWire.connect(str(vnic.folder / "nic0.sock")), memory, driver)
        ) as client,
    ):
        client.start()
        if not client.link_up():
            raise Missing("the NIC's link is not up at the start")
        yield vnic, client


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
