"""filter-buffer: holds frames and releases them together every `interval` (QEMU's net/filter-buffer.c).

`registry` makes it. The ticks are multiples of `interval` since the filter was made; the timer runs only while frames
are held.
"""

from __future__ import annotations

from collections import deque

from vnic.backend.base import BackendContext
from vnic.filter.options import BufferOptions
from vnic.net.clock import Timer
from vnic.net.errors import NetError
from vnic.net.filters import Filter, WireEnd
from vnic.net.queue import FLUSH_BUDGET, QUEUE_LIMIT, Frame

BYTES_LIMIT = 64 << 20
"""The most bytes that are held. QEMU's bound of QUEUE_LIMIT frames applies too, but a frame may have 64 KiB."""


class BufferFilter(Filter):
    """Holds every frame, and passes it on at the next tick."""

    type = "filter-buffer"

    def __init__(self, context: BackendContext, options: BufferOptions) -> None:
        super().__init__(options)
        if not options.interval:
            raise NetError("Property 'filter-buffer.interval' requires a positive value")
        self._network = context.network
        self._interval_us = options.interval
        self._began_ns = 0
        self._frames: deque[tuple[WireEnd, int, bytes, bytes]] = deque()
        self._bytes = 0
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
        if self._timer is None:
            self._wait_for_tick()
        return True

    def _wait_for_tick(self) -> None:
        elapsed_ns = self._network.clock.monotonic_ns() - self._began_ns
        interval_ns = self._interval_us * 1000
        self._timer = self._network.scheduler.call_later(
            (interval_ns - elapsed_ns % interval_ns) / 1e9, self._tick
        )

    def _tick(self) -> None:
        self._release(len(self._frames))

    def _release(self, due: int) -> None:
        """Pass on the `due` oldest frames, in several turns of the loop if they are many. The timer stays set until the
        release ends, so that frames which the release causes, such as replies, wait for a tick of their own."""
        for _ in range(min(due, FLUSH_BUDGET)):
            self._pass_oldest()
        if due > FLUSH_BUDGET:
            self._timer = self._network.scheduler.call_soon(self._release, due - FLUSH_BUDGET)
        elif self._frames:
            self._wait_for_tick()
        else:
            self._timer = None

    def _pass_oldest(self) -> None:
        sender, queue, frame, offload = self._frames.popleft()
        self._bytes -= len(frame)
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
        for _ in range(len(self._frames)):
            self._pass_oldest()

    def own_properties(self) -> dict[str, object]:
        return {"interval": self._interval_us}
