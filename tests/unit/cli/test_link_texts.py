"""What `vnic link` and `vnic why` say of a link, from entries as query-links and query-link-log give them."""

from __future__ import annotations

from typing import Any

import pytest

from vnic.cli.changes import history, steps_text
from vnic.cli.link_table import in_wires, row
from vnic.cli.seen import has_seen, why_not_seen
from vnic.cli.show import Now
from vnic.cli.watch import line
from vnic.cli.why import describe, guest_text

NOW = 1_700_000_000.0
CLOCKS = Now(wall=NOW, monotonic=1000.0)


def nic(**changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": "nic0",
        "type": "nic",
        "model": "virtio-net",
        "link": "up",
        "operstate": "up",
        "holds": [],
        "peer": "net0",
        "mac": "52:54:00:12:34:56",
        "carrier-changes": 3,
        "carrier-up-changes": 1,
        "carrier-down-changes": 2,
        "last-change": change(),
        "guest": {"attached": True, "driver-ok": True, "seen": "up", "seen-latency-us": 412},
    }
    return {**entry, **changes}


def change(**changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": 7,
        "name": "nic0",
        "type": "nic",
        "link": "up",
        "cause": {"kind": "operator", "by": "QMP client a[1]", "text": "set_link nic0 on"},
        "time": NOW - 60,
        "monotonic-us": 1,
        "notified-us": 3,
        "interrupt-us": 45,
        "seen-us": 412,
        "seen-latency-us": 412,
    }
    return {**entry, **changes}


def guest(**changes: Any) -> dict[str, Any]:
    return {"attached": True, "driver-ok": True, "seen": "up", **changes}


def by_socket(**changes: Any) -> dict[str, Any]:
    return guest(seen="unknown", **{"link-shown-by": "socket", **changes})


HOLD = {
    "client": "net0",
    "kind": "disconnected",
    "by": "net0",
    "text": "no peer yet",
    "since": NOW - 300,
    "monotonic-us": 700_000_000,
}


def test_table_rows_show_all_states() -> None:
    assert row(nic()) == ("nic0", "nic", "virtio-net", "up", "up", "net0", "up", "3", "-")
    held = nic(link="down", operstate="lowerlayerdown", holds=[HOLD])
    assert row(held)[-1] == "net0 disconnected: no peer yet"
    assert row(nic(guest=guest(attached=False, seen="unknown")))[6] == "no guest"
    assert row(nic(guest=by_socket()))[6] == row(nic(guest=by_socket(attached=False)))[6] == "by socket"
    netdev = {key: value for key, value in nic(type="netdev", model="echo").items() if key != "peer"}
    assert row(netdev)[5:7] == ("-", "-")


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        (nic(), True),
        (nic(link="down"), False),
        (nic(guest=guest(seen="down")), False),
        (nic(guest=guest(seen="unknown")), False),
    ],
)
def test_has_seen_needs_a_read_after_the_change(entry: dict[str, Any], seen: bool) -> None:
    assert has_seen(entry, "up") is seen


def test_earlier_read_of_the_same_state_does_not_count() -> None:
    """Seen up, then down and up again in a hurry: the last change is not seen yet."""
    unseen = change()
    del unseen["seen-us"]
    assert not has_seen(nic(**{"last-change": unseen}), "up")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            nic(link="down", holds=[HOLD]),
            "nic0 is still down after 2 s, held by net0 disconnected: no peer yet",
        ),
        (nic(guest=guest(attached=False)), "nic0 is up, but after 2 s no guest is attached to see it"),
        (
            nic(guest=guest(**{"driver-ok": False})),
            "nic0 is up, but after 2 s the guest's driver has not started",
        ),
        (
            nic(guest=guest(seen="unknown")),
            "nic0 is up, but after 2 s the guest has not read its link at all",
        ),
        (nic(guest=guest(seen="down")), "nic0 is up, but after 2 s the guest has last read 'down'"),
        (
            nic(guest=by_socket(attached=False)),
            "nic0 is up; its guest sees that by its socket, which is there again, and cannot confirm it",
        ),
    ],
)
def test_why_not_seen(entry: dict[str, Any], text: str) -> None:
    assert why_not_seen(entry, "up", 2.0) == text


def test_describe() -> None:
    lines = list(
        describe(nic(link="down", holds=[HOLD], guest=guest(seen="down", **{"seen-latency-us": 412})), CLOCKS)
    )
    assert lines[0] == "nic0 is down   nic virtio-net, 52:54:00:12:34:56, wire nic0 ── net0"
    assert lines[1].startswith("  held by disconnected on net0: no peer yet (since ")
    assert lines[1].endswith(", 5 min ago)")
    assert lines[2:] == ["  guest: it saw down, 412 µs after the change"]
    unread = change()
    del unread["seen-us"], unread["seen-latency-us"]
    assert list(describe(nic(guest=guest(), **{"last-change": unread}), CLOCKS))[2:] == [
        "  guest: it has not seen this: it last read up before the change"
    ]
    assert list(describe(nic(), CLOCKS))[1] == "  nothing holds it down"


def test_guest_of_a_card_without_a_link_cannot_see_it() -> None:
    blind = nic(model="ne2k_pci", guest=guest(seen="unknown", **{"link-shown-by": "nothing"}))
    assert row(blind)[6] == "cannot see"
    assert (
        why_not_seen(blind, "up", 5)
        == "nic0 is up; a ne2k_pci shows no link, so that its guest cannot see it"
    )
    text = "attached; its card shows no link, so that it cannot see this; frames are dropped while it is down"
    assert guest_text(blind["guest"], "down") == text


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (guest(attached=False), "none is attached"),
        (guest(seen="unknown"), "attached, its driver runs but has not read the link yet"),
        (
            guest(seen="unknown", **{"driver-ok": False}),
            "attached, its driver does not run and has not read the link yet",
        ),
        (guest(), "it saw up"),
        (guest(**{"driver-ok": False}), "it saw up (its driver does not run now)"),
        (guest(seen="down"), "it has not seen this: it last read down"),
    ],
)
def test_guest_state_reads_as_a_sentence(view: dict[str, Any], text: str) -> None:
    assert guest_text(view, "up") == text


@pytest.mark.parametrize(
    ("attached", "link", "text"),
    [
        (True, "up", "attached; it sees the link by its socket only, and cannot confirm what it saw"),
        (False, "down", "its socket is closed: that is how it sees the link down, and it cannot confirm it"),
        (False, "up", "its socket is there again, as the link is up; it has not come back yet"),
    ],
)
def test_guest_shown_by_socket_reads_as_a_sentence(attached: bool, link: str, text: str) -> None:
    assert guest_text(by_socket(attached=attached), link) == text


def test_steps() -> None:
    assert (
        steps_text(change())
        == "device changed after 3 µs, guest interrupted after 45 µs, guest saw it after 412 µs"
    )
    assert steps_text({"id": 1}) == ""


def test_history_follows_causes_and_names_forgotten_ones() -> None:
    followed = change(id=9, **{"caused-by": 8})
    lost = change(id=5, **{"caused-by": 4})
    cause = change(id=8, name="net0")
    for each in (followed, lost, cause):
        for key in ("notified-us", "interrupt-us", "seen-us"):
            del each[key]
    lines = [text.strip() for text in history([lost, followed], {8: cause}, CLOCKS)]
    assert lines[1].startswith("#9 ")
    assert lines[2] == "follows from #8, net0 up, operator: set_link nic0 on (by QMP client a[1])"
    assert lines[4] == "follows from #4, which the journal has forgotten"
    assert list(history([], {}, CLOCKS)) == ["  no change is recorded"]


def test_a_circle_of_causes_ends() -> None:
    circle = {1: change(id=1, **{"caused-by": 2}), 2: change(id=2, **{"caused-by": 1})}
    assert len(list(history([circle[1]], circle, CLOCKS))) < 20


def test_events_as_lines() -> None:
    stamp = {"seconds": int(NOW), "microseconds": 0}
    data = {"name": "nic0", "link": "down", "id": 1, "cause": change()["cause"]}
    assert line({"event": "LINK_CHANGED", "timestamp": stamp, "data": data}).endswith(
        "  nic0 down  operator: set_link nic0 on (by QMP client a[1])"
    )
    seen = {"name": "nic0", "link": "down", "id": 1, "latency-us": 412}
    assert line({"event": "LINK_SEEN", "timestamp": stamp, "data": seen}).endswith(
        "  nic0 down  the guest saw it after 412 µs"
    )
    assert line({"event": "STOP", "timestamp": stamp}).endswith("  STOP")
    assert line({"event": "X", "timestamp": stamp, "data": {"a": "\x1b"}}).endswith('  X {"a": "\\u001b"}')


def test_a_netdev_that_is_added_again_keeps_its_row() -> None:
    def names(*links: dict[str, str]) -> list[str]:
        return [link["name"] for link in in_wires(list(links))]

    net0, net1 = ({"name": name, "type": "netdev"} for name in ("net0", "net1"))
    nic0, nic1 = ({"name": f"nic{n}", "type": "nic", "peer": f"net{n}"} for n in range(2))
    lone = {"name": "nic2", "type": "nic"}
    expected = ["nic0", "net0", "nic1", "net1", "nic2"]
    assert names(net0, net1, nic0, nic1, lone) == expected
    assert names(net1, nic0, nic1, lone, net0) == expected


def test_long_chain_of_causes_is_cut() -> None:
    causes = {number: change(id=number, **{"caused-by": number - 1}) for number in range(20, 100)}
    text = "\n".join(history([causes[99]], causes, CLOCKS))
    assert text.count("follows from") == 13
    assert text.endswith("follows from #86, and so on; --json has the whole chain")
