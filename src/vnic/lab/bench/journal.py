"""The journal's file: how much a SIGKILL loses, how fast it is written, and how fast a query reaches back.

`vnic bench journal` runs it."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vnic.lab.bench.process import environment_of_this
from vnic.lab.bench.report import Missing, Row, row
from vnic.net.journal import Entry, JournalQuery
from vnic.net.records import VNIC, Cause, LinkChange
from vnic.state.database import Bounds, Database
from vnic.state.reader import read

RECORDS = 1_000_000
BATCH = 1000
NICS = 10
KILLS_PER_ROUND = 3
NOW = 1_796_000_000.0

QUERIES = {
    "the last 50 of a NIC": JournalQuery(name="nic3", limit=50),
    "100 of a NIC from one hour on, 11 days back": JournalQuery(
        name="nic3", since=NOW + 1000, until=NOW + 4600, limit=100
    ),
    "the 10 by an operator among a million": JournalQuery(cause="operator", limit=50),
    "the same of one NIC": JournalQuery(cause="operator", name="nic0", limit=50),
    "a NIC that is not in it": JournalQuery(name="nic-x", limit=50),
    "1000 after the id 500 000": JournalQuery(after_id=500_000, limit=1000),
}


def measure(rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="vnic-bench-") as folder:
        lost = [_lost_ms(Path(folder, f"{number}.db")) for number in range(rounds * KILLS_PER_ROUND)]
        method = "10 000 changes a second, SIGKILL at a random time: from the last record in the file to the last made"
        yield row("lost by SIGKILL", "ms", lost, method, "at most 100")
        path = Path(folder, "million.db")
        yield _fill(path)
        for what, query in QUERIES.items():
            took = []
            for _ in range(rounds):
                began = time.perf_counter()
                read(path, query, "boot")
                took.append((time.perf_counter() - began) * 1e3)
            yield row(
                what, "ms", took, "opened, read and decoded; of a million changes", "at most 100", digits=2
            )


def _fill(path: Path) -> Row:
    """Write a million changes of NICs that flap every second."""
    samples = []
    database = Database(path, Bounds(RECORDS * 2, 1e12), "boot")
    with contextlib.closing(database):
        for first in range(1, RECORDS + 1, BATCH):
            entries: list[Entry] = [_change(number) for number in range(first, first + BATCH)]
            began = time.perf_counter()
            database.write(entries, first)
            samples.append((time.perf_counter() - began) / BATCH * 1e6)
            database.checkpoint()
    return row("write", "µs/record", samples, f"transactions of {BATCH}, without their checkpoints")


def _change(number: int) -> LinkChange:
    kind = "operator" if number % (RECORDS // 10) == 0 else "disconnected"
    cause = Cause(kind, VNIC, "peer closed the connection; listening on unix:net0.sock")
    change = LinkChange(
        number,
        f"nic{number % NICS}",
        "nic",
        "up" if number % 2 else "down",
        cause,
        NOW + number,
        number * 1_000_000,
    )
    change.notified_us, change.interrupt_us, change.seen_us, change.seen_latency_us = 12, 45, 412, 412
    return change


def _lost_ms(path: Path) -> float:
    """Of one program that is killed while it writes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vnic.lab.bench.flood", str(path)],
        env=environment_of_this(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as told:
        line = told.readline()
        if not line:
            raise Missing("the program that writes a journal did not start")
        time.sleep(random.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        line = told.read().rpartition("\n")[0].rpartition("\n")[2] or line
    process.wait()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise Missing("the file is not sound after a SIGKILL")
        [kept] = connection.execute("SELECT coalesce(max(time), 0) FROM records").fetchone()
    return max(0.0, float(line.split()[1]) - float(kept)) * 1e3
