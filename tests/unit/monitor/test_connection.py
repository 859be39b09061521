"""Tests of a connection's bounds: slow readers, floods, half-closed clients, and clients that must not block each
other."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import pytest
from tests.fakes.monitored_machine import FakeMachine
from tests.unit.backend.helpers import until

from vnic.chardev.options import SocketOptions
from vnic.monitor import Mode, Monitors
from vnic.monitor.connection import (
    OUTPUT_MAX_BYTES,
    PAUSE_BYTES,
    REPLIES_PER_TURN,
    TURN_S,
    ClientConnection,
    SocketChannel,
)
from vnic.monitor.qmp import Dispatcher, QmpSession
from vnic.net.errors import NetError
from vnic.sockets.address import InetAddress


class Wire:
    """A ClientConnection with a QMP session at one end of a socket pair, the test at the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        ours, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.machine = FakeMachine(loop)
        self.session = QmpSession(Dispatcher(self.machine), "QMP client test[1]")
        self.ended = 0
        self.loop = loop
        self.connection = ClientConnection(loop, SocketChannel(ours), self.session, self._closed)
        self.connection.start()

    def _closed(self) -> None:
        self.ended += 1

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.far, data)

    async def lines(self, count: int) -> list[dict[str, object]]:
        """The next `count` lines."""
        data = b""
        while data.count(b"\r\n") < count:
            piece = await self.loop.sock_recv(self.far, 65536)
            assert piece, "the connection ended"
            data += piece
        assert data.endswith(b"\r\n")
        return [json.loads(line) for line in data.splitlines()]

    async def negotiate(self) -> None:
        await self.send(b'{"execute":"qmp_capabilities"}')
        assert len(await self.lines(2)) == 2

    def close(self) -> None:
        self.connection.close()
        self.far.close()


def with_wire(test: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        wire = Wire(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(test(wire), 90)
        finally:
            wire.close()
        assert wire.ended == 1

    asyncio.run(main())


def test_greeting_and_replies() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        await wire.send(b'{"execute":"query-name"}\n')
        assert await wire.lines(1) == [{"return": {"name": "lab"}}]

    with_wire(test)


def test_event_of_command_precedes_reply() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()

        def listen(name: str, _data: object) -> None:
            wire.connection.event({"event": name})

        wire.machine.network.subscribe(listen)
        await wire.send(b'{"execute":"stop"}')
        assert await wire.lines(2) == [{"event": "STOP"}, {"return": {}}]

    with_wire(test)


def test_half_closed_client_gets_its_replies() -> None:
    async def test(wire: Wire) -> None:
        await wire.send(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 30)
        wire.far.shutdown(socket.SHUT_WR)
        assert len(await wire.lines(32)) == 32
        assert await wire.loop.sock_recv(wire.far, 1) == b""
        assert wire.ended == 1

    with_wire(test)


def test_garbage_is_answered_within_turn_budget() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        replies_of_a_turn: list[int] = []
        answered = 0

        def answer(message: object) -> Iterator[bytes]:
            nonlocal answered
            answered += 1
            return QmpSession.answer(wire.session, message)

        def turn() -> None:
            nonlocal answered
            replies_of_a_turn.append(answered)
            answered = 0
            if sum(replies_of_a_turn) < 1000:
                wire.loop.call_soon(turn)

        wire.session.answer = answer  # type: ignore[method-assign]  # counted
        await wire.send(b"}" * 1000)
        turn()
        assert len(await wire.lines(1000)) == 1000
        assert max(replies_of_a_turn) == REPLIES_PER_TURN

    with_wire(test)


def test_expensive_commands_run_one_per_turn() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        run: list[object] = []

        def slow(message: object) -> Iterator[bytes]:
            run.append(message)
            time.sleep(2 * TURN_S)
            return QmpSession.answer(wire.session, message)

        wire.session.answer = slow  # type: ignore[method-assign]  # in place of the session
        await wire.send(b'{"execute":"query-name"}\n' * 8)
        turns = 0
        while len(run) < 8:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 8

    with_wire(test)


def test_events_follow_long_reply() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        pieces = [b'{"return"', b": ", b"[1]}\r\n"]

        def answer(message: object) -> Iterator[bytes]:
            for number, piece in enumerate(pieces):
                data: dict[str, object] = {"number": number}
                wire.loop.call_soon(wire.machine.network.emit, "STOP", data)
                time.sleep(2 * TURN_S)  # each in a separate turn
                yield piece

        wire.machine.network.subscribe(
            lambda name, data: wire.connection.event({"event": name, "data": data})
        )
        wire.session.answer = answer  # type: ignore[method-assign]  # in place of the session
        await wire.send(b'{"execute":"query-name"}\n')
        told = await wire.lines(4)
        assert told == [
            {"return": [1]},
            *[{"event": "STOP", "data": {"number": number}} for number in range(3)],
        ]

    with_wire(test)


def test_events_during_long_reply_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()

        def answer(message: object) -> Iterator[bytes]:
            while not wire.ended:
                yield b"x" * PAUSE_BYTES

        wire.session.answer = answer  # type: ignore[method-assign]  # in place of the session
        await wire.send(b'{"execute":"query-name"}\n')
        for _ in range(2 * OUTPUT_MAX_BYTES // PAUSE_BYTES):
            await asyncio.sleep(0)
            wire.connection.event({"event": "x" * PAUSE_BYTES})
        assert wire.ended

    with_wire(test)
    assert "does not read its monitor" in caplog.text


def test_commands_of_client_that_does_not_read_wait() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        ran = 0

        def count() -> list[object]:
            nonlocal ran
            ran += 1
            return []

        wire.machine.chardevs = count  # type: ignore[method-assign,assignment]  # counts instead
        request = b'{"execute":"query-chardev"}'
        sent = 100_000
        sending = asyncio.create_task(wire.send(request * sent))
        await until(lambda: len(wire.connection._output) > PAUSE_BYTES)
        stopped_at = ran
        await asyncio.sleep(0.05)
        assert ran == stopped_at < sent
        assert not sending.done()
        assert len(wire.connection._output) <= PAUSE_BYTES + 100
        while ran == stopped_at:  # it continues when the client reads
            await wire.loop.sock_recv(wire.far, 65536)
            await asyncio.sleep(0)
        sending.cancel()

    with_wire(test)


def test_client_that_reads_no_events_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        event: dict[str, object] = {"event": "X", "data": {"text": "x" * 10_000}}
        for _ in range(2 * OUTPUT_MAX_BYTES // 10_000):
            wire.connection.event(event)
            assert len(wire.connection._output) <= OUTPUT_MAX_BYTES + 20_000
        assert wire.ended == 1
        assert "QMP client test[1] does not read its monitor: disconnected" in caplog.text

    with_wire(test)


def test_garbage_is_answered_at_pace_of_reader() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.send(b"]" * 10_000_000), 0.3)
        assert len(wire.connection._output) <= PAUSE_BYTES + 100

    with_wire(test)


def test_endless_message_is_bounded() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        await wire.send(b'{"execute":"')
        chunk = b"a" * 1_000_000
        for _ in range(30):
            await wire.send(chunk)
        await wire.send(b'"}\n{"execute":"query-name"}\n')
        error, name = await wire.lines(2)
        assert error["error"] == {"class": "GenericError", "desc": "JSON token size limit exceeded"}
        assert name == {"return": {"name": "lab"}}

    with_wire(test)


def test_reset_by_client_is_handled(caplog: pytest.LogCaptureFixture) -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        wire.far.close()
        await until(lambda: wire.ended)
        assert wire.ended == 1
        wire.connection.event({"event": "X"})

    with_wire(test)
    assert not caplog.records


def test_connection_closes_within_its_command() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        feed = wire.session.feed

        def feed_and_close(data: bytes) -> Iterator[bytes]:
            wire.connection.close()
            yield from feed(data)

        wire.session.feed = feed_and_close  # type: ignore[method-assign]  # a machine that ends at once
        await wire.send(b'{"execute":"query-name"}')
        assert await wire.loop.sock_recv(wire.far, 1) == b""

    with_wire(test)


# -- commands that have to wait for something -------------------------------------------------------------------------


def slow_deletions(wire: Wire) -> asyncio.Future[None]:
    """From now on each netdev_del ends when this future is done."""
    done = wire.loop.create_future()
    # A back-end that ends later.
    wire.machine.netdev_del = lambda netdev_id, by: done  # type: ignore[method-assign, assignment]
    return done


DELETE = b'{"execute":"netdev_del","arguments":{"id":"net0"},"id":1}'
HMP_DELETE = b'{"execute":"human-monitor-command","arguments":{"command-line":"netdev_del net0"},"id":1}'


@pytest.mark.parametrize(("command", "result"), [(DELETE, {}), (HMP_DELETE, "")])
def test_waiting_command_delays_only_its_client(command: bytes, result: object) -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        done = slow_deletions(wire)
        await wire.send(command + b'{"execute":"stop"}')
        other = Wire(wire.loop)
        await other.negotiate()
        await other.send(b'{"execute":"query-name"}')
        assert await other.lines(1) == [{"return": {"name": "lab"}}]
        other.close()
        wire.connection.event({"event": "RESUME"})
        assert await wire.lines(1) == [{"event": "RESUME"}], "events go on"
        assert wire.machine.runstate == "running", "the next command waits for its turn"
        done.set_result(None)
        assert await wire.lines(2) == [{"return": result, "id": 1}, {"return": {}}]

    with_wire(test)


def test_waiting_command_may_fail() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        done = slow_deletions(wire)
        await wire.send(DELETE + HMP_DELETE)
        done.set_exception(NetError("bridge helper failed"))
        text = "Error: bridge helper failed\r\n"
        assert await wire.lines(2) == [
            {"error": {"class": "GenericError", "desc": "bridge helper failed"}, "id": 1},
            {"return": text, "id": 1},
        ]

    with_wire(test)


def test_client_disconnects_while_its_command_waits() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        done = slow_deletions(wire)
        await wire.send(DELETE + b'{"execute":"quit"}')
        await until(lambda: wire.session.waits_for is done)
        wire.connection.close()
        done.set_result(None)
        await asyncio.sleep(0)
        assert wire.machine.runstate == "running", "the rest is not run"

    with_wire(test)


def test_waiting_command_at_shutdown() -> None:
    async def test(wire: Wire) -> None:
        await wire.negotiate()
        done = slow_deletions(wire)
        await wire.send(DELETE)
        await until(lambda: wire.session.waits_for is done)
        done.cancel()
        (reply,) = await wire.lines(1)
        assert reply["error"] == {"class": "GenericError", "desc": "vnic is shutting down"}

    with_wire(test)


def test_disconnected_client_is_freed_at_once() -> None:
    """Not only at the next cyclic collection: 60 clients that had not read their answers kept 512 MiB."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        machine = FakeMachine(loop)
        monitors = Monitors(machine, loop)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        monitors.add(
            SocketOptions(id="mon0", addr=InetAddress(host="127.0.0.1", port=str(port))), Mode.CONTROL
        )
        client, _ = listening.accept()
        with listening, client:
            await until(lambda: monitors._clients)
            client.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 2000)
            await until(lambda: len(cast(ClientConnection, monitors._clients[0])._output) > PAUSE_BYTES)
            gone = weakref.ref(monitors._clients[0])
            client.close()
            await until(lambda: not monitors._clients)
        await asyncio.sleep(0)
        assert gone() is None
        monitors.close()

    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(main(), 90))
    finally:
        gc.enable()
