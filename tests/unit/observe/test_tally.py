"""Changes by cause and seen latencies, counted from the network's events."""

from __future__ import annotations

from vnic.net.records import Cause, LinkChanged, LinkSeen
from vnic.observe.tally import BUCKETS_S, Tally


def changed(name: str, link: str, kind: str) -> LinkChanged:
    return LinkChanged(name, link, 1, Cause(kind, "test", "text"))  # type: ignore[arg-type]


def test_changes_by_cause() -> None:
    tally = Tally()
    for link in ("down", "up", "down"):
        tally.heard("LINK_CHANGED", changed("nic0", link, "operator"))
    tally.heard("LINK_CHANGED", changed("nic0", "up", "disconnected"))
    tally.heard("STOP", {})
    assert tally.changes["nic0"] == {
        ("operator", "down"): 2,
        ("operator", "up"): 1,
        ("disconnected", "up"): 1,
    }


def test_latencies_fall_into_their_buckets() -> None:
    tally = Tally()
    for latency_us in (1, 100, 101, 10_000_000):
        tally.heard("LINK_SEEN", LinkSeen("nic0", "up", 1, latency_us))
    counts = tally.latencies["nic0"].counts
    assert counts[:2] == [2, 1], "a bound belongs to its bucket"
    assert counts[-1] == 1
    assert len(counts) == len(BUCKETS_S) + 1
    assert round(tally.latencies["nic0"].sum_s, 6) == 10.000202


def test_deleted_nics_are_forgotten() -> None:
    tally = Tally()
    for number in range(1000):
        tally.heard("LINK_CHANGED", changed(f"nic{number}", "up", "operator"))
        tally.heard("LINK_SEEN", LinkSeen(f"nic{number}", "up", 1, 1))
        tally.keep_only({f"nic{number}"})
    assert list(tally.changes) == list(tally.latencies) == ["nic999"]
