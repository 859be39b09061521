"""A connection that is killed at any line: each message is carried out and answered exactly once, in order."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.fakes.kept import FakeKeep, mapped
from tests.fakes.killer import Killed, Killer
from tests.fakes.loops import no_fd_leak

from vnic.descriptors import close_fds
from vnic.record import Record
from vnic.sockets import kept_connection
from vnic.sockets.connection import Connection, ConnectionRecord
from vnic.sockets.kept_connection import KeptConnection

MESSAGE = struct.Struct("<II")
"""A number, and the bytes that are wanted in reply."""


class CounterRecord(Record, frozen=True):
    """A user's."""

    carried_out: list[int]
    begun: bytes
    descriptors: int
    connection: ConnectionRecord


class CounterHandles(NamedTuple):
    sock: int
    outbox: int
    output: Sequence[Sequence[int]]
    held: Sequence[int]


class Keeper(FakeKeep):
    """With the socket objects of the process, which a kill takes the descriptors of."""

    def __init__(self) -> None:
        super().__init__()
        self.socks: list[socket.socket] = []

    def end_process(self, others: set[int]) -> None:
        """Close what a process has open: all descriptors but those of the keeper and of `others`."""
        self.forget_process()
        for sock in self.socks:
            sock.detach()
        self.socks.clear()
        mine: set[int] = set()
        for _, handles in self.kept.values():
            mapped(handles, lambda fd: mine.add(fd) or fd)  # type: ignore[func-returns-value]
        for fd in descriptors() - others - mine:
            os.close(fd)


def descriptors() -> set[int]:
    with os.scandir("/proc/self/fd") as entries:
        found = {int(entry.name) for entry in entries}
    return {fd for fd in found if is_open(fd)}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False  # that of the folder itself
    return True


class HandLoop:
    """An event loop that a test turns, and in which an exception escapes to the test."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.soon: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        self.soon.append((callback, args))

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        self.readers[fd] = callback

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> Any:
        self.writers[fd] = callback

    def remove_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd, None) is not None

    def remove_writer(self, fd: Any) -> bool:
        return self.writers.pop(fd, None) is not None

    def turn(self) -> bool:
        """Whether there was anything to do."""
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)
        ready: list[Callable[[], None]] = []
        for table, event in ((self.readers, selectors.EVENT_READ), (self.writers, selectors.EVENT_WRITE)):
            with selectors.PollSelector() as selector:
                for fd in table:
                    selector.register(fd, event)
                ready += [table[key.fd] for key, _ in selector.select(0)]
        for callback in ready:
            callback()
        return bool(soon or ready)


class Counter:
    """ConnectionUser and Unit: it notes each message, and replies with as many bytes as that wants."""

    wanted = 100

    def __init__(self, loop: HandLoop, keep: Keeper, sock: socket.socket, outbox: int | None = None) -> None:
        self.kept = keep.unit("vm/nic0", self)
        self.carried_out: list[int] = []
        self.begun = b""
        self.held: list[int] = []
        self.lost_for: list[str | None] = []
        self.seen: list[tuple[int, int]] = []
        """The bytes and the descriptors of each piece."""
        self.connection = KeptConnection(
            cast(asyncio.AbstractEventLoop, loop), sock, self, self.kept, max_fds=8, outbox=outbox
        )

    def received(self, data: bytes, fds: list[int]) -> None:
        self.seen.append((len(data), len(fds)))
        self.held += fds
        self.begun += data
        while len(self.begun) >= MESSAGE.size:
            number, wanted = MESSAGE.unpack_from(self.begun)
            self.begun = self.begun[MESSAGE.size :]
            self.carried_out.append(number)
            if wanted:
                self.connection.send(reply(number, wanted))

    def lost(self, reason: str | None) -> None:
        self.lost_for.append(reason)

    def save_kept(self) -> tuple[CounterRecord, CounterHandles]:
        record = CounterRecord(
            carried_out=list(self.carried_out),
            begun=self.begun,
            descriptors=len(self.held),
            connection=self.connection.save(),
        )
        sock = self.connection.sock.fileno()
        return record, CounterHandles(sock, self.connection.outbox, self.connection.fds, self.held)

    @classmethod
    def restored(cls, loop: HandLoop, keep: Keeper) -> Counter:
        found = keep.inherited("vm/nic0", CounterRecord, CounterHandles)
        assert found is not None
        record, handles = found
        sock = socket.socket(fileno=handles.sock)
        keep.socks.append(sock)
        counter = cls(loop, keep, sock, handles.outbox)
        counter.carried_out, counter.begun = list(record.carried_out), record.begun
        counter.held = list(handles.held)
        counter.connection.restore(record.connection, handles.output)
        counter.connection.go_on()
        return counter


def reply(number: int, size: int) -> bytes:
    return (MESSAGE.pack(number, size) * (size // MESSAGE.size + 1))[:size]


class Exchange(NamedTuple):
    """What a peer writes, and with how many descriptors; it reads so many bytes of replies in a turn."""

    messages: Sequence[tuple[int, int]]
    fds: int = 0
    reads: int = 1 << 20
    cut: int = 0
    """So many bytes of the last message are written later."""


EXCHANGES = {
    "one": [Exchange([(1, 12)])],
    "without a reply": [Exchange([(1, 0)]), Exchange([(2, 0), (3, 0)])],
    "equal ones": [Exchange([(1, 12), (1, 12), (1, 12)]), Exchange([(1, 12)])],
    "with descriptors": [Exchange([(1, 12)], 1), Exchange([(2, 0)], 8), Exchange([(3, 20)])],
    "in two pieces": [Exchange([(1, 12), (2, 12)], cut=3), Exchange([(3, 12)])],
    "many replies": [Exchange([(number, 900) for number in range(12)])],
    "replies of several pages": [Exchange([(1, 5000), (2, 100_000), (3, 8)])],
    "peer that reads slowly": [Exchange([(1, 250_000), (2, 90_000), (3, 8)], reads=40_000)],
}


class Play:
    """A peer, and a counter that is killed and restored."""

    def __init__(self, kills: Sequence[int]) -> None:
        self.others = descriptors()
        self.keep = Keeper()
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.others.add(self.theirs.fileno())
        self.keep.socks.append(ours)
        self.loop = HandLoop()
        self.counter: Counter | None = Counter(self.loop, self.keep, ours)
        self.keep.commit()
        self.killer = Killer({kept_connection.__file__}, kills)
        self.deaths = 0
        self.got = bytearray()

    def turn(self) -> bool:
        try:
            with self.killer.at_work():
                if self.counter is not None:
                    return self.loop.turn()
                self.loop = HandLoop()
                self.counter = Counter.restored(self.loop, self.keep)
        except Killed:
            self.deaths += 1
            self.counter = None
            self.keep.end_process(self.others)
        return True

    def settle(self, reads: int) -> None:
        while True:
            busy = self.turn()
            try:
                self.got += self.theirs.recv(reads)
            except BlockingIOError:
                if not busy:
                    return

    def write(self, data: bytes, fds: int) -> None:
        passed = [os.eventfd(0) for _ in range(fds)]
        socket.send_fds(self.theirs, [data], passed)
        close_fds(passed)

    def end(self) -> None:
        assert self.counter is not None
        self.counter.connection.close()
        close_fds(self.counter.held)
        self.theirs.close()
        self.keep.close()


def play(exchanges: Sequence[Exchange], *kills: int) -> int:
    """The number of lines that ran, with kills before these lines; checks what came of the exchanges."""
    run = Play(kills)
    for exchange in exchanges:
        data = b"".join(MESSAGE.pack(*each) for each in exchange.messages)
        end = len(data) - exchange.cut
        run.write(data[:end], exchange.fds)
        run.settle(exchange.reads)
        if exchange.cut:
            run.write(data[end:], 0)
            run.settle(exchange.reads)
    messages = [message for exchange in exchanges for message in exchange.messages]
    counter = run.counter
    assert counter is not None
    assert run.deaths == sum(kill <= run.killer.lines for kill in kills)
    assert counter.carried_out == [number for number, _ in messages]
    assert run.got == b"".join(reply(*each) for each in messages)
    assert len(counter.held) == sum(exchange.fds for exchange in exchanges)
    assert counter.begun == b""
    assert not counter.lost_for
    assert counter.connection.at_rest
    run.end()
    return run.killer.lines


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.in_a_child
def test_killed_at_any_line_each_message_is_answered_exactly_once(name: str) -> None:
    """And killed again while it is restored, at the end of which it stands some thirty lines later."""
    with no_fd_leak():
        lines = play(EXCHANGES[name])
        for line in range(1, lines + 1, max(1, lines // 80)):
            play(EXCHANGES[name], line)
            again = line + 1 + line % 40
            play(EXCHANGES[name], line, again, again + 1 + line % 7)


class AnyTime(RuleBasedStateMachine):
    """A peer writes whatever it likes, reads as much as it likes, and the process is killed at any line."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Play(())
        self.messages: list[tuple[int, int]] = []
        self.unsent = b""
        self.passed = 0

    def teardown(self) -> None:
        self.write_rest()
        self.run.killer.disarm()
        self.run.settle(1 << 20)
        counter = self.run.counter
        assert counter is not None
        assert counter.carried_out == [number for number, _ in self.messages]
        assert self.run.got == b"".join(reply(*each) for each in self.messages)
        assert len(counter.held) == self.passed
        assert counter.connection.at_rest
        assert not counter.lost_for
        self.run.end()

    @rule(
        sizes=st.lists(st.sampled_from([0, 0, 8, 20, 5000, 70_000]), min_size=1, max_size=6),
        fds=st.integers(0, 3),
        cut=st.integers(0, MESSAGE.size),
        same=st.booleans(),
    )
    def write(self, sizes: list[int], fds: int, cut: int, same: bool) -> None:
        self.write_rest()
        number = len(self.messages)
        added = [(0 if same else number + at, size) for at, size in enumerate(sizes)]
        self.messages += added
        data = b"".join(MESSAGE.pack(*each) for each in added)
        end = len(data) - cut
        if end:
            self.run.write(data[:end], fds)
            self.passed += fds
        self.unsent = data[end:]

    @rule()
    def write_rest(self) -> None:
        if self.unsent:
            self.run.write(self.unsent, 0)
            self.unsent = b""

    @rule(lines=st.integers(1, 150))
    def kill(self, lines: int) -> None:
        self.run.killer.arm(lines)

    @rule(turns=st.integers(1, 4))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.run.turn()

    @rule(reads=st.integers(1, 100_000))
    def read(self, reads: int) -> None:
        with suppress(BlockingIOError):
            self.run.got += self.run.theirs.recv(reads)


@pytest.mark.in_a_child
def test_killed_at_any_time() -> None:
    run_state_machine_as_test(
        AnyTime, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )


class CountedSocket(socket.socket):
    """Notes the system calls."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.calls: list[str] = []

    def recvmsg(self, *args: Any) -> Any:
        self.calls.append("recvmsg")
        return super().recvmsg(*args)

    def recv(self, *args: Any) -> Any:
        self.calls.append("recv")
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        self.calls.append("send")
        return super().send(*args)

    def setsockopt(self, *args: Any) -> None:
        self.calls.append("setsockopt")
        super().setsockopt(*args)


@pytest.mark.parametrize("kept", [False, True])
def test_a_connection_that_is_not_kept_makes_no_call_more(kept: bool) -> None:
    loop, keep = HandLoop(), Keeper()
    ours, theirs = socket.socketpair()
    sock = CountedSocket(ours)
    counter = Counter(loop, keep, sock)
    if not kept:
        counter.connection.close()
        theirs.close()
        ours, theirs = socket.socketpair()
        sock = CountedSocket(ours)
        counter.connection = Connection(cast(asyncio.AbstractEventLoop, loop), sock, counter, max_fds=8)  # type: ignore[assignment]
    if kept:
        keep.commit()
    commits = keep.commits
    theirs.send(MESSAGE.pack(1, 12))
    loop.turn()
    assert theirs.recv(100) == reply(1, 12)
    if kept:
        exchange = ["recvmsg", "setsockopt", "recv", "setsockopt"]  # and a write, a splice, and the commit
        assert (sock.calls, keep.commits) == ([*exchange, "recvmsg"], commits + 1)
    else:
        assert (sock.calls, keep.commits) == (["recvmsg", "send", "recvmsg"], commits)
    counter.connection.close()
    theirs.close()
    keep.close()


@pytest.mark.parametrize("sizes", [[8, 8, 40, 48], [100], [96], [50, 50]])
@pytest.mark.in_a_child
def test_descriptors_are_those_of_their_own_message(sizes: list[int]) -> None:
    """Also if a peek that is full has those of a later message; killed at any line in addition."""

    def run(*kills: int) -> int:
        play = Play(kills)
        for size in sizes:
            play.write(bytes(size), 0)
        play.write(bytes(8), 1)
        counter = play.counter
        assert counter is not None
        seen: list[tuple[int, int]] = []
        counter.seen = seen
        play.settle(1 << 20)
        counter = play.counter
        assert counter is not None
        assert len(counter.held) == 1
        if not kills:
            before = sum(sizes) // 100 * 100
            assert all(not fds for size, fds in seen[: before // 100])
        assert len(counter.carried_out) * 8 + len(counter.begun) == sum(sizes) + 8
        assert counter.connection.at_rest
        play.end()
        return play.killer.lines

    with no_fd_leak():
        lines = run()
        for line in range(1, lines + 1):
            run(line)
            run(line, line + 1 + line % 40)
