"""The pipe in front of a socket: what was written leaves once, whole and in order, and stays while it cannot."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from vnic.sockets.outbox import Outbox, OutboxHandles


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    made = Outbox()
    yield made
    made.close()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            data += sock.recv(1 << 20)
        except BlockingIOError:
            return data


def test_what_is_put_leaves_with_flush(outbox: Outbox, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    assert outbox.put(b"one") == 3
    assert outbox.put(b"two") == 3
    assert outbox.waiting == 6
    assert outbox.flush(ours.fileno()) == 6
    assert outbox.waiting == 0
    assert theirs.recv(100) == b"onetwo"


def test_an_empty_outbox_sends_nothing(outbox: Outbox, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    assert outbox.flush(ours.fileno()) == 0
    assert read_all(theirs) == b""


def test_what_a_full_socket_does_not_take_stays(
    outbox: Outbox, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ours.send(bytes(4096))
    outbox.put(b"x" * 3000)
    assert outbox.flush(ours.fileno()) == 0
    assert outbox.waiting == 3000
    assert read_all(theirs) == bytes(filled)
    assert outbox.flush(ours.fileno()) == 3000
    assert read_all(theirs) == b"x" * 3000


def test_a_message_of_a_page_is_put_whole_or_not_at_all(outbox: Outbox) -> None:
    while outbox.put(bytes(3000)):
        pass
    assert outbox.waiting % 3000 == 0


def test_the_next_process_sends_what_is_left(
    outbox: Outbox, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    outbox.put(b"rest")
    after = Outbox(OutboxHandles(*(os.dup(fd) for fd in outbox.handles)))
    assert after.flush(ours.fileno()) == 4
    assert outbox.waiting == 0
    assert theirs.recv(100) == b"rest"
    after.close()


def test_a_closed_peer_is_an_error(outbox: Outbox, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    outbox.put(b"x")
    with pytest.raises(BrokenPipeError):
        outbox.flush(ours.fileno())
