"""How long a change at one end of a cable takes to reach the driver at the other: set_link, and a VM that is gone.

`vnic bench cable` runs it, first within one process and then over sockets; the guests at both ends are played drivers.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack

from vnic.backend import BackendContext, netdev_add
from vnic.backend.options import CableOptions
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.virtio_net.config import STATUS_AT, STATUS_END
from vnic.nic.virtio_net.device import VirtioNet

CHANGES_PER_ROUND = 300
LOSSES_PER_ROUND = 20
PAUSE_S = 0.001
"""Between two changes: each is measured by itself, on an idle vnic."""
TIMEOUT_S = 5.0

METHOD = (
    "one vnic, the NICs nic0 and nic1 at the two ends of a cable; QMP request written → CONFIG_CHANGE readable on the"
    f" driver's request channel; this process is the client and both drivers, {PAUSE_S * 1000:g} ms between changes"
)


HERE_METHOD = (
    "all in one process: two virtio-net models joined by a cable, each with a played driver that reads its link; call"
    " of set_link for nic0 → config interrupt"
)


class _TimedDriver(NetDriver):
    """Notes when it is interrupted."""

    interrupted_at = 0.0

    def config_interrupt(self) -> bool:
        self.interrupted_at = time.perf_counter()
        return super().config_interrupt()


def _measure_here(changes: int) -> tuple[list[float], list[float]]:
    """How long the interrupts of both NICs take in one process, in µs."""
    loop = asyncio.new_event_loop()
    network = Network(loop)
    context = BackendContext(loop, network)
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(network.close)
        drivers, devices = [], []
        for number in range(2):
            netdev_add(context, CableOptions(id=f"net{number}", cable="c0"))
            device = VirtioNet()
            mac = bytes((2, 0, 0, 0, 0, number))
            nic = network.add_nic(f"nic{number}", "virtio-net", device, mac=mac, netdev_id=f"net{number}")
            driver = _TimedDriver(stack.enter_context(FakeGuestMemory()))
            stack.callback(driver.close)
            nic.report.guest_attached(ShownBy.DEVICE)
            driver.plug(device)
            drivers.append(driver)
            devices.append(device)
        here: list[float] = []
        there: list[float] = []
        for change in range(changes):
            started = time.perf_counter()
            network.set_link("nic0", bool(change % 2), "bench")
            here.append((drivers[0].interrupted_at - started) * 1e6)
            there.append((drivers[1].interrupted_at - started) * 1e6)
            for device in devices:
                device.read_config(STATUS_AT, STATUS_END - STATUS_AT)
    return here, there


class Guest:
    """A played driver on a vhost-user NIC."""

    def __init__(self, path: str) -> None:
        with ExitStack() as stack:
            memory = stack.enter_context(FakeGuestMemory())
            driver = NetDriver(memory)
            stack.callback(driver.close)
            self.client = VhostUserClient(SocketWire.connect(path), memory, driver)
            stack.callback(self.client.close)
            self.client.start()
            self._end = stack.pop_all()

    def close(self) -> None:
        self._end.close()

    def wait_told(self) -> float:
        """The time at which the next interrupt is there."""
        requests = self.client.requests
        assert requests is not None
        if not select.select([requests], [], [], TIMEOUT_S)[0]:
            raise Missing(f"a CONFIG_CHANGE did not come within {TIMEOUT_S:g} s")
        return time.perf_counter()

    def look(self, up: bool) -> None:
        """Read the link as a driver does; Missing if it is not so."""
        self.client.config_changes()
        if self.client.link_up() != up:
            raise Missing("a driver read another link state than was set")


def measure(rounds: int) -> Iterator[Row]:
    here, there = _measure_here(rounds * CHANGES_PER_ROUND)
    yield row("set_link nic0 → interrupt at nic0", "µs", here, HERE_METHOD)
    yield row("set_link nic0 → interrupt at nic1", "µs", there, HERE_METHOD, "median at most 150")
    yield from _measure_over_sockets(rounds)


def _measure_over_sockets(rounds: int) -> Iterator[Row]:
    options = []
    for number in range(2):
        options += ["-netdev", f"cable,id=net{number},cable=c0", "-device"]
        where = f"attach.type=vhost-user,attach.path=@/nic{number}.sock"
        options.append(f"virtio-net,id=nic{number},netdev=net{number},{where}")
    with VnicProcess(*options) as vnic, ExitStack() as stack:
        paths = [str(vnic.folder / f"nic{number}.sock") for number in range(2)]
        far = Guest(paths[1])
        stack.callback(far.close)
        near = Guest(paths[0])
        far.wait_told()
        far.look(up=True)
        near.client.config_changes()
        here: list[float] = []
        there: list[float] = []
        try:
            for change in range(rounds * CHANGES_PER_ROUND):
                to_near, to_far = _one_change(vnic, near, far, up=bool(change % 2))
                here.append(to_near)
                there.append(to_far)
        finally:
            near.close()
        gone, back = [], []
        far.wait_told()
        far.look(up=False)
        for _ in range(rounds * LOSSES_PER_ROUND):
            lost, returned = _one_loss(vnic, paths[0], far)
            gone.append(lost)
            back.append(returned)
    yield row("QMP → interrupt at nic0", "µs", here, METHOD)
    yield row("QMP → interrupt at nic1", "µs", there, METHOD)
    loss = "the same NICs; the VM at nic0 closes its socket, as a killed one does → CONFIG_CHANGE at nic1"
    yield row("VM at nic0 gone → interrupt at nic1", "µs", gone, loss, "at most 50 000")
    yield row("VM at nic0 starts → interrupt at nic1", "µs", back, "from the start of its handshake")


def _one_change(vnic: VnicProcess, near: Guest, far: Guest, up: bool) -> tuple[float, float]:
    """Both latencies of one change, in µs. The far driver is waited for first, since this process has one thread."""
    word = "true" if up else "false"
    request = b'{"execute":"set_link","arguments":{"name":"nic0","up":' + word.encode() + b"}}\n"
    time.sleep(PAUSE_S)
    near_told, far_told = near.client.requests, far.client.requests
    assert near_told is not None
    assert far_told is not None
    started = time.perf_counter()
    vnic.qmp.send(request)
    arrived: dict[object, float] = {}
    while len(arrived) < 2:
        waiting = [each for each in (near_told, far_told) if each not in arrived]
        readable = select.select(waiting, [], [], TIMEOUT_S)[0]
        if not readable:
            raise Missing(f"a CONFIG_CHANGE did not come within {TIMEOUT_S:g} s")
        now = time.perf_counter()
        arrived.update(dict.fromkeys(readable, now))
    vnic.reply()
    near.look(up)
    far.look(up)
    return (arrived[near_told] - started) * 1e6, (arrived[far_told] - started) * 1e6


def _one_loss(vnic: VnicProcess, path: str, far: Guest) -> tuple[float, float]:
    """How long the far driver needs to be told of a VM that goes, and of one that comes, in µs."""
    started = time.perf_counter()
    near = Guest(path)
    try:
        returned = far.wait_told() - started
        far.look(up=True)
    finally:
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        near.client.wire.close()
    lost = far.wait_told() - started
    far.look(up=False)
    near.close()
    return lost * 1e6, returned * 1e6
