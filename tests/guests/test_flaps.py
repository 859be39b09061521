"""10 000 flaps as fast as QMP takes them: the guest ends in the right state, and vnic's memory does not grow."""

from __future__ import annotations

import pytest
from tests.guests.lab import ECHO, Vnic, nic, uml, vnic_run

FLAPS = 10_000
WARM_UP = 9_000  # until the journal is full: 4096 records of two clients
BATCH = 100
GROWTH_KIB = 1024


def flap(running: Vnic, changes: int, last: bool, name: str) -> None:
    """`changes` set_links, up and down by turns, the last of them `last`; a batch is on its way at any time."""
    for start in range(0, changes, BATCH):
        count = min(BATCH, changes - start)
        for index in range(start, start + count):
            running.qmp.send("set_link", name=name, up=((changes - index) % 2 == 1) is last)
        for _ in range(count):
            running.qmp.reply()
        running.qmp.events.clear()


@pytest.mark.timeout(600)
def test_ten_thousand_flaps_leak_nothing() -> None:
    with vnic_run("-name", "flaps", *ECHO, *nic("nic0")) as running, uml(running, "nic0") as guest:
        guest.set_address("10.0.2.15/24")
        flap(running, WARM_UP, True, "net0")
        before = running.rss_kib()
        changes = running.qmp.link("nic0")["carrier-changes"]
        flap(running, FLAPS - 1, False, "nic0")
        assert running.qmp.link("nic0")["carrier-changes"] - changes == FLAPS - 1
        assert guest.wait_carrier(False)
        assert running.qmp.link("nic0")["guest"]["seen"] == "down"
        flap(running, FLAPS, True, "nic0")
        assert guest.wait_carrier(True)
        assert running.qmp.link("nic0")["guest"]["seen"] == "up"
        assert running.rss_kib() - before < GROWTH_KIB
        assert guest.ping("10.0.2.2") is not None
