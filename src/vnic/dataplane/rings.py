"""The Python reference data plane: TX chains become frames of the net client, its frames fill RX chains.

A virtio-net device model drives one PythonPair per queue pair. The bodies of `_burst` and `receive` run once a
packet: nothing belongs there that can be settled once a burst or once a negotiation.
"""

from __future__ import annotations

from ..net.client import NetClient
from ..net.clock import Scheduler
from ..net.incoming import Frame
from ..virtio.queue import Chain, QueueError, SplitQueue
from .engine import Mode, RingFormat, RingHost
from .offload import GSO_NONE, HEADER_BYTES, MAX_FRAME_BYTES, NEEDS_CSUM, OffloadError, complete

BURST_PACKETS = 128
BURST_BYTES = 512 * 1024
"""What one ring may send in one turn of the loop (some 100 µs of work), so that a storming guest starves nobody."""

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
        self.sent = self.tx.sent
        self.receive = self.rx.receive

    def set_mode(self, mode: Mode) -> None:
        self.rx.set_mode(mode)
        self.tx.set_mode(mode)

    def set_format(self, ring_format: RingFormat) -> None:
        self.rx.set_format(ring_format)
        self.tx.format = ring_format

    def set_filtering(self, filtering: bool) -> None:
        self.rx.filtering = filtering


class TxPump:
    """What the driver sends: from the TX ring to `client.send`.

    A frame is copied out of the guest's memory once, and its chain returned, before anybody looks at it: the guest
    cannot change what was checked, and no peer holds on to its memory.
    """

    def __init__(
        self, host: RingHost, client: NetClient, pair: int, queue: SplitQueue, scheduler: Scheduler
    ) -> None:
        self.format = RingFormat()
        self._off = True
        self._sending = False
        self._host = host
        self._client = client
        self._pair = pair
        self._queue = queue
        self._scheduler = scheduler
        self._scheduled = False
        self._bursting = False
        self._peer_is_full = False

    def set_mode(self, mode: Mode) -> None:
        self._off = mode is Mode.OFF
        self._sending = mode is Mode.RUN
        if not self._sending:
            self._peer_is_full = False
        if not self._off:
            self._continue_later()

    def kick(self) -> None:
        """The driver has made chains available."""
        if self._off or self._scheduled or self._bursting or self._peer_is_full:
            return  # somebody goes on with the ring soon, and looks at it again before it stops
        self._run()

    def sent(self) -> None:
        """The peer has room again."""
        if self._peer_is_full:
            self._peer_is_full = False
            self._continue_later()

    def _continue_later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        if not self._off and not self._peer_is_full:
            self._run()

    def _run(self) -> None:
        """One burst; then wait for a kick, the peer or the next turn."""
        queue = self._queue
        self._bursting = True
        try:
            used_up = self._burst()
            if self._peer_is_full:
                queue.suppress_kicks(True)
            elif used_up:
                queue.suppress_kicks(True)
                self._continue_later()
            elif queue.kicks_suppressed:
                queue.suppress_kicks(False)
                if queue.pending():  # made available before the driver saw that it has to kick again
                    self._continue_later()
        except QueueError as error:
            self._host.queue_failed(queue, error)
        finally:
            self._bursting = False

    def _burst(self) -> bool:
        """Send what the ring holds, within the budget. True: the budget is used up, there may be more."""
        queue, client, pair = self._queue, self._client, self._pair
        pop, add_used = queue.pop, queue.add_used
        header_bytes, offloading = self.format.header_bytes, self.format.tx_offload
        packets, room = 0, BURST_BYTES
        try:
            while packets < BURST_PACKETS and room > 0:
                chain = pop()
                if chain is None:
                    return False
                packets += 1
                size = chain.readable_bytes - header_bytes
                if size < 0:
                    raise QueueError("a packet without room for its virtio_net_hdr")
                if not self._sending or not queue.enabled or not MIN_FRAME_BYTES <= size <= MAX_FRAME_BYTES:
                    add_used(chain.head, 0)
                    continue
                frame, offload = _take(chain, header_bytes, offloading)
                add_used(chain.head, 0)
                room -= size
                if not client.send(pair, frame, offload) and not client.can_send(pair):
                    self._peer_is_full = True
                    return False
            return True
        finally:
            if packets:
                queue.publish()
                if queue.should_interrupt():
                    self._host.ring_interrupt(queue.index)


def _take(chain: Chain, header_bytes: int, offloading: bool) -> tuple[bytes, bytes]:
    """Copy a frame, and its offload header where it owes something, out of the guest's memory."""
    if len(chain.readable) == 1:
        mapping, start, stop = chain.readable[0]
        if offloading and (mapping[start] or mapping[start + _GSO_AT]):
            return mapping[start + header_bytes : stop], mapping[start : start + HEADER_BYTES]
        return mapping[start + header_bytes : stop], b""
    packet = chain.read()
    if offloading and (packet[0] or packet[_GSO_AT]):
        return packet[header_bytes:], packet[:HEADER_BYTES]
    return packet[header_bytes:], b""


class RxPump:
    """What the driver receives: from the net client into the RX ring."""

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
        self._interrupt_due = False
        self.set_format(RingFormat())

    def set_mode(self, mode: Mode) -> None:
        was_running, self._running = self._running, mode is Mode.RUN
        if was_running and not self._running:
            self._client.flush(
                self._pair
            )  # what waits for room is lost now, not received after the next start

    def set_format(self, ring_format: RingFormat) -> None:
        self._format = ring_format
        self._header_bytes = ring_format.header_bytes
        # num_buffers is 1 where buffers are not merged, and absent from the legacy header (§5.1.6.4.1).
        self._header = (_NO_OFFLOAD + _ONE_BUFFER)[: ring_format.header_bytes]

    def kick(self) -> None:
        """The driver has made room available."""
        if self._running:
            self._queue.suppress_kicks(True)  # kicks are of use only while `receive` finds no room
            self._client.flush(self._pair)

    def receive(self, frame: Frame, offload: bytes = b"") -> bool:
        """Put a frame into the ring. False: there is no room."""
        if not self._running or (self.filtering and not self._host.accepts(frame)):
            return True
        if offload and not self._takes(offload, frame):
            return self._receive_completed(frame, offload)
        queue, header_bytes = self._queue, self._header_bytes
        total = header_bytes + len(frame)
        try:
            chain = queue.pop() or self._wait_for_room()
            if chain is None or not queue.enabled:
                return self._no_room(chain)
            if chain.writable_bytes < total:
                return self._put_merged(chain, frame, offload)
            header = offload + self._header[HEADER_BYTES:] if offload else self._header
            if len(chain.writable) == 1:
                mapping, start, _ = chain.writable[0]
                body = start + header_bytes
                mapping[start:body] = header
                mapping[body : start + total] = frame
            else:
                chain.write(header + frame)
            queue.add_used(chain.head, total)
            queue.publish()
        except QueueError as error:
            self._host.queue_failed(queue, error)
            return True
        if not self._interrupt_due:
            self._interrupt_soon()
        return True

    def _no_room(self, chain: Chain | None) -> bool:
        """What becomes of a frame that cannot go in: it waits for a ring that works, and is lost otherwise."""
        if chain is not None:
            self._queue.rewind(1)
            return True
        return not self._queue.ready

    def _wait_for_room(self) -> Chain | None:
        """Have the driver kick when it makes room, and look once more, as it may just have done so."""
        queue = self._queue
        queue.suppress_kicks(False)
        chain = queue.pop()
        if chain is not None:
            queue.suppress_kicks(True)
        return chain

    def _put_merged(self, chain: Chain, frame: Frame, offload: bytes) -> bool:
        """Spread a frame over several chains (§5.1.6.4), or drop it where that was not negotiated."""
        queue, header_bytes = self._queue, self._header_bytes
        chains, room, total = [chain], chain.writable_bytes, header_bytes + len(frame)
        if room < header_bytes:
            raise QueueError(f"a receive buffer of {room} bytes")
        while room < total:
            if not self._format.mergeable or len(chains) >= queue.size:
                queue.rewind(len(chains))
                return True  # it will never fit
            following = queue.pop() or self._wait_for_room()
            if following is None:
                queue.rewind(len(chains))
                return False
            if not following.writable_bytes:
                raise QueueError("a receive buffer of 0 bytes")
            chains.append(following)
            room += following.writable_bytes
        packet = (offload or _NO_OFFLOAD) + len(chains).to_bytes(2, "little") + frame
        at = 0
        for each in chains:
            written = each.write(packet[at : at + each.writable_bytes])
            queue.add_used(each.head, written)
            at += written
        queue.publish()  # all at once: the driver counts on the whole packet
        self._interrupt_soon()
        return True

    def _interrupt_soon(self) -> None:
        """One interrupt for all that comes in during this turn of the loop."""
        if not self._interrupt_due:
            self._interrupt_due = True
            self._scheduler.call_soon(self._interrupt)

    def _interrupt(self) -> None:
        self._interrupt_due = False
        if self._queue.ready and self._queue.should_interrupt():
            self._host.ring_interrupt(self._queue.index)

    # -- offload ------------------------------------------------------------------------------------------------

    def _takes(self, offload: bytes, frame: Frame) -> bool:
        """Whether the driver agreed to what this frame still owes."""
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
                return number > 0  # no room for a later segment: it is lost, as at a full NIC
        return True


def _is_dhcp_reply(frame: Frame) -> bool:
    """Old DHCP clients read packet sockets without their auxiliary data and take a partial checksum for a wrong one
    (QEMU: work_around_broken_dhclient)."""
    return (
        35 < len(frame) < 1500
        and frame[12:14] == b"\x08\x00"
        and frame[23] == 17
        and frame[34:36] == b"\x00\x43"
    )
