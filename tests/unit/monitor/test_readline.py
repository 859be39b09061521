"""Tests that a readline monitor's bytes are QEMU's: the goldens are the output of QEMU 7.2 and 11.1 over TCP."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.hmp_session import HmpSession
from vnic.monitor.interfaces import RunState
from vnic.monitor.readline import HISTORY_MAX_LINES, ReadLine

from .conftest import Client


def goldens() -> Iterator[tuple[bytes, bytes]]:
    """The input and the output of one session."""
    text = Path(__file__).with_name("golden").joinpath("readline.txt").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for typed, shown in zip(lines[::2], lines[1::2], strict=True):
        yield ast.literal_eval(typed), ast.literal_eval(shown.strip())


def typist() -> HmpSession:
    client = Client(FakeMachine(name=None))
    client.machine.runstate = RunState.PRELAUNCH  # -S
    client.ask("netdev_add", type="hubport", id="gns3-0", hubid=1)
    client.ask("device_add", driver="virtio-net", netdev="gns3-0")
    return HmpSession(client.machine, "HMP client test[1]")


def test_bytes_match_qemu() -> None:
    session = typist()
    for typed, shown in goldens():
        assert b"".join(session.feed(typed)) == shown, typed


def test_bytes_match_when_fed_one_by_one() -> None:
    session = typist()
    for typed, shown in goldens():
        assert b"".join(b"".join(session.feed(bytes((byte,)))) for byte in typed) == shown, typed


def put(line: ReadLine, data: bytes) -> list[bytes]:
    """The lines that end in `data`."""
    lines = (line.put(byte, bytearray()) for byte in data)
    return [each for each in lines if each is not None]


def test_history_is_bounded_and_has_no_duplicates() -> None:
    line = ReadLine()
    for number in range(HISTORY_MAX_LINES + 10):
        put(line, b"%d\n" % number)
    put(line, b"20\n")
    assert put(line, b"\x1b[A\n") == [b"20"]
    assert put(line, b"\x1b[A" * 1000 + b"\n") == [b"10"]


@pytest.mark.parametrize("digits", [b"3", b"0003"])
def test_escape_parameter_is_bounded(digits: bytes) -> None:
    line = ReadLine()
    put(line, b"\x1b[" + b"9" * 10_000 + b"~")
    assert put(line, b"ab\x01\x1b[" + digits + b"~\n") == [b"b"]
