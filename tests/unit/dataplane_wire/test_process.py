"""The program's life, with a fake one: its start, its restarts, and when it is given up."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak, until

from vnic.dataplane.wire import process
from vnic.dataplane.wire.messages import Event, Inject, PortRemove, Reply
from vnic.dataplane.wire.process import ProgramState, WireProgram, find_program

FAKE = Path(__file__).parents[2] / "fakes" / "fake_wire.py"


class User:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.ready = 0
        self.gone = 0

    def program_ready(self) -> None:
        self.ready += 1

    def program_gone(self) -> None:
        self.gone += 1

    def happened(self, event: Event) -> None:
        """The fake sends none."""


@contextmanager
def program(loop: asyncio.AbstractEventLoop, *mode: str) -> Iterator[tuple[WireProgram, User]]:
    user = User()
    command = [sys.executable, "-S", "-E", str(FAKE), *mode]
    made = WireProgram(loop, command, user)
    try:
        made.start()
        yield made, user
    finally:
        made.close()
        until(loop, lambda: made.has_ended)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with fresh_loop() as loop:
        yield loop


def test_it_starts_answers_and_ends(loop: asyncio.AbstractEventLoop) -> None:
    replies: list[Reply] = []
    with no_fd_leak(), program(loop, "good") as (made, user):
        made.request(PortRemove(1), answered=replies.append)
        assert not replies, "before it runs, requests have no effect"
        until(loop, lambda: made.running)
        for number in range(3):
            made.request(PortRemove(number), answered=replies.append)
        until(loop, lambda: len(replies) == 3)
        assert (user.ready, user.gone, made.restarts, made.refusal) == (1, 0, 0, "")


def test_many_requests_wait_for_a_program_that_is_slow(loop: asyncio.AbstractEventLoop) -> None:
    replies: list[Reply] = []
    with program(loop, "good") as (made, _):
        until(loop, lambda: made.running)
        for number in range(2000):
            made.request(Inject(number, 0, bytes(1000)), (0,), replies.append)
        assert made.channel.backlog_bytes
        until(loop, lambda: len(replies) == 2000)
        assert not made.channel.backlog_bytes


def test_killed_it_is_started_again(loop: asyncio.AbstractEventLoop) -> None:
    with program(loop, "good") as (made, user):
        until(loop, lambda: made.running)
        first = made.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(loop, lambda: user.gone)
        assert made.refusal == "vnic-wire is being restarted"
        until(loop, lambda: user.ready == 2)
        assert made.pid not in (None, first)
        assert (made.restarts, made.refusal) == (1, "")


def test_one_that_hangs_is_ended_before_anything_is_taken_back(loop: asyncio.AbstractEventLoop) -> None:
    with program(loop, "good") as (made, user):
        until(loop, lambda: made.running)
        pid = made.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        made.channel._lose("it did not answer")
        assert (made.state, user.gone, made.will_run) == (ProgramState.ENDING, 0, True)
        until(loop, lambda: user.gone)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        until(loop, lambda: user.ready == 2)


@pytest.mark.parametrize("mode", ["exit", "garbage", "wrong-serial", "die"])
def test_one_that_dies_too_often_is_given_up(
    loop: asyncio.AbstractEventLoop,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(process, "DEATHS", 3)
    monkeypatch.setattr(process, "DEATHS_WITHIN_S", 1e9)
    with program(loop, mode) as (made, user):
        asked = 0

        def given_up() -> bool:
            nonlocal asked
            if made.running and user.ready > asked:
                asked = user.ready
                made.request(PortRemove(1))
            return made.state is ProgramState.GIVEN_UP

        until(loop, given_up)
        assert made.refusal == "vnic-wire was restarted too often"
        assert (user.gone, made.restarts) == (3, 2)
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "Python moves all packets" in errors[0]


def test_another_version_is_given_up_at_once(loop: asyncio.AbstractEventLoop) -> None:
    with program(loop, "version") as (made, user):
        until(loop, lambda: user.gone)
        assert made.state is ProgramState.GIVEN_UP
        assert made.refusal == "vnic-wire is not that of this vnic: it speaks version 1"


def test_a_program_that_cannot_be_executed_counts_as_one_that_dies(loop: asyncio.AbstractEventLoop) -> None:
    """The shell that starts it ends."""
    user = User()
    made = WireProgram(loop, ["/nonexistent/vnic-wire"], user)
    made.start()
    until(loop, lambda: user.gone)
    assert made.refusal == "vnic-wire is being restarted"
    made.close()
    until(loop, lambda: made.has_ended)


def test_the_environment_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "mine"
    monkeypatch.setenv("VNIC_WIRE", str(own))
    assert find_program() is None
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_program() == own
    monkeypatch.setenv("VNIC_WIRE", "off")
    assert process.switched_off()
