"""Two DPDK drivers joined by vnic-wire, beside the same two joined by testpmd, which forwards between two back-ends.

`vnic bench wire-dpdk` runs it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vnic.lab.bench.native import two_cpus
from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.bench.testpmd import Testpmd
from vnic.lab.bench.through import children, pin

SIZES: Final = (64, 1514)
RING_SIZE: Final = 1024
BURSTS: Final = 16
"""Of 32 packets, which circle in each direction: they fit into every ring, so that none is lost."""
WARM_UP_S: Final = 0.5
SECONDS: Final = 2.0

METHOD = (
    f"one testpmd with two net_virtio_user drivers, rings of {RING_SIZE}, on one CPU; {32 * BURSTS} packets a direction"
    " go from driver to driver and are sent back by the other (forward-mode io, with retry), so that none is lost and"
    " neither driver touches one. The drivers are joined, by turns, on another CPU by vnic-wire (vnic run: two NICs on"
    " a hub of two) and by a testpmd that forwards between two net_vhost ports; packets received by both, over"
    f" {SECONDS:g} s. All poll: a machine with other work shows little"
)


def measure(rounds: int) -> Iterator[Row]:
    for size in SIZES:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(_by_vnic(size))
            theirs.append(_by_testpmd(size))
        yield row(f"{size} bytes: vnic-wire", "Mpps", [pps / 1e6 for pps in ours], METHOD, digits=2)
        yield row(f"{size} bytes: testpmd", "Mpps", [pps / 1e6 for pps in theirs], METHOD, digits=2)
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        yield row(f"{size} bytes: vnic-wire / testpmd", "x", ratios, METHOD, "at least 1.0", digits=2)


def _by_vnic(size: int) -> float:
    moved, _ = two_cpus()
    options: list[str] = []
    for index in range(2):
        attach = f"attach.type=vhost-user,attach.path=@/nic{index}.sock"
        options += ["-netdev", f"hubport,id=hub{index},hubid=0"]
        options += ["-device", f"virtio-net,id=nic{index},netdev=hub{index},{attach}"]
    with VnicProcess(*options) as vnic:
        paths = [str(vnic.folder / f"nic{index}.sock") for index in range(2)]
        with _drivers(paths) as drivers:
            vnic.wait_on_the_wire("nic0", "nic1")
            for pid in children(vnic.process.pid):
                pin(pid, moved)
            return _rate(drivers, size)


def _by_testpmd(size: int) -> float:
    moved, _ = two_cpus()
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        paths = [str(Path(folder) / f"{index}.sock") for index in range(2)]
        first, second = (f"net_vhost{index},iface={path},queues=1" for index, path in enumerate(paths))
        with Testpmd(first, cpu=moved, more=[second]) as forwarder, _drivers(paths) as drivers:
            _forward(forwarder, "start")
            return _rate(drivers, size)


@contextlib.contextmanager
def _drivers(paths: list[str]) -> Iterator[Testpmd]:
    _, load = two_cpus()
    first, second = (
        f"net_virtio_user{index},path={path},queues=1,queue_size={RING_SIZE}"
        for index, path in enumerate(paths)
    )
    with Testpmd(first, cpu=load, more=[second]) as drivers:
        yield drivers


def _forward(testpmd: Testpmd, start: str) -> None:
    """Start forwarding between its two ports; a packet waits where there is no room for it."""
    testpmd.command("set fwd io retry")
    testpmd.command("set burst tx delay 0 retry 100000000")
    testpmd.command(start)


def _rate(drivers: Testpmd, size: int) -> float:
    """Packets per second that the two receive."""
    drivers.command(f"set txpkts {size}")
    _forward(drivers, f"start tx_first {BURSTS}")
    time.sleep(WARM_UP_S)
    before, began = _received(drivers), time.perf_counter()
    time.sleep(SECONDS)
    after, ended = _received(drivers), time.perf_counter()
    for port in range(2):
        if after[port] == before[port]:
            raise Missing(f"no packets of {size} bytes come to driver {port}")
    return (sum(after) - sum(before)) / (ended - began)


def _received(drivers: Testpmd) -> list[int]:
    return [drivers.statistics(port)["RX-packets"] for port in range(2)]
