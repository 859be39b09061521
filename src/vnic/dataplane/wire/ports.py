"""The descriptors of a netdev at vnic-wire: lent, given back, and frames of this process sent out there.

`engine` makes one `LentPort` for each Lender that it carries, and numbers them.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from vnic.dataplane.wire.channel import Channel
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import (
    MAX_MESSAGE_BYTES,
    FrameReturned,
    GetStats,
    Inject,
    Kind,
    PortAdd,
    PortFlag,
    PortRemove,
    Reply,
)
from vnic.dataplane.wire.records import PortFacts
from vnic.dataplane.wire.replies import PortStats, Stats
from vnic.dataplane.wire.stream_memory import StreamMemory, StreamMemoryError
from vnic.dataplane.wire.tunnel_messages import CcmState, FrameReceived, TunnelTrouble
from vnic.net.client import NetClient
from vnic.net.lending import Lender, LentKind, ResidentEnd
from vnic.net.offload import MAX_FRAME_BYTES, OffloadError, complete
from vnic.net.queue import Frame
from vnic.net.traffic import Frames

log = logging.getLogger("vnic.wire")

KINDS: Final = {
    LentKind.TAP: Kind.TAP,
    LentKind.STREAM: Kind.STREAM,
    LentKind.DGRAM: Kind.DGRAM,
    LentKind.PACKET: Kind.PACKET,
}
INJECT_BACKLOG_BYTES: Final = 4 << 20
"""Frames of this process are dropped while so many bytes wait for a program that does not read."""
_INJECT_MAX: Final = MAX_MESSAGE_BYTES - 64
KEPT_FRAMES: Final = 4096
"""The most frames that wait at a port which the program is about to return."""


class Numbers:
    """Numbers from 1 on, the smallest free one first in use."""

    def __init__(self) -> None:
        self._next = 1
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def free(self, number: int) -> None:
        self._free.append(number)


def inject(channel: Channel, client: NetClient, port: int, queue: int, frame: Frame) -> None:
    """Send one frame out at `port`; it is dropped where the program does not read."""
    if channel.backlog_bytes > INJECT_BACKLOG_BYTES or len(frame) > _INJECT_MAX:
        client.dropped += 1
        return

    def answered(reply: Reply) -> None:
        if reply.error:
            client.dropped += 1

    channel.request(Inject(port, queue, bytes(frame)), answered=answered)


def count_traffic(client: NetClient, reply: Reply) -> None:
    """Add the counters of a port that is about to be removed to those of its client."""
    if reply.error:
        return
    try:
        for stats in Stats.parse(reply.data).ports:
            add_traffic(client, stats)
    except MessageError as error:
        log.warning("%s: statistics of vnic-wire: %s", client.name, error)


def add_traffic(client: NetClient, stats: PortStats) -> None:
    """Add what a port that is gone has counted to the counters of its client."""
    client.dropped += lost_frames(stats)
    traffic = client.traffic
    traffic.wire.add(frames_of(stats))
    traffic.wire_lost += lost_frames(stats)
    for cause, count in stats.drops.items():
        traffic.wire_drops[cause] = traffic.wire_drops.get(cause, 0) + count


def frames_of(stats: PortStats) -> Frames:
    return Frames(stats.frames_in, stats.bytes_in, stats.frames_out, stats.bytes_out)


def lost_frames(stats: PortStats) -> int:
    """The frames that `NetClient.dropped` counts."""
    return stats.no_peer + stats.no_room + stats.bad_offload


class ResidentPort(ABC):
    """The port of a ResidentEnd, which stays at the program when it leaves its wire."""

    started = True
    carries = True
    number: int
    client: NetClient
    end: ResidentEnd

    @property
    @abstractmethod
    def facts(self) -> PortFacts:
        """What its record holds."""

    @abstractmethod
    def to_control(self, on: bool) -> None:
        """Whether the far end's frames come to this process, and not into the port's wire."""

    @abstractmethod
    def happened(self, event: CcmState | FrameReceived | TunnelTrouble) -> None: ...

    @abstractmethod
    def lost(self, error: int) -> None:
        """The program says that its descriptor has failed."""


class LentPort:
    """One netdev's descriptors at the program."""

    started = True
    carries = True

    def __init__(
        self,
        channel: Channel,
        number: int,
        client: NetClient,
        end: Lender,
        refused: Callable[[str], None],
    ) -> None:
        """Lends them at once; call it only if `end.can_lend()`. `refused` is called, in a later turn, if the program
        does not take them. Raises OSError, and nothing is lent, if no descriptors or no memory are left."""
        self.number = number
        self.client = client
        self.end = end
        self._channel = channel
        self._refused = refused
        self._returned: list[FrameReturned] = []
        self._kept: list[tuple[int, bytes, bytes]] | None = None
        """While the program returns the port: frames that came for it, with their queues and offload headers."""
        self.parked_in: int | None = None
        """The wire of its own in which it leaves, if any."""
        self._memory: StreamMemory | None = None
        """Of a stream."""
        if end.kind is LentKind.STREAM:
            self._memory = StreamMemory()
        lent = end.lend(self._inject)
        fds = lent.fds
        if self._memory is not None:
            try:
                self._memory.write(lent.input, lent.output)
            except OSError:
                self._memory.close()
                end.take_back(lent.input, lent.output)
                raise
            fds = (*fds, self._memory.fd)
        flags = PortFlag.VNET_HDR | PortFlag.OFFLOAD if lent.vnet_hdr else PortFlag(0)
        request = PortAdd(number, KINDS[end.kind], len(lent.fds), flags, MAX_FRAME_BYTES, lent.dest)
        channel.request(request, fds, self._added)

    @property
    def facts(self) -> PortFacts:
        """What its record holds."""
        memory = self._memory
        return PortFacts(KINDS[self.end.kind], memory.fd if memory is not None and memory.fd >= 0 else None)

    def _added(self, reply: Reply) -> None:
        if reply.error:
            self._refused(reply.data.decode(errors="replace") or os.strerror(reply.error))

    def _inject(self, queue: int, frame: Frame, offload: bytes) -> None:
        if self._kept is not None:
            if len(self._kept) < KEPT_FRAMES:
                self._kept.append((queue, bytes(frame), bytes(offload)))
            else:
                self.client.dropped += 1
            return
        try:
            for part in complete(offload, frame) if offload else (frame,):
                inject(self._channel, self.client, self.number, queue, part)
        except OffloadError:
            self.client.dropped += 1

    def remove(self, done: Callable[[], None] | None = None) -> None:
        """Ask for the descriptors; the netdev goes on with them when the program has answered. `done` follows."""

        self._kept = []

        def removed(_: Reply) -> None:
            self.take_back()
            if done is not None:
                done()

        self._channel.request(GetStats(self.number), answered=lambda reply: count_traffic(self.client, reply))
        self._channel.request(PortRemove(self.number), answered=removed)

    def returned(self, event: FrameReturned) -> None:
        """A frame that the removed port had read: it passes here before the netdev reads on."""
        self._returned.append(event)

    def take_back(self) -> None:
        """The program has returned the port, or has ended, and the netdev goes on. A stream does so where the program
        stopped, even within a frame."""
        input = output = b""
        lost = False
        if self._memory is not None:
            try:
                input, output = self._memory.read()
            except (StreamMemoryError, OSError) as error:
                log.error("%s: vnic-wire left no state of the stream: %s", self.client.name, error)
                lost = True
            self._memory.close()
        self.end.take_back(input, output, lost=lost)
        peer = self.client.peer
        for event in self._returned:
            queue = event.queue % peer.queues if peer is not None else 0
            self.client.send(queue, event.frame, event.header if any(event.header) else b"")
        self._returned.clear()
        kept, self._kept = self._kept or [], None
        if peer is not None:
            for number, frame, offload in kept:
                self.client.deliver(peer, number, frame, offload)
