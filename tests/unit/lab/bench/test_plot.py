"""The plots and the table of vnic bench's results: what is drawn of which rows, as well-formed SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from vnic.lab.bench.plot import MET, MISSED, plots, table

SVG = "{http://www.w3.org/2000/svg}"


def result(what: str, median: float, unit: str, target: str = "") -> dict[str, object]:
    return {"what": what, "median": median, "unit": unit, "target": target}


def test_growth_has_a_point_for_each_number_of_nics() -> None:
    sizes = ("10 NICs", "100 NICs", "10000 NICs of 6 vnics")
    made = plots([result(f"{size}: memory of each", 40.0, "KiB") for size in sizes])
    assert list(made) == ["wire-scale-memory.svg"]
    drawing = ElementTree.fromstring(made["wire-scale-memory.svg"])
    across = [float(circle.attrib["cx"]) for circle in drawing.iter(f"{SVG}circle")]
    assert len(across) == 3
    assert across[2] - across[1] == pytest.approx(2 * (across[1] - across[0]), abs=0.2)  # decades


def test_a_ratio_is_green_on_the_right_side_of_its_aim() -> None:
    rows = [
        result("rate", 1.5, "x", "at least 1.0"),
        result("rate <&>", 0.5, "x", "at least 1.0"),
        result("ping", 0.9, "x", "at most 1.0"),
        result("ping", 1.1, "x", "at most 1.0"),
        result("without an aim", 1.1, "x"),
    ]
    drawing = ElementTree.fromstring(plots(rows)["ratios.svg"])
    colours = [rect.attrib["fill"] for rect in drawing.iter(f"{SVG}rect")][1:]  # the first is the background
    assert colours == [MET, MISSED, MET, MISSED]
    assert "rate <&>" in [text.text for text in drawing.iter(f"{SVG}text")]


def test_rows_without_a_plot_are_left_out() -> None:
    assert plots([result("set_link", 90.0, "µs")]) == {}


def test_the_table_has_a_line_for_each_row() -> None:
    row = {**result("64 bytes", 31.5, "M/s", "at least 15"), "low": 25.7, "high": 35.0, "samples": 3}
    assert table([row]).splitlines()[2:] == ["| 64 bytes | 31.5 M/s | 25.7 … 35 | 3 | at least 15 |"]
