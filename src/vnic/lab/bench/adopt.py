"""What adoption adds: how long vnic takes until a hundred VMs are adopted, and until a set_link has reached their QEMU.

`vnic bench adopt` runs it, with played QEMUs in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import cast

from vnic.lab.bench.process import VnicProcess
from vnic.lab.bench.report import Missing, Row, row
from vnic.lab.played.qemu import PlayedNic, PlayedQemu

VMS = 100
CHANGES_PER_ROUND = 100
PAUSE_S = 0.001
WAIT_S = 30.0

START = f"`vnic run` with {VMS} -object qemu started → all NICs are in query-links, asked every 10 ms"
CHANGE = (
    "QMP request to vnic written → set_link read by a played QEMU in this process: what vnic adds to QEMU's own time;"
    f" {VMS} VMs, one after another, {PAUSE_S * 1000:g} ms between changes"
)


class _TimedNic(PlayedNic):
    """Says when set_link came."""

    arrivals: queue.SimpleQueue[float]

    def set_link(self, up: bool) -> None:
        self.arrivals.put(time.perf_counter())
        super().set_link(up)


def measure(rounds: int) -> Iterator[Row]:
    with _qemus() as (options, arrivals):
        starts = []
        for _ in range(rounds):
            started = time.perf_counter()
            with VnicProcess(*options) as vnic:
                _all_there(vnic)
                starts.append(time.perf_counter() - started)
        yield row("start with 100 adopted VMs", "s", starts, START, "median at most 2")
        with VnicProcess(*options) as vnic:
            _all_there(vnic)
            changes = [
                _change(vnic, arrivals, number % VMS, up=bool(number // VMS % 2))
                for number in range(rounds * CHANGES_PER_ROUND)
            ]
    yield row("set_link → set_link at QEMU", "µs", changes, CHANGE, "median at most 1000")


def _all_there(vnic: VnicProcess) -> None:
    end = time.monotonic() + WAIT_S
    while len(cast(dict[str, list[object]], vnic.execute("query-links"))["return"]) < VMS:
        if time.monotonic() > end:
            raise Missing("the VMs are not adopted")
        time.sleep(0.01)


def _change(vnic: VnicProcess, arrivals: queue.SimpleQueue[float], vm: int, *, up: bool) -> float:
    """In µs."""
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    vnic.execute("set_link", name=f"vm{vm}/net0", up=up)
    try:
        return (arrivals.get(timeout=WAIT_S) - started) * 1e6
    except queue.Empty:
        raise Missing("a set_link did not reach its QEMU") from None


@contextlib.contextmanager
def _qemus() -> Iterator[tuple[list[str], queue.SimpleQueue[float]]]:
    """The options that adopt them, and when each set_link came."""
    arrivals: queue.SimpleQueue[float] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="qemus", daemon=True)
    thread.start()
    qemus, options = [], []
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        for number in range(VMS):
            nic = _TimedNic("net0", mac=f"52:54:00:aa:00:{number:02x}")
            nic.arrivals = arrivals
            qemus.append(PlayedQemu(f"{folder}/{number}.qmp", nic))
            options += ["-object", f"qemu,id=vm{number},qmp={qemus[-1].path}"]
        try:
            for qemu in qemus:
                asyncio.run_coroutine_threadsafe(qemu.start(), loop).result(WAIT_S)
            yield options, arrivals
        finally:
            for qemu in qemus:
                loop.call_soon_threadsafe(qemu.kill)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(WAIT_S)
            loop.close()
