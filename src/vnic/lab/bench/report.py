"""Rows of figures with their method, printed one by one, or as JSON at the end.

The measures make rows; `vnic bench` prints them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


class Missing(Exception):
    """This machine lacks what a measure needs; the text says what."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number: the median of `samples`, and where they lie."""

    what: str
    unit: str
    median: float
    low: float
    """The 5th percentile (of few samples: the least)."""
    high: float
    """The 99th percentile (of few samples: the most)."""
    samples: int
    method: str
    target: str = ""


def row(
    what: str, unit: str, samples: Sequence[float], method: str, target: str = "", digits: int = 1
) -> Row:
    """Sum up `samples`."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Row(
        what,
        unit,
        round(statistics.median(ordered), digits),
        round(ordered[int(last * 0.05)], digits),
        round(ordered[-(-last * 99 // 100)], digits),
        len(ordered),
        method,
        target,
    )


class Report:
    """Prints rows; keeps them where JSON is wanted."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._rows: list[dict[str, object]] = []
        self._failed = False
        self._method = ""
        if not as_json:
            print(f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()},", end=" ")
            print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")

    def start(self, name: str, text: str) -> None:
        if not self._json:
            print(f"\n{name}: {text}", flush=True)

    def add(self, row: Row) -> None:
        self._rows.append(asdict(row))
        if self._json:
            return
        if row.method != self._method:
            self._method = row.method
            print(f"  ({row.method})")
        target = f"   (aim: {row.target})" if row.target else ""
        spread = f"{_figure(row.low)} … {_figure(row.high)}"
        print(
            f"    {row.what:40} {_figure(row.median):>11} {row.unit:4} {spread}, n={row.samples}{target}",
            flush=True,
        )

    def missing(self, name: str, text: str) -> None:
        self._failed = True
        print(f"vnic: bench {name}: not measured: {text}", file=sys.stderr)

    def finish(self) -> int:
        """The exit code."""
        if self._json:
            print(json.dumps(self._rows, indent=1))
        return int(self._failed)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
