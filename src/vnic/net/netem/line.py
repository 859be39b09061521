"""A delay line: the frames of one direction that are under way, in the order in which they are due.

`filter.netem` has one for each direction. It is bounded by `limit` and by bytes, and releases a bounded number of
frames in one turn of the loop.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from vnic.net.clock import Clock, Scheduler, Timer
from vnic.net.netem.decide import Decider
from vnic.net.netem.info import Counts
from vnic.net.netem.parameters import Parameters
from vnic.net.netem.random import RandomRecord
from vnic.net.queue import FLUSH_BUDGET, Frame
from vnic.record import U16, U64, Record, require

BYTES_LIMIT: Final = 64 << 20
"""The most bytes that are under way, whatever `limit` is."""
NS: Final = 10**9
PAUSED_MAX: Final = 4096
"""The most frames that wait for a stream."""


class FrameUnderWay(NamedTuple):
    """What a line holds, and gives on when it is due."""

    due_ns: int
    """By the monotonic clock."""
    order: int
    """The frames that are due at one time leave as they came."""
    queue: int
    frame: bytes
    offload: bytes


class UnderWayRecord(Record, frozen=True):
    """A FrameUnderWay."""

    left_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """Until it is due."""
    queue: U16
    frame: bytes
    offload: bytes


class LineRecord(Record, frozen=True):
    """The state of a Line."""

    random: RandomRecord
    counts: Counts
    frames: list[UnderWayRecord]
    """In the order in which they leave."""
    busy_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    """How long `rate` still needs for the frames that it has."""
    rest: U64

    def check_fields(self) -> None:
        size = sum(len(each.frame) for each in self.frames)
        require(size <= BYTES_LIMIT, "frames", f"have {size} bytes, at most {BYTES_LIMIT} may be")


class Line:
    """One direction. `release` gets each frame that is due: its queue, the frame, and its offload header."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        parameters: Parameters,
        state: RandomRecord,
        release: Callable[[int, bytes, bytes], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called when another process has changed its state."""
        self.counts = Counts()
        self._scheduler = scheduler
        self._clock = clock
        self._release = release
        self._changed = changed
        self._parameters = parameters
        self._decider = Decider(parameters, state, self.counts)
        self._heap: list[FrameUnderWay] = []
        self._order = itertools.count()
        self._bytes = 0
        self._busy_until_ns = 0
        """When the last frame that `rate` has is sent."""
        self._rest = 0
        """Of the division of its time, so that the rate is exact."""
        self._timer: Timer | None = None
        self._timer_ns = 0
        self.generation = 0
        """How often it was given another stream."""
        self._elsewhere = 0
        """Frames under way in another process, which does what this line does."""
        self._paused: deque[tuple[int, bytes, bytes]] | None = None
        """Frames that wait while the stream is on its way back."""

    @property
    def waiting(self) -> int:
        """The frames that are under way."""
        return len(self._heap) + self._elsewhere

    @property
    def state(self) -> RandomRecord:
        return self._decider.random.save()

    def set(self, parameters: Parameters, state: RandomRecord | None = None) -> None:
        """Other parameters, and another stream if one is given; what is under way keeps its times."""
        if parameters.rate != self._parameters.rate:
            self._rest = 0
        self._parameters = parameters
        if state is None:
            self._decider.set(parameters)
        else:
            self.generation += 1
            self._decider = Decider(parameters, state, self.counts)

    def put(self, queue: int, frame: Frame, offload: bytes) -> bool:
        """Take a frame. False: it passes on unchanged and at once."""
        if self._paused is not None:
            room = self._bytes + len(frame) <= BYTES_LIMIT
            if room and len(self._paused) < min(self._parameters.limit, PAUSED_MAX):
                self._paused.append((queue, bytes(frame), offload))
                self._bytes += len(frame)
            else:
                self.counts.over_limit += 1
            return True
        now = self._clock.monotonic_ns()
        copies = self._decider.decide(frame, offload)
        if len(copies) == 1 and len(copies[0].parts) == 1 and copies[0].parts[0][0] is frame:
            if self._admitted(len(frame)):
                due = self._due(now, copies[0].delay_ns, len(frame))
                if due <= now and (not self._heap or self._heap[0].due_ns > now):
                    self.counts.passed += 1
                    return False
                self._keep(due, queue, frame, offload)
        else:
            for parts, delay_ns in copies:
                for part, owed in parts:
                    if self._admitted(len(part)):
                        self._keep(self._due(now, delay_ns, len(part)), queue, part, owed)
        if self._heap:
            self._wait(now)
        return True

    def _admitted(self, size: int) -> bool:
        if len(self._heap) >= self._parameters.limit or self._bytes + size > BYTES_LIMIT:
            self.counts.over_limit += 1
            return False
        return True

    def _due(self, now: int, delay_ns: int | None, size: int) -> int:
        """A frame that overtakes others is not held up by `rate`, as in sch_netem.c."""
        if delay_ns is None:
            return now
        due = now + delay_ns
        if rate := self._parameters.rate:
            took, self._rest = divmod(size * NS + self._rest, rate)
            due = self._busy_until_ns = max(self._busy_until_ns, due) + took
        return due

    def _keep(self, due: int, queue: int, frame: Frame, offload: bytes) -> None:
        heapq.heappush(self._heap, FrameUnderWay(due, next(self._order), queue, bytes(frame), offload))
        self._bytes += len(frame)

    def _wait(self, now: int) -> None:
        """Have the timer run at the time of the first frame."""
        due = self._heap[0].due_ns
        if self._timer is not None:
            if self._timer_ns <= due:
                return
            self._timer.cancel()
        self._timer_ns = due
        self._timer = self._scheduler.call_later(max(0, due - now) / NS, self._expired)

    def _expired(self) -> None:
        self._timer = None
        now = self._clock.monotonic_ns()
        for _ in range(FLUSH_BUDGET):
            if not self._heap or self._heap[0].due_ns > now:
                break
            first = heapq.heappop(self._heap)
            self._bytes -= len(first.frame)
            self.counts.passed += 1
            self._release(first.queue, first.frame, first.offload)
        if self._heap and self._timer is None:
            self._wait(now)

    def drop(self) -> int:
        """Drop what is under way; returns how many frames that were."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dropped = len(self._heap) + len(self._paused or ())
        self._heap.clear()
        if self._paused is not None:
            self._paused.clear()
        self._bytes = 0
        self._busy_until_ns = self._rest = 0
        return dropped

    # -- another process in its place -----------------------------------------------------------------------------

    def credit(self, counts: Counts, elsewhere: int | None = None) -> None:
        """Another process, which has the stream, did this, and has `elsewhere` frames under way."""
        for name in Counts.__struct_fields__:
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))
        if elsewhere is not None:
            self._elsewhere = elsewhere
        self._changed()

    def pause(self) -> None:
        """The stream is about to come back: frames wait until `resume`."""
        if self._paused is None:
            self._paused = deque()

    def resume(self, state: RandomRecord | None) -> None:
        """Go on with the stream in that state. None: it is lost, and the one that was given away is used again."""
        self._elsewhere = 0
        if state is not None:
            self._decider = Decider(self._parameters, state, self.counts)
        self._changed()
        paused, self._paused = self._paused, None
        for queue, frame, offload in paused or ():
            self._bytes -= len(frame)
            if not self.put(queue, frame, offload):
                self._release(queue, frame, offload)

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> LineRecord:
        now = self._clock.monotonic_ns()
        return LineRecord(
            random=self.state,
            counts=msgspec.structs.replace(self.counts),
            frames=[
                UnderWayRecord(left_ns=max(0, due - now), queue=queue, frame=frame, offload=offload)
                for due, _, queue, frame, offload in sorted(self._heap)
            ],
            busy_ns=max(0, self._busy_until_ns - now),
            rest=self._rest,
        )

    def restore(self, record: LineRecord) -> None:
        """Go on in the place of the line that was saved, which had the same parameters."""
        now = self._clock.monotonic_ns()
        self.counts = msgspec.structs.replace(record.counts)
        self._decider = Decider(self._parameters, record.random, self.counts)
        self._busy_until_ns = now + record.busy_ns
        self._rest = record.rest
        for each in record.frames:
            self._keep(now + each.left_ns, each.queue, each.frame, each.offload)
        if self._heap:
            self._wait(now)
