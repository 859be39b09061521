"""A delay line in a simulated time: when frames leave, in which order, how many it keeps, and its state."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.scheduler import FakeScheduler

from vnic.net.clock import Clock
from vnic.net.netem.info import Counts
from vnic.net.netem.line import BYTES_LIMIT, Line
from vnic.net.netem.parameters import NOTHING, changed
from vnic.net.netem.random import streams
from vnic.net.queue import FLUSH_BUDGET

MS = 1_000_000


class Bench:
    def __init__(self, at_s: float = 0.0, **words: Any) -> None:
        self.time = FakeScheduler()
        self.time.now = at_s
        self.left: list[tuple[float, bytes]] = []
        clock = Clock(lambda: round(self.time.now * 1e9))
        parameters = changed(NOTHING, {key.replace("_", "-"): value for key, value in words.items()})
        self.line = Line(self.time, clock, parameters, streams(7)[0], self.released)

    def released(self, queue: int, frame: bytes, offload: bytes) -> None:
        self.left.append((round(self.time.now * 1000, 6), frame))

    def put(self, *frames: bytes) -> list[bool]:
        """Whether each was taken; one that was not passes at once."""
        taken = []
        for frame in frames:
            taken.append(self.line.put(0, frame, b""))
            if not taken[-1]:
                self.left.append((round(self.time.now * 1000, 6), frame))
        return taken


def test_frames_leave_after_the_delay() -> None:
    bench = Bench(delay="10ms")
    bench.put(b"1")
    bench.time.advance(0.004)
    bench.put(b"2")
    bench.time.advance(1)
    assert bench.left == [(10.0, b"1"), (14.0, b"2")]
    assert bench.line.counts.passed == 2
    assert not bench.line.waiting


def test_frames_without_delay_pass_at_once() -> None:
    bench = Bench(loss="50%")
    frames = [bytes([each]) for each in range(100)]
    bench.put(*frames)
    assert bench.line.counts.passed + bench.line.counts.lost == 100
    assert len(bench.left) == bench.line.counts.passed
    bench.time.advance(1)
    assert len(bench.left) == bench.line.counts.passed


def test_a_copy_keeps_its_place() -> None:
    bench = Bench(duplicate="100%")
    bench.put(b"1", b"2")
    bench.time.advance()
    assert [frame for _, frame in bench.left] == [b"1", b"1", b"2", b"2"]


def test_a_frame_waits_behind_those_that_are_due() -> None:
    """The loop was late: what is due leaves first."""
    bench = Bench(delay="10ms")
    bench.put(b"1")
    bench.time.now += 0.05
    bench.line.set(NOTHING)
    assert bench.put(b"2") == [True]
    bench.time.advance()
    assert [frame for _, frame in bench.left] == [b"1", b"2"]


def test_reordered_frames_overtake() -> None:
    bench = Bench(delay="10ms", gap=3)
    bench.put(b"1", b"2", b"3", b"4")
    assert bench.left == [(0.0, b"3")]
    bench.time.advance(1)
    assert [frame for _, frame in bench.left] == [b"3", b"1", b"2", b"4"]


def test_jitter_reorders_unless_rate_keeps_the_order() -> None:
    frames = [bytes([each]) for each in range(50)]

    def order(**words: Any) -> list[bytes]:
        bench = Bench(delay="10ms", jitter="9ms", **words)
        bench.put(*frames)
        bench.time.advance(5)
        return [frame for _, frame in bench.left]

    assert sorted(order()) == frames
    assert order() != frames
    assert order(rate="1gbit") == frames


def test_rate_is_exact() -> None:
    bench = Bench(rate="7kbps", limit=1_000_000)
    bench.put(*[bytes(1000)] * 7)
    bench.time.advance(10)
    assert [int(time * 1e6) for time, _ in bench.left] == [n * 10**9 // 7 for n in range(1, 8)]


def test_rate_and_delay_add_up() -> None:
    bench = Bench(rate="8kbit", delay="100ms")
    bench.put(bytes(10), bytes(10))
    bench.time.advance(1)
    assert [time for time, _ in bench.left] == [110.0, 120.0]


def test_limit_drops_and_counts() -> None:
    bench = Bench(delay="10ms", limit=3)
    bench.put(*[b"x"] * 5)
    assert (bench.line.waiting, bench.line.counts.over_limit) == (3, 2)
    bench.time.advance(1)
    bench.put(b"y")
    assert bench.line.waiting == 1


def test_bytes_are_bounded() -> None:
    bench = Bench(delay="10ms", limit=1_000_000)
    size = 1 << 20
    bench.put(*[bytes(size)] * (BYTES_LIMIT // size + 5))
    assert bench.line.counts.over_limit == 5


def test_a_turn_of_the_loop_is_bounded() -> None:
    bench = Bench(delay="10ms", limit=10 * FLUSH_BUDGET)
    bench.put(*[b"x"] * (3 * FLUSH_BUDGET))
    turns: list[int] = []
    bench.time.call_later(0.01, lambda: turns.append(len(bench.left)))
    bench.time.advance(1)
    assert turns == [FLUSH_BUDGET]
    assert len(bench.left) == 3 * FLUSH_BUDGET


def test_parameters_change_and_what_is_under_way_keeps_its_time() -> None:
    bench = Bench(delay="50ms")
    bench.put(b"old")
    bench.line.set(changed(NOTHING, {"delay": "10ms"}))
    bench.put(b"new")
    bench.time.advance(1)
    assert bench.left == [(10.0, b"new"), (50.0, b"old")]


def test_drop_leaves_nothing() -> None:
    bench = Bench(delay="10ms", rate="8kbit")
    bench.put(b"1", b"2")
    assert bench.line.drop() == 2
    bench.time.advance(1)
    assert not bench.left


@settings(max_examples=60, deadline=None)
@given(
    words=st.fixed_dictionaries(
        {},
        optional={
            "loss": st.sampled_from(["1%", "50%"]),
            "duplicate": st.sampled_from(["5%", "100%"]),
            "corrupt": st.just("20%"),
            "rate": st.sampled_from(["1mbit", "10gbit"]),
            "limit": st.integers(1, 30),
        },
    ),
    jitter=st.sampled_from(["0", "1ms", "30ms"]),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 30)), max_size=40),
    cut=st.integers(0, 40),
)
def test_a_restored_line_goes_on_as_the_saved_one(
    words: dict[str, Any], jitter: str, steps: list[tuple[int, int]], cut: int
) -> None:
    """Whatever passes, and whenever the state is taken, the frames leave at the same times; none is made up."""
    whole = Bench(delay="10ms", jitter=jitter, **words)
    parts = Bench(delay="10ms", jitter=jitter, **words)
    sent = itertools.count()
    for number, (size, wait_ms) in enumerate(steps):
        if number == cut:
            fresh = Bench(parts.time.now, delay="10ms", jitter=jitter, **words)
            fresh.line.restore(parts.line.save())
            assert fresh.line.save() == parts.line.save()
            fresh.left = parts.left
            parts = fresh
        frame = bytes(size) + next(sent).to_bytes(2)
        whole.put(frame)
        parts.put(frame)
        whole.time.advance(wait_ms / 1000)
        parts.time.advance(wait_ms / 1000)
    whole.time.advance(3600)
    parts.time.advance(3600)
    assert [frame for _, frame in parts.left] == [frame for _, frame in whole.left]
    assert [time for time, _ in parts.left] == pytest.approx([time for time, _ in whole.left])
    counts = whole.line.counts
    assert counts == parts.line.counts
    assert (
        counts.passed == len(whole.left) == len(steps) - counts.lost + counts.duplicated - counts.over_limit
    )


def test_frames_wait_while_the_stream_is_on_its_way_back() -> None:
    """Then they have the fate that follows in the stream, which another process went on with."""
    whole, parts = Bench(loss="50%"), Bench(loss="50%")
    frames = [bytes([each]) for each in range(60)]
    whole.put(*frames)
    other = Bench(loss="50%")
    parts.put(*frames[:20])
    other.line.set(changed(NOTHING, {"loss": "50%"}), parts.line.state)
    other.put(*frames[20:40])
    parts.line.pause()
    assert parts.put(*frames[40:]) == [True] * 20
    parts.line.credit(other.line.counts, 0)
    parts.line.resume(other.line.state)
    assert parts.line.counts == whole.line.counts
    assert sorted([*parts.left, *other.left]) == sorted(whole.left)


def test_a_paused_line_is_bounded_and_can_be_dropped() -> None:
    bench = Bench(delay="10ms", limit=3)
    bench.line.pause()
    bench.put(*[b"x"] * 5)
    assert bench.line.counts.over_limit == 2
    assert bench.line.drop() == 3
    bench.line.resume(None)
    bench.time.advance(1)
    assert not bench.left


def test_bytes_of_a_paused_line_are_bounded() -> None:
    bench = Bench(delay="10ms", limit=1_000_000)
    bench.line.pause()
    frame = bytes(1 << 16)
    bench.put(*[frame] * (BYTES_LIMIT // len(frame) + 3))
    assert bench.line.counts.over_limit == 3
    bench.line.resume(None)
    assert bench.line.waiting == BYTES_LIMIT // len(frame)
    bench.time.advance(1)
    assert bench.line.counts.passed == BYTES_LIMIT // len(frame)
    bench.put(b"x")
    assert bench.line.waiting == 1, "there is room again"


def test_frames_that_another_process_has_count_as_under_way() -> None:
    bench = Bench(delay="10ms")
    bench.put(b"x")
    bench.line.credit(Counts(passed=5, lost=2), 7)
    assert bench.line.waiting == 8
    bench.time.advance(1)
    assert (bench.line.waiting, bench.line.counts) == (7, Counts(passed=6, lost=2))
    bench.line.resume(None)
    assert bench.line.waiting == 0
