"""What a peer calls itself does not reach the terminal raw, wherever it is printed; JSON stays exact."""

from __future__ import annotations

import json
import logging

import pytest
from tests.fakes.monitored_machine import FakeMachine
from tests.unit.monitor.conftest import Client

from vnic.cli import changes, watch, why
from vnic.cli import link as link_verb
from vnic.cli.show import Now, print_json, print_table
from vnic.observe import logs
from vnic.printable import lines, one_line, printable

EVIL = "a\x1b[2J\x9b31m\u202eb\x7f\udcff\r"
CLEAN = "a\ufffd[2J\ufffd31m\ufffdb\ufffd\ufffd\ufffd"


def is_clean(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


def test_one_line() -> None:
    assert one_line(EVIL) == CLEAN
    assert one_line("net0 \u00fc\u2500") == "net0 \u00fc\u2500"


def test_lines() -> None:
    assert lines("a\tb\nc\n" + EVIL) == "a\tb\nc\n" + CLEAN


def test_values() -> None:
    value = {"a": [EVIL, 1, {EVIL: None}], 2: True}
    assert printable(value) == {"a": [CLEAN, 1, {CLEAN: None}], 2: True}


LINK = {
    "name": EVIL, "type": "nic", "model": EVIL, "mac": EVIL, "link": "up", "operstate": "up", "peer": EVIL,
    "holds": [{"client": EVIL, "kind": EVIL, "by": EVIL, "text": EVIL, "since": 1.0, "monotonic-us": 1}],
    "guest": {"attached": True, "driver-ok": True, "seen": EVIL},
}  # fmt: skip
CHANGE = {
    "id": 1, "name": EVIL, "link": EVIL, "time": 1.0, "monotonic-us": 1, "caused-by": 7,
    "cause": {"kind": EVIL, "by": EVIL, "text": EVIL},
}  # fmt: skip


def test_the_texts_of_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    now = Now()
    link, change = printable(LINK), printable(CHANGE)
    for text in (*why.describe(link, now), *changes.history([change], {7: change}, now)):
        assert is_clean(text), text
    for name in ("LINK_CHANGED", "LINK_SEEN", EVIL):
        event = {"event": name, "data": {**CHANGE, "latency-us": 1}}
        assert is_clean(watch.line(printable(event)))
    link_verb._say(LINK, "up", waited=False)
    link_verb._say(LINK, "down", waited=False)
    print_table(["A", "B"], [[EVIL, EVIL]])
    assert is_clean(capsys.readouterr().out)


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    evil = EVIL.replace("\udcff", "")
    print_json({"name": evil})
    assert json.loads(capsys.readouterr().out) == {"name": evil}


def test_the_human_monitor() -> None:
    client = Client(FakeMachine(name=EVIL))
    assert client.hmp("info name") == CLEAN + "\r\n"
    assert client.hmp("bogus\x1b[2J") == "unknown command: 'bogus\ufffd[2J'\r\n"


def test_the_log_with_its_traceback() -> None:
    try:
        raise ValueError(EVIL.replace("\udcff", ""))
    except ValueError as error:
        record = logging.LogRecord("vnic", logging.ERROR, "", 0, "%s", (EVIL,), (type(error), error, None))
    assert is_clean(logs.OneLine().format(record))
