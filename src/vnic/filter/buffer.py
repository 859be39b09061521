"""filter-buffer: holds frames and releases them together every `interval` (QEMU's net/filter-buffer.c).

`registry` makes it. The ticks are multiples of `interval` since the filter was made; the timer runs only while frames
are held.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final

import msgspec

from vnic.backend.base import BackendContext
from vnic.filter.options import BufferOptions
from vnic.keep import NO_HANDLES, NoHandles
from vnic.net.client_record import WaitingFrameRecord
from vnic.net.clock import Timer
from vnic.net.errors import NetError
from vnic.net.filters import KEPT_FRAMES_BYTES, Filter, FilterRecord, WireEnd
from vnic.net.queue import FLUSH_BUDGET, QUEUE_LIMIT, Frame
from vnic.record import U16, require

U32_MAX: Final = 0xFFFF_FFFF

BYTES_LIMIT = 64 << 20
"""The most bytes that are held. QEMU's bound of QUEUE_LIMIT frames applies too, but a frame may have 64 KiB."""


class HeldFrameRecord(WaitingFrameRecord, frozen=True):
    """A frame that is held back, on its way from the netdev or to it."""

    from_netdev: bool
    queue: U16


class BufferFilterRecord(FilterRecord, frozen=True):
    """The state of a BufferFilter."""

    frames: list[HeldFrameRecord]
    to_tick_us: Annotated[int, msgspec.Meta(gt=0, le=U32_MAX)]
    """The time to the next tick."""
    releasing: Annotated[int, msgspec.Meta(ge=0, le=QUEUE_LIMIT)]
    """The frames that a release in progress has still to pass on."""

    def check_fields(self) -> None:
        count, size = len(self.frames), sum(len(held.frame) for held in self.frames)
        require(count <= QUEUE_LIMIT, "frames", f"are {count}, at most {QUEUE_LIMIT} may be")
        require(size <= BYTES_LIMIT, "frames", f"have {size} bytes, at most {BYTES_LIMIT} may be")
        require(self.releasing <= count, "releasing", f"is {self.releasing}, of {count} frames")


class BufferFilter(Filter):
    """Holds every frame, and passes it on at the next tick."""

    type = "filter-buffer"
    kept_type = BufferFilterRecord, NoHandles

    def __init__(self, context: BackendContext, options: BufferOptions) -> None:
        super().__init__(options)
        if not options.interval:
            raise NetError("Property 'filter-buffer.interval' requires a positive value")
        self._network = context.network
        self._interval_us = options.interval
        self._began_ns = 0
        self._frames: deque[tuple[WireEnd | None, int, bytes, bytes]] = deque()
        """None: they came from the netdev's peer, which was not there when they were restored."""
        self._bytes = 0
        self._releasing = 0
        self._timer: Timer | None = None
        """The timer of the next tick, or the call in the loop's next turn while a release continues."""

    def setup(self) -> None:
        self._began_ns = self._network.clock.monotonic_ns()

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        if len(self._frames) >= QUEUE_LIMIT or self._bytes + len(frame) > BYTES_LIMIT:
            sender.dropped += 1
            return True
        self._frames.append((sender, queue, bytes(frame), offload))
        self._bytes += len(frame)
        self.kept.changed()
        if self._timer is None:
            self._wait_for_tick()
        return True

    def _to_tick_ns(self) -> int:
        elapsed_ns = self._network.clock.monotonic_ns() - self._began_ns
        interval_ns = self._interval_us * 1000
        return interval_ns - elapsed_ns % interval_ns

    def _wait_for_tick(self) -> None:
        self._timer = self._network.scheduler.call_later(self._to_tick_ns() / 1e9, self._tick)

    def _tick(self) -> None:
        self._release(len(self._frames))

    def _release(self, due: int) -> None:
        """Pass on the `due` oldest frames, in several turns of the loop if they are many. The timer stays set until the
        release ends, so that frames which the release causes, such as replies, wait for a tick of their own."""
        for _ in range(min(due, FLUSH_BUDGET)):
            self._pass_oldest()
        self._releasing = max(due - FLUSH_BUDGET, 0)
        if self._releasing:
            self._timer = self._network.scheduler.call_soon(self._release, self._releasing)
        elif self._frames:
            self._wait_for_tick()
        else:
            self._timer = None

    def _pass_oldest(self) -> None:
        sender, queue, frame, offload = self._frames.popleft()
        self._bytes -= len(frame)
        self.kept.changed()
        sender = sender or self.netdev.peer
        if sender is None:
            self.netdev.dropped += 1
        else:
            self.pass_on(sender, queue, frame, offload)

    def status_changed(self) -> None:
        """filter_buffer_status_changed."""
        if not self.on:
            self.cleanup()

    def cleanup(self) -> None:
        """Release all frames: later frames must not overtake them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._releasing = 0
        for _ in range(len(self._frames)):
            self._pass_oldest()

    def save(self) -> BufferFilterRecord:
        return BufferFilterRecord(
            on=self.on,
            frames=[
                HeldFrameRecord(frame=frame, offload=offload, from_netdev=sender is self.netdev, queue=queue)
                for sender, queue, frame, offload in self._frames
            ],
            to_tick_us=-(-self._to_tick_ns() // 1000),
            releasing=self._releasing,
        )

    def save_kept(self) -> tuple[BufferFilterRecord, NoHandles]:
        record = self.save()
        if self._bytes > KEPT_FRAMES_BYTES:
            record = msgspec.structs.replace(record, frames=[], releasing=0)
        return record, NO_HANDLES

    def restore(self, record: BufferFilterRecord, handles: None = None) -> None:
        """Hold the frames that were held, until the tick that was to come. Called instead of `setup`. Raises
        RecordError."""
        interval = self._interval_us
        require(record.to_tick_us <= interval, "to_tick_us", f"is {record.to_tick_us}, of {interval}")
        self.on = record.on
        elapsed_us = interval - record.to_tick_us + self.age_us
        self._began_ns = self._network.clock.monotonic_ns() - elapsed_us * 1000
        for held in record.frames:
            sender = self.netdev if held.from_netdev else None
            self._frames.append((sender, held.queue, held.frame, held.offload))
            self._bytes += len(held.frame)
        if record.releasing:
            self._releasing = record.releasing
            self._timer = self._network.scheduler.call_soon(self._release, record.releasing)
        elif self._frames:
            self._wait_for_tick()

    def own_properties(self) -> dict[str, object]:
        return {"interval": self._interval_us}
