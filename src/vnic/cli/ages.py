"""Ages and points in time as people write them: `90d`, `2h`, `03:12`, `yesterday 03:12`, `2026-11-30 03:12:44`.

`-journal max-age=`, `vnic log --since` and `vnic why --at` take them.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d|w)", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
AGE_MAX_S: Final = 100 * 366 * 86400.0

_MOMENT: Final = re.compile(
    r"(?:(?P<date>\d{4}-\d{2}-\d{2}|today|yesterday)(?:[T ](?=\d)|$))?"
    r"(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?",
    re.ASCII,
)


def age_seconds(text: str) -> float:
    """The seconds of `90d`; units are s, m or min, h, d, w. ValueError for anything else."""
    found = _AGE.fullmatch(text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found is not None else 0.0
    if not 0 < seconds <= AGE_MAX_S:
        raise ValueError(f"'{text}' is no length of time (as 30m, 12h, 90d, 8w)")
    return seconds


def moment(text: str, now: float) -> float:
    """Seconds since 1970 of a time in the local zone, or of an age before `now`. ValueError for anything else.

    A time without a date is the last one that has passed: at 01:00, `03:12` is yesterday's.
    """
    if _AGE.fullmatch(text):
        return now - age_seconds(text)
    found = _MOMENT.fullmatch(text)
    if not text or found is None:
        raise ValueError(
            f"'{text}' is no time (as 2h for two hours ago, 03:12, 'yesterday 03:12' or '2026-11-30 03:12:44')"
        )
    today = datetime.fromtimestamp(now)
    day, clock = found["date"], found["time"]
    try:
        hours = datetime.strptime(clock or "0:00", _format(clock or "0:00")).time()
        date = datetime.strptime(day, "%Y-%m-%d").date() if day and day[0].isdigit() else today.date()
        if day == "yesterday":
            date -= timedelta(days=1)
        then = datetime.combine(date, hours)
        if day is None and then > today:
            then -= timedelta(days=1)
        return then.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is no time of the calendar") from None


def _format(clock: str) -> str:
    return ("%H:%M", "%H:%M:%S")[clock.count(":") - 1] + (".%f" if "." in clock else "")
