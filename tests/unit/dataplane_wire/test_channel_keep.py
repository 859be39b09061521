"""What is lent to vnic-wire is kept before it is lent: a successor has to know who reads a descriptor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from tests.fakes.keeper import FakeKeeper
from tests.fakes.loops import fresh_loop, turn

from vnic.dataplane.wire.channel import SERIALS, Channel
from vnic.dataplane.wire.messages import (
    MAX_MESSAGE_BYTES,
    Event,
    Kind,
    PortAdd,
    PortRemove,
    Request,
    WireSet,
    parse_request,
)
from vnic.keep import NO_KEEP, Keep
from vnic.state.keep import StoredKeep


class User:
    def happened(self, event: Event) -> None:
        """There are none."""

    def channel_lost(self, reason: str) -> None:
        raise AssertionError(reason)


class Rig:
    def __init__(self, loop: asyncio.AbstractEventLoop, keep: Keep, serial: int = 0) -> None:
        self.loop = loop
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        self.channel = Channel(loop, ours, User(), keep=keep, serial=serial)

    def arrived(self) -> list[tuple[int, Request]]:
        found: list[tuple[int, Request]] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.theirs, MAX_MESSAGE_BYTES, 4)
            except BlockingIOError:
                return found
            for fd in fds:
                os.close(fd)
            found.append(parse_request(data))

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with fresh_loop() as loop:
        yield loop


ADD = PortAdd(1, Kind.TAP, max_frame=1514)


def test_a_descriptor_is_lent_after_the_commit(loop: asyncio.AbstractEventLoop) -> None:
    keeper = FakeKeeper()
    keep = keeper.start()
    keep.settle()
    commits: list[int] = []
    rig = Rig(loop, keep)
    plain = keep.commit
    keep.commit = lambda: (commits.append(len(rig.arrived())), plain())[1]  # type: ignore[func-returns-value,method-assign]
    rig.channel.request(PortRemove(7))
    rig.channel.request(ADD, [0])
    rig.channel.request(WireSet(1, (1,)))
    turn(loop)
    assert commits == [1], "the request before it is sent at once"
    assert [request for _, request in rig.arrived()] == [ADD, WireSet(1, (1,))]
    rig.channel.request(WireSet(1, ()))
    assert [request for _, request in rig.arrived()] == [WireSet(1, ())]
    rig.close()
    assert isinstance(keep, StoredKeep)
    keep.end()
    keeper.close()


def test_without_a_keep_nothing_waits(loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(loop, NO_KEEP)
    rig.channel.request(ADD, [0])
    assert [request for _, request in rig.arrived()] == [ADD]
    rig.close()


def test_serials_tell_of_which_process_a_request_is(loop: asyncio.AbstractEventLoop) -> None:
    """They count within theirs, and never come to those of another one."""
    rig = Rig(loop, NO_KEEP, serial=3 << 24 | SERIALS - 1)
    for _ in range(3):
        rig.channel.request(PortRemove(1))
    assert [serial for serial, _ in rig.arrived()] == [3 << 24 | SERIALS, 3 << 24, 3 << 24 | 1]
    rig.close()


def test_the_end_reaches_the_program_though_a_keeper_has_the_channel(loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(loop, NO_KEEP)
    kept = rig.channel.sock.dup()
    rig.channel.close()
    turn(loop)
    assert rig.theirs.recv(1) == b""
    kept.close()
    rig.close()
