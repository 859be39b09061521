"""What bounds a browser's connection: its time, its input, its output, and what a fault in uvicorn can do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from vnic.web.connection import LINGER_S, REQUEST_S, Connection


class Transport(asyncio.Transport):
    """A socket that is never ready."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.written = b""
        self._reading = True
        self.closing = False

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.calls.append("abort")


class Protocol:
    """In place of uvicorn's."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.transport: asyncio.Transport
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data.decode())
        if self.error is not None:
            raise self.error

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return None

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


class Timer:
    """In place of the loop's."""

    def __init__(self, delay: float, callback: Callable[[], None]) -> None:
        self.delay = delay
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Its timers go off when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay, callback))
        return self.timers[-1]

    @property
    def waiting(self) -> list[Timer]:
        return [each for each in self.timers if not each.cancelled]


class Rig:
    """A connection that was accepted."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.inner = Protocol()
        self.transport = Transport()
        self.ended: list[Connection] = []
        self.connection = Connection(
            cast(asyncio.AbstractEventLoop, self.loop), lambda _: self.inner, self.ended.append
        )
        self.connection.connection_made(self.transport)


def test_a_connection_without_a_session_ends_after_a_time() -> None:
    rig = Rig()
    [timer] = rig.loop.waiting
    assert timer.delay == REQUEST_S
    timer.callback()
    assert rig.transport.calls == ["abort"]
    rig.connection.connection_lost(None)
    assert rig.inner.calls == ["lost"]
    assert rig.ended == [rig.connection]
    assert not rig.loop.waiting


def test_a_session_has_all_time() -> None:
    rig = Rig()
    rig.connection.admit()
    assert not rig.loop.waiting


def test_a_close_waits_only_a_moment_for_a_browser_that_does_not_read() -> None:
    rig = Rig()
    rig.connection.admit()
    rig.inner.transport.write(b"the rest")
    rig.inner.transport.close()
    assert rig.transport.closing
    assert not rig.transport.calls
    [timer] = rig.loop.waiting
    assert timer.delay == LINGER_S
    timer.callback()
    assert rig.transport.calls == ["abort"]


def test_nothing_is_read_between_the_upgrade_and_the_session() -> None:
    """uvicorn would keep it all."""
    rig = Rig()
    websocket = Protocol()
    rig.inner.transport.set_protocol(cast(asyncio.BaseProtocol, websocket))
    assert not rig.transport.is_reading()
    rig.inner.transport.resume_reading()
    assert not rig.transport.is_reading()
    rig.connection.admit()
    assert rig.transport.is_reading()
    rig.connection.data_received(b"a frame")
    assert websocket.calls == ["a frame"]


def test_nothing_is_read_of_a_browser_that_does_not_read() -> None:
    """Answers to its pings would wait without bounds."""
    rig = Rig()
    rig.connection.pause_writing()
    assert not rig.transport.is_reading()
    rig.inner.transport.resume_reading()
    assert not rig.transport.is_reading()
    rig.inner.transport.pause_reading()
    rig.connection.resume_writing()
    assert not rig.transport.is_reading()
    rig.inner.transport.resume_reading()
    assert rig.transport.is_reading()
    assert rig.inner.calls == ["pause", "resume"]


def test_a_fault_in_a_protocol_ends_its_connection_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.inner.error = IndexError("of a bug")
    with caplog.at_level(logging.INFO):
        rig.connection.data_received(b"hostile")
    assert rig.transport.calls == ["abort"]
    assert [record.getMessage() for record in caplog.records] == [
        "a browser is disconnected: IndexError('of a bug')"
    ]
    rig.connection.eof_received()
