"""Tests of Connection with a peer that does not read: its queue is bounded, and no descriptor leaks."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.fakes.loops import no_fd_leak, open_fds
from tests.unit.backend.helpers import run, until

from vnic.sockets.connection import (
    TURN_S,
    WAITING_MAX_FDS,
    WAITING_MAX_MESSAGES,
    Connection,
)


class User:
    """Records what it receives."""

    wanted = 4096

    def __init__(self) -> None:
        self.data = b""
        self.reasons: list[str | None] = []

    def received(self, data: bytes, fds: list[int]) -> None:
        self.data += data

    def lost(self, reason: str | None) -> None:
        self.reasons.append(reason)


@contextmanager
def connected() -> Iterator[tuple[Connection, User, socket.socket]]:
    ours, theirs = socket.socketpair()
    user = User()
    connection = Connection(asyncio.get_running_loop(), ours, user, max_fds=8)
    try:
        yield connection, user, theirs
    finally:
        connection.close()
        theirs.close()


@pytest.mark.needs("files")
@pytest.mark.parametrize("fds", [0, 8])
def test_peer_that_does_not_read_is_disconnected(fds: int) -> None:
    async def main() -> None:
        before = open_fds()
        with no_fd_leak(), socket.socket() as passed, connected() as (connection, user, _):
            for _ in range(2 * WAITING_MAX_MESSAGES):
                connection.send(b"message", [passed.fileno()] * fds)
            assert not user.reasons, "never from within its own send"
            assert open_fds() <= before + 3 + WAITING_MAX_FDS
            await until(lambda: user.reasons)
            (reason,) = user.reasons
            assert reason is not None
            assert "does not read" in reason
            assert connection.closed

    run(main())


def test_slow_peer_gets_everything_in_order() -> None:
    async def main() -> None:
        with no_fd_leak(), connected() as (connection, user, theirs):
            for number in range(2000):
                connection.send(number.to_bytes(4, "big"), [0] if number % 8 == 0 else [])
            theirs.setblocking(False)
            data, fds = b"", 0
            while len(data) < 8000:
                await asyncio.sleep(0)
                try:
                    piece, passed, _, _ = socket.recv_fds(theirs, 4, 8)
                except BlockingIOError:
                    continue
                data += piece
                fds += len(passed)
                for fd in passed:
                    os.close(fd)
            assert data == b"".join(number.to_bytes(4, "big") for number in range(2000))
            assert fds == 250
            assert not user.reasons
            theirs.sendall(b"done")
            await until(lambda: user.data == b"done")

    run(main())


def test_expensive_pieces_are_read_over_many_turns() -> None:
    """Each piece takes 2 ms: a peer that sends small, expensive pieces must not keep the loop busy."""

    async def main() -> None:
        with connected() as (_, user, theirs):
            turns, reads = 0, []

            def received(data: bytes, fds: list[int]) -> None:
                time.sleep(0.002)
                reads.append(turns)

            user.received = received  # type: ignore[method-assign]  # the point is one that takes its time
            user.wanted = 1
            theirs.sendall(bytes(20))
            while len(reads) < 20:
                turns += 1
                await asyncio.sleep(0)
            assert max(map(reads.count, reads)) <= 2

    run(main())


def test_queued_output_without_descriptors_disconnects() -> None:
    async def main() -> None:
        with no_fd_leak(), connected() as (connection, user, theirs):
            for _ in range(200):  # more than a socket buffers
                connection.send(bytes(4096))
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.close(lowest := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, hard))  # the numbers below are in use
            try:
                for _ in range(8):
                    connection.send(b"message", [0] * 8)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: user.reasons)
            assert user.reasons == ["Too many open files"]
            theirs.close()

    run(main())


def test_expensive_pieces_leave_turns_to_others() -> None:
    class Slow(User):
        wanted = 1

        def received(self, data: bytes, fds: list[int]) -> None:
            super().received(data, fds)
            time.sleep(2 * TURN_S)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        user = Slow()
        connection = Connection(asyncio.get_running_loop(), ours, user, max_fds=8)
        theirs.sendall(bytes(8))
        turns = 0
        while len(user.data) < 8:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 8
        connection.close()
        theirs.close()

    run(main())


@pytest.mark.parametrize("found_by", ["read", "write"])
def test_reset_by_closing_peer_counts_as_close(found_by: str) -> None:
    async def main() -> None:
        with connected() as (connection, user, theirs):
            connection.send(b"never read")
            theirs.close()
            if found_by == "write":
                connection.send(b"nor this")
            await until(lambda: user.reasons)
            assert user.reasons == [None]

    run(main())


def test_full_close_differs_from_half_close() -> None:
    async def main() -> None:
        with connected() as (connection, _, theirs):
            connection.pause()
            theirs.sendall(b"unread")
            assert not connection.is_abandoned()
            theirs.shutdown(socket.SHUT_WR)
            assert not connection.is_abandoned()
            theirs.close()
            assert connection.is_abandoned()
        assert connection.is_abandoned()

    run(main())


def test_half_closed_connection_reads_and_does_not_send() -> None:
    async def main() -> None:
        with connected() as (connection, user, theirs):
            connection.half_close()
            connection.send(b"too late")
            theirs.sendall(b"still here")
            await until(lambda: user.data == b"still here")
            assert theirs.recv(100) == b""
            assert user.reasons == []

    run(main())
