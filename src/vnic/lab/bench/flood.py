"""A program that writes a journal until it is killed: `python -m vnic.lab.bench.flood PATH`.

It prints the id and the time of each batch's last record, so that what was lost can be told. `vnic bench journal` and a
test kill it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from vnic.net.clock import Clock
from vnic.net.journal import Journal
from vnic.net.records import VNIC, Cause
from vnic.state.database import Bounds
from vnic.state.writer import JournalWriter

BATCH = 100
PAUSE_S = 0.01
"""10 000 changes a second."""


async def flood(path: Path) -> None:
    loop = asyncio.get_running_loop()
    clock = Clock()
    journal = Journal(clock)
    writer = JournalWriter(loop, path, Bounds(20_000, 1e12), "boot", overtaken=journal.skip_to)
    next_id = await writer.start(60)
    assert next_id is not None
    writer.expect(next_id)
    journal.keep_in(writer, next_id)
    while True:
        for _ in range(BATCH):
            change = journal.record("nic0", "nic", "down", Cause("operator", VNIC, "a change of many"))
            change.notified_us = 12
            journal.update(change)
            change.seen_us = 412
            journal.update(change)
        print(change.id, change.time, flush=True)
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(flood(Path(sys.argv[1])))
