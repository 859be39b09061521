"""What the page's modules compute, in the browser that runs them: times as the verbs print them, places, gaps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.browser.chromium import Window
from tests.browser.vnic_page import page_of
from tests.integration.process import new_place

from vnic.cli.show import duration

BOX = {"width": 110, "height": 46}
RING = [[at, (at + 1) % 12] for at in range(12)]
STAR = [[0, at] for at in range(1, 30)]
PAIRS = [[2 * at, 2 * at + 1] for at in range(40)]
CHAIN = [[at, at + 1] for at in range(199)]


@pytest.fixture(scope="module")
def opened(window: Window) -> Iterator[str]:
    with new_place() as place, page_of(place, "-netdev", "echo,id=net0") as page:
        yield page.url


def test_times_are_written_as_the_verbs_write_them(window: Window, opened: str) -> None:
    window.open(opened)
    seconds = [0, 1e-6, 0.000412, 0.00099, 0.0032, 0.25, 0.9, 4.04, 59.2, 61, 3599, 3601, 90000, 8e6]
    script = 'const { duration } = await import("/static/format.js"); return given[0].map(duration)'
    assert window.run(script, seconds) == [duration(each) for each in seconds]


@pytest.mark.parametrize(("count", "edges"), [(12, RING), (30, STAR), (80, PAIRS), (200, CHAIN), (1, [])])
def test_boxes_do_not_overlap_and_get_the_same_places_again(
    window: Window, opened: str, count: int, edges: list[list[int]]
) -> None:
    window.open(opened)
    script = (
        'const { layout } = await import("/static/layout.js");'
        "return [0, 1].map(() => layout(given[0], given[1]))"
    )
    first, second = window.run(script, [BOX] * count, edges)
    assert first == second
    places = [(each["x"], each["y"]) for each in first]
    assert len(places) == count
    for at, (x, y) in enumerate(places):
        for other_x, other_y in places[:at]:
            assert abs(x - other_x) >= BOX["width"] or abs(y - other_y) >= BOX["height"]


def test_a_time_in_which_vnic_did_not_run_is_a_gap(window: Window, opened: str) -> None:
    window.open(opened)
    records = [
        {"id": 1, "kind": "start", "time": 10},
        {"id": 2, "kind": "link", "time": 20},
        {"id": 3, "kind": "start", "time": 50, "details": {"previous-time": 30}},
        {"id": 4, "kind": "restart", "time": 70, "details": {"away-ms": 500}},
        {"id": 5, "kind": "lost", "time": 90, "text": "5 records could not be stored"},
    ]
    gaps = window.run('const { gapsOf } = await import("/static/spans.js"); return gapsOf(given[0])', records)
    assert [(each["from"], each["to"], each["soft"]) for each in gaps] == [
        (30, 50, False),
        (69.5, 70, True),
        (70, 90, False),
    ]


def test_an_adopted_vm_is_one_box_and_leads_to_its_own_netdev(window: Window, opened: str) -> None:
    window.open(opened)
    script = (
        'const { graphOf } = await import("/static/network.js");'
        "const key = (each) => `${each.type}:${each.name}`;"
        "const clients = new Map(given[0].map((each) => [key(each), each]));"
        "const links = new Map(given[0].map((each) => [key(each), { ...each, vm: { netdev: 'hub0' } }]));"
        "return graphOf({ clients, hubs: [], link: (key) => links.get(key) })"
    )
    nics = [{"name": f"vm1/net{at}", "type": "nic", "model": "e1000", "info": [""]} for at in range(2)]
    graph = window.run(script, nics)
    assert [(each["kind"], each["title"], each["text"]) for each in graph["nodes"]] == [
        ("vm", "vm1", "2 NICs, e1000"),
        ("netdev", "hub0", "of the VM itself"),
        ("netdev", "hub0", "of the VM itself"),
    ]
    ends = [[end and (end["node"], end.get("pull")) for end in edge["ends"]] for edge in graph["edges"]]
    assert ends == [[("vm vm1", name), (f"own {name}", None)] for name in ("vm1/net0", "vm1/net1")]
