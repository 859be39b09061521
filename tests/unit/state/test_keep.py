"""StoredKeep: what one process stores, the next one gets, whole and only where it is valid."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from tests.fakes.keeper import FakeKeeper

from vnic.keep import NO_HANDLES, NO_KEEP, Keep, NoHandles, descriptors_of
from vnic.record import Record, RecordError
from vnic.state.keep import StoredKeep
from vnic.state.store import RecordStore, StoreError

pytestmark = pytest.mark.in_a_child


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


def close(*fds: int | None) -> None:
    for fd in fds:
        if fd is not None:
            os.close(fd)


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


def test_handles_that_do_not_fit_are_refused_by_their_place(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    class OtherHandles(NamedTuple):
        kick: int
        call: socket.socket | None = None
        err: int = -1

    class WrongHandles(NamedTuple):
        kick: socket.socket

    fds = [os.eventfd(0), os.eventfd(0)]
    keep = keeper.start()
    for name in "abcd":
        keep.unit(name, Count(1, RingHandles(fds[0], fds[1])))
    keep.settle()
    lost = keeper.names[-1]
    keeper.files = [each for each in keeper.files if each[0] != lost]
    after = keeper.restart(keep)
    assert after.inherited("a", CountRecord, RingHandles) is None
    assert after.inherited("b", CountRecord, OtherHandles) is None
    assert after.inherited("c", CountRecord, WrongHandles) is None
    assert after.inherited("d", CountRecord, list[int]) is None
    begin = "its state cannot be restored, it starts anew: handles"
    assert caplog.messages == [
        f"a: {begin}.call: is {lost!r}, which the keeper has not passed",
        f"b: {begin}.call: is {lost!r}, which the keeper has not passed",
        f"c: {begin}.call: is unknown",
        f"d: {begin}: is no list",
    ]
    close(*fds)


def test_a_file_that_is_no_socket_is_refused(keeper: FakeKeeper, caplog: pytest.LogCaptureFixture) -> None:
    class SocketHandles(NamedTuple):
        kick: socket.socket
        call: int | None

    fd = os.eventfd(0)
    keep = keeper.start()
    keep.unit("a", Count(1, RingHandles(fd, None)))
    keep.settle()
    assert keeper.restart(keep).inherited("a", CountRecord, SocketHandles) is None
    assert "handles.kick: is '~0', which is no socket" in caplog.text
    close(fd)


def test_a_file_of_two_units_is_stored_once_until_both_have_ended(keeper: FakeKeeper) -> None:
    fd = os.eventfd(0)
    other = os.dup(fd)
    keep = keeper.start()
    first = keep.unit("a", Count(1, RingHandles(fd, fd)))
    second = keep.unit("b", Count(1, RingHandles(other, None)))
    keep.settle()
    assert len(keeper.files) == 2
    after = keeper.restart(keep)
    found = [after.inherited(key, CountRecord, RingHandles) for key in ("a", "b")]
    assert all(found)
    keep._active = True  # as if it had not been killed
    first.end()
    keep.commit()
    assert len(keeper.files) == 2
    second.end()
    keep.commit()
    assert keeper.names == ["vnic-state"]
    close(fd, other, *(each for pair in found if pair for each in pair[1]))


def test_new_descriptors_are_stored_before_the_record_and_old_ones_removed_after_it(
    keeper: FakeKeeper,
) -> None:
    old, new = os.eventfd(0), os.eventfd(0)
    unit = Count(1, RingHandles(old, None))
    keep = keeper.start()
    kept = keep.unit("a", unit)
    keep.settle()
    keeper.messages.clear()
    unit.handles = RingHandles(new, None)
    kept.changed()
    keep.commit()
    assert keeper.messages == []  # nothing said that descriptors have changed
    kept.handles_changed()
    keep.commit()
    assert keeper.messages == [["FDSTORE=1", "FDNAME=~1", "FDPOLL=0"], ["FDSTOREREMOVE=1", "FDNAME=~0"]]
    close(old, new)


def test_a_unit_of_the_same_key_takes_the_place(keeper: FakeKeeper) -> None:
    fds = [os.eventfd(0), os.eventfd(0)]
    keep = keeper.start()
    first = keep.unit("a", Count(1, RingHandles(fds[0], None)))
    keep.settle()
    keep.unit("a", Count(2, RingHandles(fds[1], None)))
    first.changed()
    first.end()  # too late to end the other
    keep.commit()
    assert keeper.names == ["vnic-state", "~1"]
    found = keeper.restart(keep).inherited("a", CountRecord, RingHandles)
    assert found is not None
    assert found[0].count == 2
    close(*fds, found[1].kick)


def test_a_unit_that_cannot_be_saved_loses_its_record_and_no_other(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.eventfd(0)
    keep = keeper.start()
    bad = Count(1, RingHandles(fd, None))
    kept = keep.unit("a", bad)
    other = Count(1)
    other_kept = keep.unit("b", other)
    keep.settle()
    closed = os.dup(fd)
    os.close(closed)
    bad.handles = RingHandles(fd, closed)
    for _ in range(3):
        other.count += 1
        kept.handles_changed()
        other_kept.changed()
        keep.commit()
    assert caplog.messages == ["a: its state cannot be stored: [Errno 9] Bad file descriptor"]
    assert keeper.names == ["vnic-state"]
    after = keeper.restart(keep)
    assert after.keys() == ["b"]
    assert counted(after, "b") == 4
    keep._active = True
    bad.handles = RingHandles(fd, None)
    kept.changed()
    keep.commit()
    assert sorted(keeper.restart(keep).keys()) == ["a", "b"]
    close(fd)


def test_a_new_file_of_a_unit_that_cannot_be_saved_stays_with_another(keeper: FakeKeeper) -> None:
    fd = os.eventfd(0)
    closed = os.dup(fd)
    os.close(closed)
    keep = keeper.start()
    keep.unit("good", Count(1, RingHandles(fd, None)))
    keep.unit("bad", Count(1, RingHandles(fd, closed)))
    keep.settle()
    assert keep.active
    found = keeper.restart(keep).inherited("good", CountRecord, RingHandles)
    assert found is not None
    close(fd, found[1].kick)


def test_more_descriptors_than_the_keeper_takes_cost_only_the_unit_that_has_them(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    fds = [os.eventfd(0) for _ in range(5)]
    keep = StoredKeep(keeper, most=3)
    keep.unit("small", Count(1, fds[:2]))
    keep.unit("large", Count(1, fds[2:]))
    keep.settle()
    assert "large: its state cannot be stored" in caplog.text
    assert "no more than 3 descriptors" in caplog.text
    assert keep.active
    assert len(keeper.files) == 3
    close(*fds)


def test_a_keeper_that_is_gone_ends_the_keeping_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    keeper = FakeKeeper()
    fd = os.eventfd(0)
    keep = keeper.start()
    unit = Count(1)
    kept = keep.unit("a", unit)
    keep.settle()
    cells = keep.cells("a", 1)
    passed = keeper.passed()
    keeper.close()
    unit.handles = RingHandles(fd, None)
    for _ in range(3):
        kept.handles_changed()
        keep.commit()
        kept.commit()
        cells[0] += 1
    assert caplog.messages == [
        "the state is no longer kept, a restart will be seen by guests: the keeper does not answer: Connection refused"
    ]
    assert not keep.active
    kept.end()
    keep.unit("b", unit).changed()
    assert list(keep.cells("c", 2)) == [0, 0]
    keep.end()
    close(fd)

    caplog.clear()
    after = FakeKeeper()  # what was stored is out of date, and is not taken
    anew = StoredKeep(after, passed)
    assert anew.keys() == []
    assert "everything starts anew: it is no store, or it was given up" in caplog.text
    after.close()


def test_an_orderly_end_leaves_nothing(keeper: FakeKeeper) -> None:
    fd = os.eventfd(0)
    keep = keeper.start()
    keep.unit("a", Count(1, RingHandles(fd, None)))
    keep.settle()
    keep.end()
    keep.end()
    assert keeper.files == []
    assert not keep.active
    assert keeper.start().keys() == []
    close(fd)


def test_descriptors_of_others_are_left_alone(keeper: FakeKeeper) -> None:
    """Those that systemd passes of a .socket unit."""
    theirs = os.eventfd(0)
    keep = StoredKeep(keeper, [("vnic.socket", theirs)])
    keep.settle()
    os.fstat(theirs)
    close(theirs)


def test_an_age_is_that_of_the_record(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    keep.unit("a", Count(1))
    keep.settle()
    time.sleep(0.02)
    after = keeper.restart(keep)
    assert 20_000 <= after.age_us("a") < 20_000_000
    assert after.inherited("a", CountRecord, NoHandles)
    assert after.age_us("a") >= 20_000
    assert after.age_us("b") == 0


def test_cells_of_another_count_are_new_ones(keeper: FakeKeeper) -> None:
    keep = keeper.start()
    keep.cells("a", 2)[0] = 7
    keep.cells("b", 2)[0] = 8
    keep.settle()
    assert keep.cells("a", 2)[0] == 7
    after = keeper.restart(keep)
    assert list(after.inherited_cells("a") or ()) == [7, 0]
    assert list(after.cells("a", 3)) == [0, 0, 0]
    assert list(after.cells("b", 2)) == [8, 0]
    assert after.inherited_cells("c") is None
    after.unit("b", Count(1)).end()
    after.settle()
    third = keeper.restart(after)
    assert third.inherited_cells("b") is None
    assert list(third.inherited_cells("a") or ()) == [0, 0, 0]


def test_a_damaged_record_is_refused_by_its_key_and_the_rest_is_taken(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    keep = keeper.start()
    for name in "abc":
        keep.unit(f"nic/{name}", Count(ord(name)))
    keep.settle()
    store = keep._store
    assert store is not None
    start, size = store._places["nic/b"]
    store._log[start + size - 1] ^= 1
    after = keeper.restart(keep)
    assert caplog.messages == ["nic/b: its state cannot be restored, it starts anew: it is damaged"]
    assert [counted(after, f"nic/{name}") for name in "abc"] == [97, None, 99]
    after.unit("nic/a", Count(1))
    after.settle()
    caplog.clear()
    assert keeper.restart(after).keys() == ["nic/a"]
    assert caplog.messages == []


def test_a_commit_costs_no_more_with_thousands_of_other_units(keeper: FakeKeeper) -> None:
    def cost(others: int) -> float:
        keep = keeper.start()
        for number in range(others):
            keep.unit(f"nic/{number}", Count(number))
        unit = Count(0)
        kept = keep.unit("x", unit)
        keep.settle()
        best = 1.0
        for _ in range(100):
            begun = time.perf_counter()
            kept.commit()
            best = min(best, time.perf_counter() - begun)
        keep.end()
        return best

    assert cost(3000) < 3 * cost(0) + 50e-6


def test_a_refused_unit_lets_its_descriptors_go_at_once(keeper: FakeKeeper) -> None:
    """It starts anew, on the same port. What another unit has, or may take, stays."""
    fds = [os.eventfd(0) for _ in range(3)]
    keep = keeper.start()
    keep.unit("a", Count(1, RingHandles(fds[0], fds[1])))
    keep.unit("b", Count(1, RingHandles(fds[1], fds[2])))
    keep.settle()
    after = keeper.restart(keep)
    found = after.inherited("a", CountRecord, RingHandles)
    assert found is not None
    close(*found[1])
    keeper.messages.clear()
    after.refused("a", RecordError("count", "is odd"))
    assert keeper.messages == [["FDSTOREREMOVE=1", "FDNAME=~0"], ["BARRIER=1"]]
    other = after.inherited("b", CountRecord, RingHandles)
    assert other is not None
    after.unit("a", Count(2))
    after.unit("b", Count(1, other[1]))
    after.settle()
    assert sorted(keeper.names) == ["vnic-state", "~1", "~2"]
    close(*fds, *other[1])


def test_a_record_refused_twice_is_still_refused_by_the_next_process(
    keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """It was killed before it settled, and the descriptors are gone already."""
    fd = os.eventfd(0)
    keep = keeper.start()
    keep.unit("a", Count(1, RingHandles(fd, None)))
    keep.settle()
    after = keeper.restart(keep)
    assert after.inherited("a", CountRecord, NoHandles) is None
    third = keeper.restart(after)
    assert third.inherited("a", CountRecord, RingHandles) is None
    assert "which the keeper has not passed" in caplog.messages[-1]
    close(fd)


def test_descriptors_of_an_ended_unit_are_waited_for(keeper: FakeKeeper) -> None:
    """Until the keeper has closed them, their port is in use."""

    async def run() -> None:
        keep = StoredKeep(Slow(keeper), keeper.passed())
        fd = os.eventfd(0)
        kept = keep.unit("a", Count(1, RingHandles(fd, None)))
        keep.settle()
        assert keep.letting_go() is None
        kept.end()
        waiting = keep.letting_go()
        assert waiting is not None
        done = asyncio.ensure_future(waiting)
        await asyncio.sleep(0.01)
        assert not done.done()
        keeper.read()
        await done
        assert keeper.names == ["vnic-state"]
        assert keep.letting_go() is None
        close(fd)

    asyncio.run(run())


class Slow:
    """A keeper that has sent its answers, and reads only when the test says so."""

    def __init__(self, keeper: FakeKeeper) -> None:
        self.store, self.remove, self.barrier = (
            keeper.client.store,
            keeper.client.remove,
            keeper.client.barrier,
        )


def test_cells_that_cannot_be_freed_end_keeping(
    keeper: FakeKeeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(store: RecordStore, key: str) -> None:
        raise StoreError("no memory")

    keep = keeper.start()
    keep.cells("nic/a", 2)
    kept = keep.unit("nic/a", Count(1))
    keep.settle()
    monkeypatch.setattr(RecordStore, "free_cells", no_memory)
    kept.end()
    assert not keep.active
    assert "no memory" in caplog.text


def test_descriptors_are_found_among_all_that_handles_may_hold() -> None:
    handles = CountHandles(None, {1: RingHandles(4, None)}, [5, 6], -1, object())
    assert list(descriptors_of(("text", handles, {"path": "/a"}))) == [4, 5, 6]
