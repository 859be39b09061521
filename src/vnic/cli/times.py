"""Lengths of time as the verbs take them: `200ms`, `2s`, `1.5m`, `1h`, or seconds without a unit."""

from __future__ import annotations

import argparse
import re

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_MS = {"ms": 1, "s": 1000, "": 1000, "m": 60_000, "h": 3_600_000}
DAY_MS = 24 * 3_600_000


def milliseconds(text: str) -> int:
    """From 1 ms to a day; argparse's error for anything else."""
    found = _TIME.fullmatch(text)
    value = round(float(found[1]) * _MS[found[2]]) if found is not None else 0
    if not 1 <= value <= DAY_MS:
        raise argparse.ArgumentTypeError(f"'{text}' is no time from 1ms to 24h (as 200ms, 2s, 1.5m, 1h)")
    return value
