"""The Python reference data plane: it sends TX chains as frames of the net client, and puts received frames into RX
chains.

A virtio-net device model owns one PythonPair per queue pair. `_burst`'s loop and `receive` run once per packet: keep
out of them what can be done once per burst or once per negotiation.
"""

from __future__ import annotations

from vnic.dataplane.engine import Mode, PairRecord, RingFormat, RingHost
from vnic.net.client import NetClient
from vnic.net.clock import Scheduler
from vnic.net.offload import (
    GSO_NONE,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    NEEDS_CSUM,
    OffloadError,
    complete,
    segment_bytes,
)
from vnic.net.queue import Frame
from vnic.virtio.chain import Chain
from vnic.virtio.constants import DESC_WRITE
from vnic.virtio.queue import MAX_CHAIN, QueueError, SplitQueue

BURST_PACKETS = 128
BURST_BYTES = 512 * 1024
"""Limits on what one ring sends in one turn of the loop (some 100 µs), so that no guest blocks the loop."""
BUFFER_COST_BYTES = 512
"""What each descriptor of a chain, and each segment of a packet, counts against BURST_BYTES: it costs at least as
much time as a copy of that many bytes (1 to 5 µs)."""
BURST_BUFFERS = 2048
"""Limit on the descriptors that one ring searches for room in one turn (2 ms), for packets spread over several."""

MIN_FRAME_BYTES = 14
_NO_OFFLOAD = bytes(HEADER_BYTES)
_GSO_AT = 1
_ONE_BUFFER = b"\x01\x00"


class PythonPair:
    """PairEngine in pure Python."""

    def __init__(
        self,
        host: RingHost,
        client: NetClient,
        pair: int,
        rx: SplitQueue,
        tx: SplitQueue,
        scheduler: Scheduler,
    ) -> None:
        self.rx = RxPump(host, client, pair, rx, scheduler)
        self.tx = TxPump(host, client, pair, tx, scheduler)
        self.kick_tx = self.tx.kick
        self.kick_rx = self.rx.kick
        self.interrupt_rx = self.rx.interrupt
        self.sent = self.tx.sent
        self.receive = self.rx.receive

    def save(self) -> PairRecord:
        return PairRecord(interrupt_due=self.rx.interrupt_due, peer_is_full=self.tx.peer_is_full)

    def restore(self, record: PairRecord) -> None:
        self.tx.peer_is_full = record.peer_is_full
        if record.interrupt_due:
            self.rx.interrupt_later()

    def set_mode(self, mode: Mode) -> None:
        self.rx.set_mode(mode)
        self.tx.set_mode(mode)

    def set_format(self, ring_format: RingFormat) -> None:
        self.rx.set_format(ring_format)
        self.tx.format = ring_format

    def set_filtering(self, filtering: bool) -> None:
        self.rx.filtering = filtering

    def set_peer_queue(self, queue: int) -> None:
        self.tx.peer_queue = queue


class TxPump:
    """Sends the packets of the TX ring with `client.send`.

    A frame is copied from guest memory once, before any check: the guest cannot change what was checked, and no peer
    keeps a reference to its memory.
    """

    def __init__(
        self, host: RingHost, client: NetClient, pair: int, queue: SplitQueue, scheduler: Scheduler
    ) -> None:
        self.format = RingFormat()
        self.peer_queue = pair
        self._off = True
        self._sending = False
        self._host = host
        self._client = client
        self._queue = queue
        self._scheduler = scheduler
        self._scheduled = False
        self._bursting = False
        self.peer_is_full = False

    def set_mode(self, mode: Mode) -> None:
        self._off = mode is Mode.OFF
        self._sending = mode is Mode.RUN
        if not self._sending:
            self.peer_is_full = False
        if not self._off:
            self._continue_later()

    def kick(self) -> None:
        """The driver has made chains available."""
        if self._off or self._scheduled or self._bursting or self.peer_is_full:
            return  # a burst runs, or will, and checks the ring again before it stops
        self._run()

    def sent(self) -> None:
        """The peer has room again."""
        if self.peer_is_full:
            self.peer_is_full = False
            self._continue_later()

    def _continue_later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        if not self._off and not self.peer_is_full:
            self._run()

    def _run(self) -> None:
        """Run one burst; then wait for a kick, the peer or the next turn."""
        queue = self._queue
        self._bursting = True
        try:
            used_up = self._burst()
            if self.peer_is_full:
                queue.suppress_kicks(True)
            elif used_up:
                queue.suppress_kicks(True)
                self._continue_later()
            elif queue.kicks_suppressed:
                queue.suppress_kicks(False)
                if queue.pending():  # made available before the driver saw that kicks are enabled
                    self._continue_later()
        except QueueError as error:
            self._host.queue_failed(queue, error)
        finally:
            self._bursting = False

    def _burst(self) -> bool:
        """Send the ring's packets, within the budget. True: the budget is used up and there may be more."""
        queue, client, peer_queue = self._queue, self._client, self.peer_queue
        pop_span, send = queue.pop_span, client.send
        header_bytes, offloading = self.format.header_bytes, self.format.tx_offload
        longest = MAX_FRAME_BYTES if queue.enabled else -1
        heads: list[int] = []
        room = BURST_BYTES
        try:
            while len(heads) < BURST_PACKETS and room > 0:
                span = pop_span(0)
                offload = b""
                if span is not None:
                    head, mapping, start, stop = span
                    heads.append(head)
                    size = stop - start - header_bytes
                    if size < MIN_FRAME_BYTES or size > longest or not self._sending:
                        _check_header(size)
                        continue
                    frame = mapping[start + header_bytes : stop]
                    if offloading and (mapping[start] or mapping[start + _GSO_AT]):
                        offload = mapping[start : start + HEADER_BYTES]
                else:
                    chain = queue.pop()
                    if chain is None:
                        return False
                    heads.append(chain.head)
                    size = chain.readable_bytes - header_bytes
                    room -= BUFFER_COST_BYTES * (len(chain.readable) + len(chain.writable))
                    if size < MIN_FRAME_BYTES or size > longest or not self._sending:
                        _check_header(size)
                        continue
                    packet = chain.read()
                    frame = packet[header_bytes:]
                    if offloading and (packet[0] or packet[_GSO_AT]):
                        offload = packet[:HEADER_BYTES]
                room -= size
                if offload and offload[_GSO_AT]:
                    room -= BUFFER_COST_BYTES * (size // segment_bytes(offload))
                if not send(peer_queue, frame, offload) and not client.can_send(peer_queue):
                    self.peer_is_full = True
                    return False
            return True
        finally:
            if heads:
                queue.push_unwritten(heads)
                if queue.should_interrupt():
                    self._host.ring_interrupt(queue.index)


def _check_header(size: int) -> None:
    if size < 0:
        raise QueueError("a packet without room for its virtio_net_hdr")


class RxPump:
    """Puts frames of the net client into the RX ring."""

    def __init__(
        self, host: RingHost, client: NetClient, pair: int, queue: SplitQueue, scheduler: Scheduler
    ) -> None:
        self.filtering = False
        self._running = False
        self._host = host
        self._client = client
        self._pair = pair
        self._queue = queue
        self._scheduler = scheduler
        self.interrupt_due = False
        self._buffers_left = BURST_BUFFERS
        self._turn_began = self._held_back = False
        self.set_format(RingFormat())

    def set_mode(self, mode: Mode) -> None:
        was_running, self._running = self._running, mode is Mode.RUN
        if was_running and not self._running:
            # Drop waiting frames now: after the next start, another guest could receive them.
            self._client.purge(self._pair)

    def set_format(self, ring_format: RingFormat) -> None:
        self._format = ring_format
        self._header_bytes = ring_format.header_bytes
        # num_buffers is 1 where buffers are not merged, and absent from the legacy header (§5.1.6.4.1).
        self._header = (_NO_OFFLOAD + _ONE_BUFFER)[: ring_format.header_bytes]

    def kick(self) -> None:
        """The driver has made room available."""
        if self._running:
            self._queue.suppress_kicks(True)  # kicks are needed only while `receive` finds no room
            self._client.flush(self._pair)

    def receive(self, frame: Frame, offload: bytes = b"") -> bool:
        """Put a frame into the ring. False: there is no room."""
        if not self._running or (self.filtering and not self._host.accepts(frame)):
            return True
        if offload and not self._takes(offload, frame):
            return self._receive_completed(frame, offload)
        queue = self._queue
        total = self._header_bytes + len(frame)
        try:
            span = queue.pop_span(DESC_WRITE) if queue.enabled else None
            if span is not None and total <= span[3] - span[2]:
                head, mapping, start, _ = span
                body = start + self._header_bytes
                mapping[start:body] = offload + self._header[HEADER_BYTES:] if offload else self._header
                mapping[body : start + total] = frame
                queue.push(head, total)
            else:
                if span is not None:
                    queue.rewind(1)
                if not self._put(frame, offload, total):
                    return False
        except QueueError as error:
            self._host.queue_failed(queue, error)
            return True
        if not self.interrupt_due:
            self.interrupt_later()
        return True

    def _put(self, frame: Frame, offload: bytes, total: int) -> bool:
        """`receive` for chains of any shape; uses several chains if MRG_RXBUF was negotiated (§5.1.6.4)."""
        if not self._may_look():
            return False
        queue = self._queue
        chains: list[Chain] = []
        room = buffers = 0
        while room < total:
            too_many = len(chains) >= (queue.size if self._format.mergeable else 1) or buffers >= MAX_CHAIN
            if not queue.enabled or too_many:
                queue.rewind(len(chains))
                return True  # the ring is disabled, or the frame will never fit: drop it
            chain = queue.pop() or self._wait_for_room()
            if chain is None:
                queue.rewind(len(chains))
                return not queue.ready  # keep the frame for a ring that is ready, otherwise drop it
            if chain.writable_bytes < (1 if chains else self._header_bytes):
                raise QueueError(f"a receive buffer of {chain.writable_bytes} bytes")
            chains.append(chain)
            room += chain.writable_bytes
            looked_at = len(chain.writable) + len(chain.readable)
            buffers += looked_at
            self._buffers_left -= looked_at
        header = (offload or _NO_OFFLOAD) + len(chains).to_bytes(2, "little")
        packet = header[: self._header_bytes] + frame
        at = 0
        for chain in chains:
            written = chain.write(packet[at : at + chain.writable_bytes])
            queue.add_used(chain.head, written)
            at += written
        queue.publish()  # all at once: the driver expects the whole packet
        return True

    def _may_look(self) -> bool:
        """Whether the ring may still be searched in this turn; if not, it counts as full until the next turn."""
        if not self._turn_began:
            self._turn_began = True
            self._scheduler.call_soon(self._turn_over)
        self._held_back = self._held_back or self._buffers_left <= 0
        return not self._held_back

    def _turn_over(self) -> None:
        self._turn_began = False
        self._buffers_left = BURST_BUFFERS
        if self._held_back:
            self._held_back = False
            self._client.flush(self._pair)

    def _wait_for_room(self) -> Chain | None:
        """Enable kicks, and check once more, since the driver may have added a chain just before."""
        queue = self._queue
        queue.suppress_kicks(False)
        chain = queue.pop()
        if chain is not None:
            queue.suppress_kicks(True)
        return chain

    def interrupt_later(self) -> None:
        self.interrupt_due = True
        self._scheduler.call_soon(self.interrupt)

    def interrupt(self) -> None:
        """Send one interrupt for all packets received in a turn of the loop."""
        due, self.interrupt_due = self.interrupt_due, False
        if due and self._queue.ready and self._queue.should_interrupt():
            self._host.ring_interrupt(self._queue.index)

    # -- offload ------------------------------------------------------------------------------------------------

    def _takes(self, offload: bytes, frame: Frame) -> bool:
        """Whether the driver negotiated the offload that this frame needs."""
        if not self._format.rx_offload:
            return False
        gso_type = offload[_GSO_AT]
        if gso_type != GSO_NONE:
            return gso_type in self._format.rx_gso_types
        return not (offload[0] & NEEDS_CSUM and _is_dhcp_reply(frame))

    def _receive_completed(self, frame: Frame, offload: bytes) -> bool:
        try:
            parts = complete(offload, frame)
        except OffloadError:
            return True
        for number, part in enumerate(parts):
            if not self.receive(part):
                return number > 0  # no room for a later segment: it is dropped, as by a full NIC
        return True


def _is_dhcp_reply(frame: Frame) -> bool:
    """Old DHCP clients read packet sockets without the auxiliary data, and treat a partial checksum as wrong (QEMU:
    work_around_broken_dhclient)."""
    return (
        35 < len(frame) < 1500
        and frame[12:14] == b"\x08\x00"
        and frame[23] == 17
        and frame[34:36] == b"\x00\x43"
    )
