"""What waits at a receiver that has no room: a bounded queue for each queue of a client (QEMU's net/queue.c)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Sized
from typing import Protocol

from vnic.net.client_record import IncomingQueueRecord, WaitingFrameRecord
from vnic.net.clock import Scheduler
from vnic.net.offload import OffloadError, complete, segment_bytes

Frame = bytes | bytearray | memoryview
"""An Ethernet frame without its FCS; a view may be of guest memory and ends with the call it is given to."""

QUEUE_LIMIT = 10_000
"""Frames that wait at a receiver at the most (net/queue.c: nq_maxlen)."""
QUEUE_LIMIT_BYTES = 16 << 20
"""And bytes: as many as 10 000 frames of 1514 have; those of a guest that offloads to us have up to 64 KiB each."""
FLUSH_BUDGET = 256
"""Frames handed over in one go before the loop gets its turn, so that a storm between hubs starves nobody. Each
segment that one is to be cut into counts as well."""


class SendingEndpoint(Protocol):
    """What is told that a receiver has room again."""

    def sent(self, queue: int) -> None: ...


class Sender(Protocol):
    """The client at the other end of a frame's way."""

    @property
    def endpoint(self) -> SendingEndpoint: ...


class ReceivingEndpoint(Protocol):
    """What takes frames, or says that it has no room."""

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


class IncomingQueue:
    """The frames that wait for one queue of `receiver`, and the hand-over to its endpoint."""

    def __init__(self, receiver: Receiver, index: int) -> None:
        self._receiver = receiver
        self._index = index
        self.frames: deque[tuple[Sender, bytes, bytes]] = deque()
        self._bytes = 0
        self._senders: set[Sender] = set()
        self._delivering = False
        self._flush_later = False

    def send(self, sender: Sender, frame: Frame, offload: bytes) -> bool:
        """Deliver now if nothing waits and the receiver has room; else keep a copy. False: it was kept."""
        if self._delivering or self.frames:
            # Frames that come in while one is being delivered wait their turn: the order holds, and a reply
            # to a reply does not recurse (qemu_net_queue_send's `delivering`).
            self._keep(sender, frame, offload)
            return False
        self._delivering = True
        try:
            left = self._hand_over(frame, offload)
        finally:
            self._delivering = False
        if left:
            if self._receiver.holds:  # it went down meanwhile, and nothing may wait at a downed end
                self._receiver.dropped += len(left)
                return True
            for part, owed in left:
                self._keep(sender, part, owed)
            return False
        if self.frames:
            self.flush()
        return True

    def _keep(self, sender: Sender, frame: Frame, offload: bytes) -> None:
        if len(self.frames) >= QUEUE_LIMIT or self._bytes >= QUEUE_LIMIT_BYTES:
            self._receiver.dropped += 1
            self._receiver.endpoint.overrun(self._index)
            return
        self.frames.append((sender, bytes(frame), offload))
        self._bytes += len(frame)
        self._senders.add(sender)

    def _hand_over(self, frame: Frame, offload: bytes) -> Sequence[tuple[Frame, bytes]]:
        """Give the receiver a frame, finished first if it wants it whole; returns what it had no room for.

        Of a frame that was cut into segments those are left: cutting the worst one again would cost tens of
        milliseconds at every try, and a guest makes us try by every write of a register.
        """
        endpoint = self._receiver.endpoint
        if not offload or endpoint.wants_offload:
            return () if endpoint.receive(self._index, frame, offload) else ((frame, offload),)
        try:
            finished = complete(offload, frame)
        except OffloadError:
            self._receiver.dropped += 1
            return ()
        for number, part in enumerate(finished):
            if not endpoint.receive(self._index, part):
                return [(part, b"") for part in finished[number:]]
        return ()

    def flush(self) -> None:
        """Offer the receiver what waits, and tell the senders once all of it is gone."""
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
                if self.frames and self.frames[0] is first:  # not purged from within the hand-over
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
            self._tell_senders()

    def _continue_later(self) -> None:
        if not self._flush_later:
            self._flush_later = True
            self._receiver.scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        self._flush_later = False
        self.flush()

    def _tell_senders(self) -> None:
        senders, self._senders = self._senders, set()
        for sender in senders:
            sender.endpoint.sent(self._index)

    def save(self) -> IncomingQueueRecord:
        frames = [WaitingFrameRecord(frame=frame, offload=offload) for _, frame, offload in self.frames]
        return IncomingQueueRecord(frames=frames)

    def restore(self, record: IncomingQueueRecord, sender: Sender) -> None:
        """The frames wait again, as from `sender`; they are offered at the next flush."""
        for waiting in record.frames:
            self._keep(sender, waiting.frame, waiting.offload)

    def purge(self) -> None:
        """Drop what waits; the senders may go on."""
        self._receiver.dropped += len(self.frames)
        self.frames.clear()
        self._bytes = 0
        self._tell_senders()
