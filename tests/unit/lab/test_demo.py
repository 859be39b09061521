"""What the demo calls right and wrong, and how it prints it."""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vnic.cli.client import Refused
from vnic.lab.demo.lab import VHOST_USER, Lab
from vnic.lab.demo.steps import Row, Step, run_step
from vnic.lab.demo.verb import print_row

OPERATOR = {"client": "nic0", "kind": "operator", "by": "me", "text": "set_link nic0 off", "since": 0.0}
BACK = {"kind": "no-peer", "by": "me", "text": "netdev net0 is back"}


class FakeLab(Lab):
    """Answers query-links with what the test says."""

    def __init__(self, nic: dict[str, Any], *, sees: bool = True) -> None:
        self._found = nic
        self._sees = sees

    @property
    def guest_sees(self) -> bool:
        return self._sees

    async def nic(self) -> dict[str, Any]:
        return self._found


class FakeGuest:
    """Its carrier, and whether it gets an answer to its pings."""

    label = "a guest"

    def __init__(self, carrier: bool, ping: float | None = 0.5) -> None:
        self._carrier = carrier
        self._ping = ping

    def boot(self) -> None:
        """Nothing to start."""

    def carrier(self) -> bool:
        return self._carrier

    def wait_carrier(self, up: bool, *, timeout: int = 5) -> bool:
        return self._carrier is up

    def set_address(self, address: str) -> None:
        """It needs none."""

    def ping(self, address: str) -> float | None:
        return self._ping

    def close(self) -> None:
        """Nothing to end."""


async def nothing(lab: Lab) -> None:
    """The step's action; the test has done it."""


def nic(
    link: str, seen: str, holds: list[dict[str, Any]], cause: dict[str, Any], **guest: Any
) -> dict[str, Any]:
    return {
        "link": link,
        "datapath": "python" if link == "up" else "none",
        "guest": {"seen": seen, **guest},
        "holds": holds,
        "last-change": {"cause": cause},
    }


def look(up: bool, kind: str, found: dict[str, Any], guest: FakeGuest, *, changes: bool = True) -> Row:
    return asyncio.run(run_step(Step("it", nothing, up, kind, changes), FakeLab(found), guest))


DOWN = nic("down", "down", [OPERATOR], OPERATOR, **{"seen-latency-us": 300})
UP = nic("up", "up", [], BACK, **{"seen-latency-us": 300})


def test_right_row_is_ok() -> None:
    row = look(False, "operator", DOWN, FakeGuest(False))
    assert row.right
    assert (row.latency_us, row.path, row.why, row.ping_text()) == (
        300,
        "none",
        "operator: set_link nic0 off",
        "-",
    )
    row = look(True, "no-peer", UP, FakeGuest(True))
    assert row.right
    assert (row.why, row.ping_text()) == ("no-peer: netdev net0 is back", "0.50 ms")


def test_a_hold_at_the_far_end_is_named_once() -> None:
    both = nic("down", "down", [OPERATOR, {**OPERATOR, "client": "net0"}], OPERATOR, **{"seen-latency-us": 1})
    assert look(False, "operator", both, FakeGuest(False)).why == "operator: set_link nic0 off"
    far = nic("down", "down", [{**OPERATOR, "client": "net0"}], OPERATOR, **{"seen-latency-us": 1})
    assert look(False, "operator", far, FakeGuest(False)).why == "operator: on net0: set_link nic0 off"


UNSEEN = nic("down", "down", [OPERATOR], OPERATOR)
STALE = nic("down", "up", [OPERATOR], OPERATOR)


@pytest.mark.parametrize(
    ("up", "kind", "found", "guest", "wrong"),
    [
        (False, "operator", DOWN, FakeGuest(True), "carrier is not 0"),
        (True, "no-peer", UP, FakeGuest(False), "carrier is not 1"),
        (True, "no-peer", UP, FakeGuest(True, None), "no ping"),
        (False, "disconnected", DOWN, FakeGuest(False), "why names operator instead of disconnected"),
        (False, "operator", STALE, FakeGuest(False), "vnic has it down, seen up"),
        (False, "operator", UNSEEN, FakeGuest(False), "vnic did not see the guest look"),
    ],
)
def test_wrong_row_names_its_faults(
    up: bool, kind: str, found: dict[str, Any], guest: FakeGuest, wrong: str
) -> None:
    row = look(up, kind, found, guest)
    assert not row.right
    assert wrong in row.wrong
    assert row.shown().right is False


def test_a_step_without_a_change_needs_no_look() -> None:
    row = look(False, "operator", UNSEEN, FakeGuest(False), changes=False)
    assert row.right
    assert row.latency_us is None


def test_a_guest_that_cannot_see_its_link_is_judged_by_its_pings() -> None:
    """Its carrier is 1 whatever was done."""
    for up, kind, unseen in (
        (False, "operator", UNSEEN),
        (True, "no-peer", nic("up", "unknown", [], BACK)),
    ):
        lab, step = FakeLab(unseen, sees=False), Step("it", nothing, up, kind)
        row = asyncio.run(run_step(step, lab, FakeGuest(True)))
        assert row.right
        assert row.carrier is None
    assert asyncio.run(run_step(step, lab, FakeGuest(True, None))).wrong == "no ping"


@pytest.mark.parametrize("width", [80, 120])
def test_a_printed_row_stays_as_it_is_and_breaks_no_word(width: int) -> None:
    """A terminal of 24 lines is too low for a table that is drawn anew with every row."""
    why = "disconnected: on net0: Failed to connect to 'far.sock': Connection refused; trying again every 0.05 s"
    row = Row("back-end killed (SIGKILL)", False, 655, False, None, "none", why, "no ping")
    out = io.StringIO()
    print_row(Console(file=out, width=width, force_terminal=True, color_system=None), row)
    text = out.getvalue()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    said = ["WRONG", *row.title.split(), "0", "655", "µs", "-", "none", *why.split(), "no", "ping"]
    assert text.split() == said


def test_a_temporary_folder_too_deep_for_sockets_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(
        Refused, match="x is too long a path for sockets in it; choose another: export TMPDIR="
    ):
        Lab(*VHOST_USER)
    assert list(folder.iterdir()) == []
