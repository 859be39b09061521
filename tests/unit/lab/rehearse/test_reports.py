"""What a rehearsal is printed as: medians, failures, CSV, JUnit's XML, SVG, JSON."""

from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import msgspec
import pytest

from vnic.lab.rehearse import report, summary
from vnic.lab.rehearse.picture import svg
from vnic.lab.rehearse.records import (
    Direction,
    Event,
    EventWord,
    NicSteps,
    PathUse,
    Point,
    Rehearsal,
    Run,
)

SVG = "{http://www.w3.org/2000/svg}"


def direction(source: str, target: str, outage: float, *, converged: bool = True) -> Direction:
    return Direction(
        source=source,
        target=target,
        converged=converged,
        outage_ms=outage,
        outage_from_ms=-1.0,
        outage_to_ms=outage - 1 if converged else None,
        old_path="a & b",
        new_path="c",
        last_old_ms=-1.0,
        first_new_ms=outage - 1 if converged else None,
        sent=1000,
        lost=int(outage),
        reordered=0,
        doubled=0,
        lost_at={"h1": int(outage)},
        pause_ms=3.0,
        paths=[
            PathUse(path="a & b", first_ms=-1, last_ms=-1, probes=1),
            PathUse(path="c", first_ms=outage - 1, last_ms=900, probes=9),
        ],
    )


def event(word: EventWord, *outages: float, converged: bool = True) -> Event:
    pairs = [("h1", "h2"), ("h2", "h1")]
    return Event(
        event=word,
        time=1000.5,
        change_id=7,
        cause="set_link <a> off",
        nics=[
            NicSteps(nic="h1.eth1", link=word, change_ms=0.0, interrupt_ms=0.2, seen_ms=1.5),
            NicSteps(nic="h2.eth1", link=word, change_ms=0.1, interrupt_ms=0.3, seen_ms=2.5),
        ],
        directions=[
            direction(*pair, outage, converged=converged) for pair, outage in zip(pairs, outages, strict=True)
        ],
    )


@pytest.fixture
def found() -> Rehearsal:
    runs = [
        Run(number=1, events=[event("down", 50.0, 60.0), event("up", 0.0, 0.0)]),
        Run(number=2, events=[event("down", 90.0, 61.0, converged=False), event("up", 2.0, 0.0)]),
        Run(number=3, events=[event("down", 70.0, 101.0), event("up", 0.0, 0.0)]),
    ]
    points = [Point(node="h1", address="10.0.0.1"), Point(node="h2", address="10.0.0.2")]
    return Rehearsal(
        lab="x",
        fail=["h1:eth1"],
        how="pull",
        between=points,
        interval_ms=1.0,
        settle_ms=1000,
        max_outage_ms=100.0,
        runs=runs,
        summary=summary.summarize(runs),
        failures=summary.failures(runs, 100.0),
    )


def test_medians_are_by_event_and_direction(found: Rehearsal) -> None:
    first = found.summary[0]
    assert [(each.event, each.source) for each in found.summary] == [
        ("down", "h1"),
        ("down", "h2"),
        ("up", "h1"),
        ("up", "h2"),
    ]
    assert (first.outage_ms.median, first.outage_ms.least, first.outage_ms.most) == (70.0, 50.0, 90.0)
    assert first.seen_ms is not None
    assert first.seen_ms.median == 2.5
    assert first.interrupt_ms is not None
    assert first.interrupt_ms.median == 0.2
    assert first.first_new_ms is not None
    assert first.first_new_ms.median == 59.0


def test_what_is_too_long_or_does_not_end_is_a_failure(found: Rehearsal) -> None:
    assert found.failures == [
        "run 2, down: h1 → h2: no way around was found, out for 90.0 ms by then",
        "run 2, down: h2 → h1: no way around was found, out for 61.0 ms by then",
        "run 3, down: h2 → h1: out for 101.0 ms, more than 100 ms, of which its sender stood still for 3.0 ms",
    ]
    assert len(summary.failures(found.runs, None)) == 2


def test_csv_has_a_line_for_each_run_event_and_direction(found: Rehearsal) -> None:
    rows = list(csv.DictReader(io.StringIO(report.csv_text(found))))
    assert len(rows) == 12
    assert rows[0]["outage_ms"] == "50.0"
    assert rows[4]["first_new_ms"] == ""
    assert (rows[4]["converged"], rows[4]["old_path"]) == ("0", "a & b")


def test_junit_counts_its_failures(found: Rehearsal) -> None:
    suite = ElementTree.fromstring(report.junit(found))
    assert (suite.get("tests"), suite.get("failures")) == ("12", "3")
    failed = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed][-1] == "run 3: h1:eth1 down, h2 → h1"
    assert failed[0].get("time") == "0.090000"


def test_the_picture_is_xml_and_has_a_row_for_each_direction(found: Rehearsal) -> None:
    drawing = ElementTree.fromstring(svg(found))
    texts = [text.text or "" for text in drawing.iter(f"{SVG}text")]
    assert sum(text.startswith("run ") for text in texts) == 12
    assert "by a & b" in texts
    assert any("not over" in text for text in texts)


def test_a_picture_of_no_runs_and_of_no_outages(found: Rehearsal) -> None:
    found.runs = []
    ElementTree.fromstring(svg(found))
    found.runs = [Run(number=1, events=[event("up", 0.0, 0.0)])]
    found.max_outage_ms = None
    ElementTree.fromstring(svg(found))


def test_json_is_read_back(found: Rehearsal) -> None:
    text = msgspec.json.encode(found)
    assert msgspec.json.decode(text, type=Rehearsal) == found
    assert b'"from":"h1","to":"h2"' in text


def test_tables_name_the_paths(found: Rehearsal, capsys: pytest.CaptureFixture[str]) -> None:
    report.print_rehearsal(found)
    printed = capsys.readouterr().out
    assert "2\tdown\t0.20 ms\t2.50 ms\th1 → h2\t90.0 ms, not over\t-1.00 ms\t-\t90\t0\t0\tc\n" in printed
    assert "down\th1 → h2\t70.0 ms\t50.0 ms\t90.0 ms\t59.0 ms\t0.20 ms\t2.50 ms\t70\n" in printed
    assert report.progress(found.runs[0], 3).startswith("run 1 of 3: down: h1 → h2 50.0 ms, h2 → h1 60.0 ms;")
