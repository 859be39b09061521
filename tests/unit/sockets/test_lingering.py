"""Sockets with SO_LINGER that a peer passes: their last close waits for their own peer, and must not be in the loop."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from vnic.protocol.frames import FrameError
from vnic.sockets import unblock
from vnic.sockets.connect import refuse_descriptors
from vnic.sockets.connection import receive

pytestmark = pytest.mark.needs("loopback")

LINGER_S = 30


@contextlib.contextmanager
def passed_lingering(count: int) -> Iterator[socket.socket]:
    """Our end of a connection on which a peer has passed so many sockets, and kept none of them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with (
        ours,
        theirs,
        socket.create_server(("127.0.0.1", 0), backlog=count) as server,
        contextlib.ExitStack() as far,
    ):
        near = []
        for _ in range(count):
            sock = socket.create_connection(server.getsockname())
            far.enter_context(server.accept()[0])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(bytes(1 << 16))
            near.append(sock)
        numbers = array.array("i", [sock.fileno() for sock in near])
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        for sock in near:
            sock.close()  # not the last close: the message has it, too
        ours.setblocking(False)
        yield ours


def test_more_descriptors_than_a_message_carries_are_closed_at_once() -> None:
    with passed_lingering(4) as ours:
        began = time.monotonic()
        with pytest.raises(FrameError, match="too many in one message"):
            receive(ours, 100, max_fds=1)
        assert time.monotonic() - began < LINGER_S / 2


def test_connection_with_unread_descriptors_is_closed_at_once() -> None:
    with passed_lingering(2) as ours:
        began = time.monotonic()
        unblock.close_stream(ours)
        assert time.monotonic() - began < LINGER_S / 2
        assert ours.fileno() == -1


def test_closed_connection_takes_no_more() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        theirs.send(b"unread" * 1000)
        kept = ours.dup()
        unblock.close_stream(ours)
        with pytest.raises(BrokenPipeError):
            theirs.send(b"more")
        kept.close()


def test_peer_cannot_pass_what_is_not_wanted() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        refuse_descriptors(ours)
        try:
            assert ours.getsockopt(socket.SOL_SOCKET, 83) == 0
        except OSError:
            pytest.skip("this kernel cannot refuse descriptors")
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [theirs.fileno()])
        theirs.send(b"without")
        assert ours.recv(100) == b"without"
