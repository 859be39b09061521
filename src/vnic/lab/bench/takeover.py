"""Throughput of a driver and a DPDK back-end through vnic's vhost-user netdev, beside the two joined directly.

`vnic bench takeover` runs it; both are testpmd processes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Row, row
from vnic.lab.bench.testpmd import Testpmd

WARM_UP_S = 0.5
INTERVAL_S = 2.0

METHOD = (
    "testpmd txonly on net_virtio_user (a guest's driver) → testpmd rxonly on net_vhost, 64-byte packets; through"
    f" vnic's NIC and vhost-user netdev, and joined directly, in turn; Rx-pps over {INTERVAL_S:g} s. Each testpmd"
    " polls a CPU of its own: on a machine with other work, only the ratio means something"
)


def measure(rounds: int) -> Iterator[Row]:
    direct, through = [], []
    for _ in range(rounds):
        direct.append(_direct())
        through.append(_through_vnic())
    yield row("direct", "Mpps", [pps / 1e6 for pps in direct], METHOD, digits=2)
    yield row("through vnic", "Mpps", [pps / 1e6 for pps in through], METHOD, digits=2)
    ratios = [ours / theirs for ours, theirs in zip(through, direct, strict=True)]
    yield row("through vnic / direct", "x", ratios, METHOD, "at least 0.95", digits=3)


def _direct() -> float:
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        path = str(Path(folder) / "direct.sock")
        return _rate(path, path)


def _through_vnic() -> float:
    arguments = (
        *(
            "-chardev",
            "socket,id=c0,path=@/c0.sock,reconnect-ms=20",
            "-netdev",
            "vhost-user,id=vu0,chardev=c0",
        ),
        *("-device", "virtio-net,id=nic0,netdev=vu0,attach.type=vhost-user,attach.path=@/nic0.sock"),
    )
    with VnicProcess(*arguments) as vnic:
        return _rate(str(vnic.folder / "c0.sock"), str(vnic.folder / "nic0.sock"), vnic)


def _rate(back_end_path: str, driver_path: str, vnic: VnicProcess | None = None) -> float:
    """Packets per second that arrive at the back-end."""
    with contextlib.ExitStack() as stack:
        back_end = stack.enter_context(
            Testpmd(f"net_vhost0,iface={back_end_path},queues=1", "--forward-mode=rxonly", cpu=1)
        )
        if vnic is not None:  # a driver that follows its socket is turned away while there is no back-end
            vnic.wait_link("nic0", up=True)
        driver = stack.enter_context(
            Testpmd(f"net_virtio_user0,path={driver_path},queues=1", "--forward-mode=txonly", cpu=0)
        )
        back_end.command("start")
        driver.command("start")
        time.sleep(WARM_UP_S)
        before, started = back_end.statistics()["RX-packets"], time.perf_counter()
        time.sleep(INTERVAL_S)
        after, ended = back_end.statistics()["RX-packets"], time.perf_counter()
        return (after - before) / (ended - started)
