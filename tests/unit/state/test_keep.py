"""Keep: what one process stores, the next one gets, whole and only where it is valid."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from tests.fakes.keeper import FakeKeeper

from vnic.keep import NO_KEEP, Keep
from vnic.record import Record
from vnic.state.handles import NO_HANDLES, NoHandles


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    keeper = FakeKeeper()
    yield keeper
    keeper.close()


class CountRecord(Record, frozen=True):
    count: int


class RingHandles(NamedTuple):
    kick: int | None
    call: int | None


class CountHandles(NamedTuple):
    sock: socket.socket | None = None
    rings: dict[int, RingHandles] = {}  # noqa: RUF012
    memory: Sequence[int] = ()
    ending: int = -1
    device: object = None


class Count:
    """A unit with a number, and handles that a test sets."""

    def __init__(self, count: int, handles: object = NO_HANDLES) -> None:
        self.count = count
        self.handles = handles

    def save_kept(self) -> tuple[Record, object]:
        return CountRecord(count=self.count), self.handles


def counted(keep: Keep, key: str) -> int | None:
    found = keep.inherited(key, CountRecord, NoHandles)
    return None if found is None else found[0].count


def test_the_next_process_gets_what_was_committed_last(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    unit = Count(1)
    kept = keep.unit("nic/a", unit)
    keep.settle()
    unit.count = 2
    kept.changed()
    keep.commit()
    unit.count = 3
    kept.changed()  # and killed before the commit

    after = keeper.restart(keep)
    assert after.keys() == ["nic/a"]
    assert counted(after, "nic/a") == 2
    assert counted(after, "nic/a") is None  # taken


def test_changes_are_stored_when_the_turn_ends(keeper: FakeKeeper) -> None:
    later: list[Any] = []
    keep = keeper.start(later.append)
    keep.settle()
    keep.unit("nic/a", Count(1))
    keep.unit("nic/b", Count(2))
    assert len(later) == 1
    later.pop()()
    after = keeper.restart(keep)
    assert sorted(after.keys()) == ["nic/a", "nic/b"]


def test_descriptors_are_the_same_files(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    ours, theirs = socket.socketpair()
    kick, memory = os.eventfd(0), os.memfd_create("m")
    handles = CountHandles(ours, {3: RingHandles(kick, None)}, [memory, memory], -1, object())
    keep.unit("nic/a", Count(1, handles))
    keep.settle()
    for fd in (kick, memory):
        os.close(fd)
    ours.close()

    after = keeper.restart(keep)
    found = after.inherited("nic/a", CountRecord, CountHandles)
    assert found is not None
    _, got = found
    assert got.sock is not None
    assert got.ending == -1
    assert got.device is None
    assert list(got.rings) == [3]
    with got.sock, theirs:
        theirs.send(b"x")
        assert got.sock.recv(2) == b"x"
        kick_after = got.rings[3].kick
        assert kick_after is not None
        assert got.rings[3].call is None
        os.eventfd_write(kick_after, 5)
        assert os.eventfd_read(kick_after) == 5
    for fd in (kick_after, *got.memory):
        os.close(fd)


def test_a_unit_that_ended_leaves_nothing(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    fd = os.eventfd(0)
    kept = keep.unit("nic/a", Count(1, RingHandles(fd, None)))
    keep.settle()
    assert len(keeper.files) == 2
    kept.end()
    keep.commit()
    assert keeper.names == ["vnic-state"]
    os.close(fd)
    assert keeper.restart(keep).keys() == []


def test_settle_forgets_what_was_not_taken(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    fds = [os.eventfd(0) for _ in range(2)]
    keep.unit("nic/a", Count(1, RingHandles(fds[0], None)))
    keep.unit("nic/b", Count(2, RingHandles(fds[1], None)))
    keep.cells("nic/a", 2)[1] = 7
    keep.cells("nic/b", 2)
    keep.settle()

    after = keeper.restart(keep)
    found = after.inherited("nic/a", CountRecord, RingHandles)
    assert found is not None
    after.unit("nic/a", Count(found[0].count, found[1]))
    assert after.cells("nic/a", 2)[1] == 7
    after.settle()
    assert len(keeper.files) == 2
    third = keeper.restart(after)
    assert third.keys() == ["nic/a"]
    assert third.inherited_cells("nic/b") is None
    for fd in (*fds, found[1].kick):
        assert fd is not None
        os.close(fd)


def test_a_process_that_is_killed_while_it_restores_leaves_the_state_as_it_was(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    keep.unit("nic/a", Count(1))
    keep.unit("nic/b", Count(2))
    keep.settle()

    after = keeper.restart(keep)
    assert counted(after, "nic/a") == 1
    after.unit("nic/a", Count(10))
    after.commit()
    third = keeper.restart(after)
    assert (counted(third, "nic/a"), counted(third, "nic/b")) == (1, 2)


def test_without_a_keeper_nothing_is_stored() -> None:
    kept = NO_KEEP.unit("nic/a", Count(1))
    kept.changed()
    kept.handles_changed()
    NO_KEEP.commit()
    kept.end()
    NO_KEEP.settle()
    assert not NO_KEEP.active
    assert NO_KEEP.keys() == []
    assert NO_KEEP.inherited("nic/a", CountRecord, NoHandles) is None
    assert list(NO_KEEP.cells("nic/a", 3)) == [0, 0, 0]


def test_a_record_of_another_kind_is_refused_by_its_key(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    class OtherRecord(Record, frozen=True):
        count: int

    keep = keeper.start()
    keep.unit("nic/a", Count(1))
    keep.settle()
    after = keeper.restart(keep)
    with caplog.at_level(logging.ERROR):
        assert after.inherited("nic/a", OtherRecord, NoHandles) is None
    assert caplog.messages == [
        "nic/a: its state cannot be restored, it starts anew: kind: is 'Count', not 'Other'"
    ]
