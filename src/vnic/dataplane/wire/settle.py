"""Gives each end what vnic-wire left of it, after control was killed and all that it had is restored.

`machine.datapath` calls it once, between the restoration and the loop's first turn; the port's records end in the same
commit in which the ends are saved with what they got.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from vnic.dataplane.wire.impair_messages import ImpairDirection
from vnic.dataplane.wire.impairments import COUNTERS, Impairments, LeftLine, Wanted
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import Kind
from vnic.dataplane.wire.ports import add_traffic
from vnic.dataplane.wire.recall import LeftPort, Recall
from vnic.dataplane.wire.recall_messages import RecallReply
from vnic.dataplane.wire.records import LineRecord
from vnic.dataplane.wire.stream_memory import StreamMemory, StreamMemoryError
from vnic.dataplane.wire.tunnel_messages import SocketStats
from vnic.net.client import NetClient
from vnic.net.filters import Direction
from vnic.net.lending import Lender, ResidentEnd
from vnic.net.netem.info import Counts
from vnic.net.netem.random import RandomRecord
from vnic.net.wire import ImpairAt

if TYPE_CHECKING:
    from vnic.backend.tunnel.port import TunnelPort

log = logging.getLogger("vnic.wire")


def settle(recall: Recall, clients: Iterable[NetClient], impairments: Impairments | None) -> None:
    """`impairments`: those of the program that goes on; None: it does not."""
    found = {(client.record_type, client.name): client for client in clients}
    counted: set[int] = set()
    for left in recall.ports.values():
        client = found.get((left.record.type, left.record.client))
        if client is not None:
            _Settling(recall, left, client, impairments, counted).run()
        elif left.memory is not None:
            StreamMemory(left.memory).close()
        left.kept.end()
    recall.ports.clear()


class _Settling:
    """One port's."""

    def __init__(
        self,
        recall: Recall,
        left: LeftPort,
        client: NetClient,
        impairments: Impairments | None,
        counted: set[int],
    ) -> None:
        self._recall = recall
        self._left = left
        self._record = left.record
        self._client = client
        self._impairments = impairments
        self._counted = counted
        """The sockets whose counters somebody has."""
        self._reply: RecallReply | None = None
        """None: the program died with what it knew."""

    def run(self) -> None:
        record, client = self._record, self._client
        if record.reply:
            try:
                self._reply = RecallReply.parse(record.reply)
            except MessageError as error:
                log.error("%s: what vnic-wire left is refused: %s", client.name, error)
        if self._reply is not None:
            add_traffic(client, self._reply.stats)
        for each in record.lines:
            self._line(each)
        end = client.endpoint.wire_end()
        if isinstance(end, Lender):
            self._lent(end)
        elif self._left.memory is not None:
            StreamMemory(self._left.memory).close()
        if isinstance(end, ResidentEnd) and record.kind == Kind.TUNNEL:
            self._tunnel(end)  # type: ignore[arg-type]  # the one end of this kind
        peer = client.peer
        for frame in record.frames:
            queue = frame.queue % peer.queues if peer is not None else 0
            client.send(queue, frame.frame, frame.header if any(frame.header) else b"")

    def _lent(self, end: Lender) -> None:
        input = output = b""
        lost = self._record.kind == Kind.STREAM
        if self._left.memory is not None:
            memory = StreamMemory(self._left.memory)
            try:
                input, output = memory.read()
                lost = False
            except (StreamMemoryError, OSError) as error:
                log.error("%s: vnic-wire left no state of the stream: %s", self._client.name, error)
            memory.close()
        end.recalled(input, output, lost=lost)

    def _tunnel(self, end: TunnelPort) -> None:
        from vnic.backend.tunnel.info import SocketCounters, TunnelCounters
        from vnic.backend.tunnel.port import FarState
        from vnic.dataplane.wire.tunnel_port import mep_record, trailer_record
        from vnic.protocol.cfm.ccm import InterfaceStatus
        from vnic.protocol.cfm.mep import Heard, MepState

        counters, told = TunnelCounters(), None
        state = None if self._reply is None else self._reply.tunnel
        if self._reply is not None and self._reply.tunnel_stats is not None:
            counters = TunnelCounters(*msgspec.structs.astuple(self._reply.tunnel_stats))
        said = self._record.told
        if said is not None:
            status = InterfaceStatus(said.status) if said.status in list(InterfaceStatus) else None
            mep = MepState(Heard(said.heard), said.rdi, status, 0)
            told = FarState(mep, said.refused, said.silent_us), said.sequence
        end.recalled(
            None if state is None else mep_record(state, end),
            None if state is None or end.trailer is None else trailer_record(state),
            refused=None if state is None else state.refused,
            told=told,
            counters=counters,
        )
        data = self._recall.sockets.get(self._record.shared, b"")
        if data and self._record.shared not in self._counted:
            self._counted.add(self._record.shared)
            try:
                at_socket = SocketCounters(*msgspec.structs.astuple(SocketStats.parse(data)))
            except MessageError as error:
                log.error("%s: the counters of vnic-wire are refused: %s", self._client.name, error)
            else:
                shared = end.sockets.shared
                shared.counters = shared.counters.plus(at_socket)

    def _line(self, record: LineRecord) -> None:
        """The netem goes on with its random numbers, and is credited with what happened since it was the last time."""
        here = [
            each for id, queue in record.lines if (each := self._impair_at(record, id, queue)) is not None
        ]
        direction = ImpairDirection(record.direction)
        reply = (
            next((each for at, each in self._reply.lines if at is direction), None) if self._reply else None
        )
        if len(here) != len(record.lines) or reply is None:
            return  # it is another one, or the program died: it goes on from its own record
        wanted = Wanted(here)
        last = list(reply.state.last)
        wanted.line.resume(RandomRecord(random=reply.state.random, last=last, counter=reply.state.counter))
        news = zip(COUNTERS, record.seen, strict=True)
        wanted.credit({name: max(0, getattr(reply, name) - seen) for name, seen in news}, reply.waiting)
        if self._impairments is not None:
            self._impairments.leave(self._client, direction, LeftLine(self._record.number, wanted, reply))
        elif reply.waiting:
            wanted.main.target.lost(reply.waiting)
            wanted.line.credit(Counts(), 0)

    def _impair_at(self, record: LineRecord, id: str, queue: str) -> ImpairAt | None:
        direction = Direction(queue)
        for owner in (self._client, self._client.peer):
            for each in owner.filters if owner is not None else ():
                target = each.impair_target() if each.on else None
                if target is not None and target.id == id and direction in target.lines:
                    return ImpairAt(target, direction, record.direction == ImpairDirection.IN)
        return None
