"""Frames that wait at a receiver without room: a bounded queue for each queue of a client (QEMU's net/queue.c).

`NetClient` delivers every frame through it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Protocol

from vnic.net.client_record import IncomingQueueRecord, WaitingFrameRecord
from vnic.net.clock import Scheduler
from vnic.net.offload import OffloadError, complete, segment_bytes

Frame = bytes | bytearray | memoryview
"""An Ethernet frame without its FCS; a view may be of guest memory and is valid only during the call."""

QUEUE_LIMIT = 10_000
"""Limit on the frames that wait at a receiver (net/queue.c: nq_maxlen)."""
QUEUE_LIMIT_BYTES = 16 << 20
"""Limit on their bytes: 10 000 frames of 1514 bytes; frames with offload have up to 64 KiB each."""
FLUSH_BUDGET = 256
"""Frames delivered in one turn of the loop, so that a packet storm does not block the loop. Each segment of a frame
counts."""


class SendingEndpoint(Protocol):
    """An endpoint that is notified when a receiver has room again."""

    def sent(self, queue: int) -> None: ...


class Sender(Protocol):
    """The client that sent a frame."""

    @property
    def endpoint(self) -> SendingEndpoint: ...


class ReceivingEndpoint(Protocol):
    """An endpoint that takes frames or reports that it has no room."""

    @property
    def wants_offload(self) -> bool: ...

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool: ...

    def overrun(self, queue: int) -> None: ...


class Receiver(Protocol):
    """The client that the queue belongs to."""

    dropped: int

    @property
    def endpoint(self) -> ReceivingEndpoint: ...
    @property
    def holds(self) -> Sized: ...
    @property
    def scheduler(self) -> Scheduler: ...

    def drained(self) -> None: ...


class IncomingQueue:
    """Delivers frames to one queue of `receiver`, and keeps those that have to wait."""

    def __init__(self, receiver: Receiver, index: int) -> None:
        self._receiver = receiver
        self.index = index
        self.receive: Callable[[Frame, bytes], bool] | None = None
        """The endpoint's `receiver` of this queue, if it has one."""
        self.frames: deque[tuple[Sender, bytes, bytes]] = deque()
        self._bytes = 0
        self.passed = self.passed_bytes = 0
        """What the receiver took; a frame that is to be segmented counts once."""
        self.overruns = 0
        """Frames for which there was no room to wait."""
        self._senders: set[Sender] = set()
        self._delivering = False
        self._flush_later = False

    def send(self, sender: Sender, frame: Frame, offload: bytes) -> bool:
        """Deliver now if no frame waits and the receiver has room; otherwise keep a copy. False: it was kept."""
        if self._delivering or self.frames:
            # A frame that arrives during a delivery waits, to keep the order and to avoid recursion of replies
            # (qemu_net_queue_send's `delivering`).
            self._keep(sender, frame, offload)
            return False
        self._delivering = True
        try:
            if self.receive is not None and not (offload and not self._receiver.endpoint.wants_offload):
                # The way of nearly all frames between two rings: keep it short.
                left: Sequence[tuple[Frame, bytes]] = (
                    () if self.receive(frame, offload) else ((frame, offload),)
                )
            else:
                left = self._hand_over(frame, offload)
        finally:
            self._delivering = False
        if left:
            if self._receiver.holds:  # it went down meanwhile: no frame may wait at an end that is down
                self._receiver.dropped += len(left)
                return True
            for part, owed in left:
                self._keep(sender, part, owed)
            return False
        self.passed += 1
        self.passed_bytes += len(frame)
        if self.frames:
            self.flush()
        return True

    def _keep(self, sender: Sender, frame: Frame, offload: bytes) -> None:
        if len(self.frames) >= QUEUE_LIMIT or self._bytes >= QUEUE_LIMIT_BYTES:
            self._receiver.dropped += 1
            self.overruns += 1
            self._receiver.endpoint.overrun(self.index)
            return
        self.frames.append((sender, bytes(frame), offload))
        self._bytes += len(frame)
        self._senders.add(sender)

    def _hand_over(self, frame: Frame, offload: bytes) -> Sequence[tuple[Frame, bytes]]:
        """Deliver a frame, completed first unless the receiver takes offload; returns the rest, for which there was
        no room.

        The rest of a segmented frame is its remaining segments: to segment it again could cost tens of milliseconds
        at each attempt, and a guest can cause an attempt by any register write.
        """
        endpoint = self._receiver.endpoint
        if not offload or endpoint.wants_offload:
            return () if endpoint.receive(self.index, frame, offload) else ((frame, offload),)
        try:
            finished = complete(offload, frame)
        except OffloadError:
            self._receiver.dropped += 1
            return ()
        for number, part in enumerate(finished):
            if not endpoint.receive(self.index, part):
                return [(part, b"") for part in finished[number:]]
        return ()

    def flush(self) -> None:
        """Deliver the waiting frames, and notify the senders when none is left."""
        if self._delivering:
            return
        self._delivering = True
        try:
            budget = FLUSH_BUDGET
            while budget > 0 and self.frames:
                first = self.frames[0]
                sender, frame, offload = first
                left: Sequence[tuple[Frame, bytes]] = ()
                budget -= 1 + (len(frame) // segment_bytes(offload) if offload else 0)
                if self._receiver.holds:
                    self._receiver.dropped += 1
                else:
                    left = self._hand_over(frame, offload)
                    if not left:
                        self.passed += 1
                        self.passed_bytes += len(frame)
                if self.frames and self.frames[0] is first:  # not purged by the receiver
                    self.frames.popleft()
                    self._bytes -= len(frame)
                    self.frames.extendleft((sender, bytes(part), owed) for part, owed in reversed(left))
                    self._bytes += sum(len(part) for part, _ in left)
                if left:
                    return
        finally:
            self._delivering = False
        if self.frames:
            self._continue_later()
        else:
            self._notify_senders()

    def _continue_later(self) -> None:
        if not self._flush_later:
            self._flush_later = True
            self._receiver.scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        self._flush_later = False
        self.flush()

    def _notify_senders(self) -> None:
        senders, self._senders = self._senders, set()
        if senders:
            self._receiver.drained()
        for sender in senders:
            sender.endpoint.sent(self.index)

    def save(self) -> IncomingQueueRecord:
        frames = [WaitingFrameRecord(frame=frame, offload=offload) for _, frame, offload in self.frames]
        return IncomingQueueRecord(frames=frames)

    def restore(self, record: IncomingQueueRecord, sender: Sender) -> None:
        """The saved frames wait again, as from `sender`, for the next flush."""
        for waiting in record.frames:
            self._keep(sender, waiting.frame, waiting.offload)

    def purge(self) -> None:
        """Drop the waiting frames and notify the senders."""
        self._receiver.dropped += len(self.frames)
        self.frames.clear()
        self._bytes = 0
        self._notify_senders()
