"""How times, causes and tables read."""

from __future__ import annotations

import json
import re

import pytest

from vnic.cli import show
from vnic.printable import one_line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (-1.0, "0 µs"),
        (0.000412, "412 µs"),
        (0.0032, "3.2 ms"),
        (4.04, "4.0 s"),
        (59.9, "59.9 s"),
        (300, "5 min"),
        (7300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_times_have_a_date_only_where_it_is_not_todays() -> None:
    now = 1_700_000_000.25
    assert len(show.wall_time(now - 1, now)) == len("12:34:56.789")
    assert len(show.wall_time(now - 86400, now)) == len("2023-11-13 12:34:56")


def test_ages_follow_the_monotonic_clock() -> None:
    """It may have been set back, or by the hour, since."""
    now = show.Now(wall=1_700_000_000.25, monotonic=1000.0)
    for wall in (now.wall - 60, now.wall + 3600, now.wall - 86400):
        assert show.when(wall, 940_000_000, now).endswith(", 1 min ago")


def test_cause_names_the_client_but_not_vnic() -> None:
    assert show.cause_text({"kind": "operator", "by": "QMP client a[1]", "text": "set_link a off"}) == (
        "set_link a off (by QMP client a[1])"
    )
    assert show.cause_text({"kind": "created", "by": "vnic", "text": "nic0 created"}) == "nic0 created"


def test_end_of_a_hold_reads_without_contradiction() -> None:
    connected = {"kind": "disconnected", "by": "net0", "client": "net0", "text": "peer connected"}
    assert show.change_text("up", connected) == "peer connected"
    assert show.change_text("down", connected) == "disconnected: peer connected"
    operator = {"kind": "operator", "by": "vnic", "text": "set_link nic0 on"}
    assert show.change_text("up", operator) == "operator: set_link nic0 on"


def test_peer_text_has_no_control_characters() -> None:
    assert one_line("a\x1b[2Jb\nc") == "a�[2Jb�c"


def test_a_table_in_a_pipe_keeps_its_lines_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_table(("A", "B"), [("x\ty", "1\n2")])
    assert capsys.readouterr().out == "A\tB\nx�y\t1�2\n"


def test_a_table_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show.print_table(("NAME", "LINK"), [("nic0", "down"), ("[bold]", "up")])
    out = capsys.readouterr().out
    assert "nic0" in out
    assert "[bold]" in out, "names are no markup"


@pytest.mark.parametrize(("width", "beside"), [("100", True), ("60", False)])
def test_running_text_moves_below_its_row_without_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str, beside: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", width)
    name, text = "network-of-the-left-hand-side", "disconnected: listening on unix:some.sock, no peer yet"
    show.print_table(("NAME", "LINK", "HELD BY"), [(name, "down", text), ("net1", "up", "-")])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in plain.splitlines()]
    held = f"{name}  down"
    assert lines[lines.index("─" * int(width)) + 1 :] == (
        [f"{held}  {text}", f"{'net1':29}  up    -"] if beside else [held, f"    {text}", f"{'net1':29}  up"]
    )


@pytest.mark.parametrize("width", [80, 60, 40])
def test_narrow_terminal_shows_all_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    name = "a-name-of-thirty-characters-00"
    show.print_table(("NAME", "LINK", "PEER", "HELD BY"), [(name, "down", name, "operator: set_link a off")])
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    assert any("down" in line for line in lines)
    assert "".join(line.split(" ", 1)[0] for line in lines[2:]).endswith(name)


def test_columns_without_room_move_below_their_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("nic0", "nic", "virtio-net", "up", "3", "-"), ("net0", "netdev", "echo", "up", "0", "-")]
    show.print_table(("NAME", "TYPE", "MODEL", "LINK", "CHANGES", "HELD BY"), rows, ("TYPE", "CHANGES"))
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert [line.rstrip() for line in lines] == [
        "NAME  TYPE    MODEL       LINK  HELD BY",
        "─" * 40,
        "nic0  nic     virtio-net  up    -",
        "    changes 3",
        "net0  netdev  echo        up    -",
        "    changes 0",
    ]


def test_styles_only_on_terminals_that_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert show.style("up", "green") == "\x1b[32mup\x1b[0m"
    monkeypatch.setenv("TERM", "dumb")
    assert show.style("up", "green") == "up"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert show.style("up", "green") == "up"


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_json([{"a": "é\n"}])
    out = capsys.readouterr().out
    assert json.loads(out) == [{"a": "é\n"}]
    assert out.count("\n") == 1
