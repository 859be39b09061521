"""Ages and points in time as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from vnic.cli.ages import age_seconds, moment

NOW = "2026-12-01 10:30:15"


@pytest.fixture(autouse=True)
def _in_vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", 90 * 86400),
        ("12h", 43200),
        ("30m", 1800),
        ("30min", 1800),
        ("8w", 8 * 7 * 86400),
        ("1.5 h", 5400),
        ("5s", 5),
    ],
)
def test_age_has_unit(text: str, seconds: float) -> None:
    assert age_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-5h", "0d", "5y", "1e9d", "999999d", "٣h", "5h "])
def test_other_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no length of time"):
        age_seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", "2026-12-01 08:30:15"),
        ("03:12", "2026-12-01 03:12"),
        ("3:12:44", "2026-12-01 03:12:44"),
        ("10:30:15", "2026-12-01 10:30:15"),
        ("10:31", "2026-11-30 10:31"),
        ("today", "2026-12-01 00:00"),
        ("today 23:00", "2026-12-01 23:00"),
        ("yesterday", "2026-11-30 00:00"),
        ("yesterday 03:12:44.5", "2026-11-30 03:12:44.500"),
        ("2026-10-25", "2026-10-25 00:00"),
        ("2026-10-24T01:00", "2026-10-24 01:00"),
        ("2026-07-01 12:00", "2026-07-01 12:00"),
    ],
)
def test_moment_is_of_local_zone(text: str, expected: str) -> None:
    assert moment(text, at(NOW)) == at(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noon",
        "25:00",
        "3:60",
        "2026-02-30",
        "2026-13-01 10:00",
        "2026-12-01 ",
        "tomorrow",
        "03:12 yesterday",
    ],
)
def test_other_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        moment(text, at(NOW))
