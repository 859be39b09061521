"""The front-end side of vhost-user, without a socket: passes a guest's rings to another program's back-end.

`vnic.backend.vhost_user` owns the socket, feeds its input, and requests the handshake, the start and the stop of
rings. Messages are sent at once and replies are matched in order, so that no call blocks. What is awaited is data
(`frontend_record`), so that an engine can be saved between any two messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from vnic.lifecycle import Lifecycle
from vnic.protocol.frames import FrameError, Message
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.frontend_record import (
    ACKNOWLEDGED,
    MOVES,
    WANTED_PROTOCOL_FEATURES,
    Awaited,
    AwaitedRecord,
    BaseRecord,
    FrontendEngineRecord,
    FrontendHandles,
    Phase,
    SharedRing,
    SharedRingRecord,
)
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.record import within
from vnic.virtio.attachment import QueueFds
from vnic.virtio.constants import (
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
)

STARTED: Final = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK


class SharedRegion(NamedTuple):
    """A range of guest memory in a file. The guest address is also sent as the user address, so
    that ring addresses need no translation."""

    guest_addr: int
    size: int
    fd: int
    offset: int


Send = Callable[[bytes, Sequence[int]], None]
Bases = dict[int, int]
"""By ring: the avail index to continue from."""


class FrontendEngine:
    """One connection to one back-end. `feed` raises ProtocolError when it has to be closed.

    `pairs` are the queue pairs that will be used. `features` are the back-end's virtio features, known from READY
    on. `awaited` names the request whose answer is due; the shell measures the time.
    """

    phase = Lifecycle(Phase.HANDSHAKE, MOVES)

    def __init__(
        self,
        send: Send,
        pairs: int,
        ready: Callable[[], None],
        stopped: Callable[[Bases], None],
        processed: Callable[[], None] = lambda: None,
    ) -> None:
        """`ready` is called when the handshake is complete; `stopped` with the base of each ring when the back-end
        has stopped all that `stop` asked for; `processed` when it has reached a `barrier`. Each may raise
        ProtocolError."""
        self._send_bytes = send
        self._pairs = pairs
        self._ready = ready
        self._stopped = stopped
        self._processed = processed
        self._frames = vu.assembler()
        self._awaited: deque[Awaited] = deque()
        self._closed = False
        self._together: list[tuple[list[bytes], Sequence[int]]] | None = None
        """The pieces to send, while they are collected."""
        self.features = 0
        self.protocol_features = 0
        self.max_pairs = 1
        self._protocol = False
        """Both sides know protocol features (VHOST_USER_F_PROTOCOL_FEATURES)."""
        self._rings: dict[int, SharedRing] = {}
        self._enabled: set[int] = set()
        self._bases: Bases = {}
        """Those that came, while all are awaited."""

    # --- Bytes ---------------------------------------------------------------------------------------------

    wanted: Final = vu.READ_BYTES
    """The most bytes to read next."""

    @property
    def awaits(self) -> int | None:
        """The request whose answer comes next, None when none is due."""
        return self._awaited[0].request if self._awaited else None

    @property
    def awaited(self) -> str | None:
        """The name of `awaits`."""
        return vu.request_name(self._awaited[0].request) if self._awaited else None

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take one piece that the back-end sent."""
        try:
            messages = deque(self._frames.feed(data, fds))
        except FrameError as error:
            raise ProtocolError(str(error)) from None
        try:
            while messages and not self._closed:  # an answer may lead to the end
                self._answered(messages.popleft())
        finally:
            for message in messages:
                message.close()

    def close(self) -> None:
        """The connection has ended: no awaited reply will come."""
        self._closed = True
        self._frames.close()
        self._awaited.clear()
        self._forget_rings()

    def _forget_rings(self) -> None:
        self._rings.clear()
        self._enabled.clear()
        self._bases.clear()

    # --- State apart from descriptors ----------------------------------------------------------------------

    def save(self) -> FrontendEngineRecord:
        return FrontendEngineRecord(
            phase=self.phase,
            features=self.features,
            protocol=self._protocol,
            protocol_features=self.protocol_features,
            max_pairs=self.max_pairs,
            rings=[SharedRingRecord.of(ring, ring.index in self._enabled) for ring in self._rings.values()],
            bases=[BaseRecord(index=index, base=base) for index, base in self._bases.items()],
            awaited=[AwaitedRecord(request=each.request, value=each.value) for each in self._awaited],
            frames=self._frames.save(),
        )

    @property
    def handles(self) -> FrontendHandles:
        """The descriptors that belong to the record, where they are now."""
        rings = {ring.index: QueueFds(ring.kick, ring.call) for ring in self._rings.values()}
        return FrontendHandles(self._frames.fds, rings)

    def restore(self, record: FrontendEngineRecord, handles: FrontendHandles) -> None:
        """Take the place of the engine that was saved, on the same connection; nothing is sent. Raises RecordError,
        and leaves the descriptors to the caller then."""
        record.check(self._pairs)
        for at, ring in enumerate(record.rings):
            with within(f"rings[{at}]"):
                ring.check(handles.rings.get(ring.index))
        with within("frames"):
            self._frames.restore(record.frames, handles.frames)
        FrontendEngine.phase.restore(self, record.phase)
        self.features, self.max_pairs = record.features, record.max_pairs
        self._protocol, self.protocol_features = record.protocol, record.protocol_features
        self._rings = {ring.index: ring.ring(handles.rings[ring.index]) for ring in record.rings}
        self._enabled = {ring.index for ring in record.rings if ring.told_enabled}
        self._bases = {each.index: each.base for each in record.bases}
        self._awaited = deque(Awaited(each.request, each.value) for each in record.awaited)

    # --- Answers -------------------------------------------------------------------------------------------

    def _answered(self, message: Message) -> None:
        try:
            number, flags, _ = vu.HEADER.unpack(message.header)
            name = vu.request_name(number)
            if message.fds:
                raise ProtocolError(f"{name} answered with descriptors")
            if not flags & vu.FLAG_REPLY:
                raise ProtocolError(f"{name} sent by the back-end")
            if not self._awaited or self._awaited[0].request != number:
                raise ProtocolError(f"an answer to {name}, awaited was {self.awaited or 'none'}")
            ANSWERS[number](self, self._awaited.popleft(), message.payload)
        finally:
            message.close()

    def _send(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        message = vu.encode(number, payload, flags)
        if self._together is None:
            self._send_bytes(message, fds)
        elif fds or not self._together:
            self._together.append(([message], fds))
        else:
            self._together[-1][0].append(message)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send what follows in few pieces. Descriptors come with the first byte of a piece: a back-end reads each
        header for itself, and must, because it tells how long the message is."""
        if self._together is not None:
            yield
            return
        self._together = []
        try:
            yield
        finally:
            pieces, self._together = self._together, None
            for messages, fds in pieces:
                self._send_bytes(b"".join(messages), fds)

    def _ask(self, number: int, ring: int | None = None) -> None:
        """Send a request that has an answer, about one ring or about all."""
        self._awaited.append(Awaited(number, ring or 0))
        self._send(number, b"" if ring is None else vu.VRING_STATE.pack(ring, 0))

    def _tell(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), value: int = 0) -> None:
        """Send what may fail, and have it acknowledged where REPLY_ACK allows that."""
        if not self.protocol_features & vu.P_REPLY_ACK:
            self._send(number, payload, fds)
            return
        self._awaited.append(Awaited(number, value))
        self._send(number, payload, fds, vu.FLAG_NEED_REPLY)

    def _acknowledged(self, awaited: Awaited, answer: bytes) -> None:
        name = vu.request_name(awaited.request)
        if len(answer) != vu.U64.size:
            raise ProtocolError(f"{name} acknowledged with {len(answer)} bytes")
        if vu.U64.unpack(answer)[0]:
            if awaited.request == vu.NET_SET_MTU:
                raise ProtocolError(f"{awaited.value}Bytes MTU not supported by the backend")  # QEMU's text
            raise ProtocolError(f"the back-end refused {name}")

    # --- Handshake (QEMU: vhost_user_backend_init, vhost_net_init) ------------------------------------------

    def begin(self) -> None:
        """Learn what the back-end can do; `ready` is called then."""
        self._ask(vu.GET_FEATURES)

    def begin_with(self, features: int, protocol_features: int) -> None:
        """As `begin`, with a back-end whose answers are known, as vnic-wire's; it has as many queue pairs as are used.
        `ready` is called within."""
        with self.together():
            self._take_features(features)
            self._take_protocol_features(protocol_features)
            self._finish_handshake(self._pairs)

    def _got_features(self, awaited: Awaited, payload: bytes) -> None:
        features = _u64(awaited, payload)
        if self.phase is not Phase.HANDSHAKE:
            self._processed()
            return
        self._take_features(features)
        if self._protocol:
            self._ask(vu.GET_PROTOCOL_FEATURES)
        else:
            self._finish_handshake(1)

    def _take_features(self, features: int) -> None:
        self.features = features & ~vu.F_PROTOCOL_FEATURES
        self._protocol = bool(features & vu.F_PROTOCOL_FEATURES)

    def _got_protocol_features(self, awaited: Awaited, payload: bytes) -> None:
        self._take_protocol_features(_u64(awaited, payload))
        if self.protocol_features & vu.P_MQ:
            self._ask(vu.GET_QUEUE_NUM)
        else:
            self._finish_handshake(1)

    def _take_protocol_features(self, features: int) -> None:
        self.protocol_features = features & WANTED_PROTOCOL_FEATURES
        self._send(vu.SET_PROTOCOL_FEATURES, vu.U64.pack(self.protocol_features))

    def _got_queue_num(self, awaited: Awaited, payload: bytes) -> None:
        self._finish_handshake(_u64(awaited, payload))

    def _finish_handshake(self, max_pairs: int) -> None:
        if max_pairs < self._pairs:
            # The text of QEMU's net/vhost-user.c.
            raise ProtocolError(f"you are asking more queues than supported: {max_pairs}")
        self.max_pairs = max_pairs
        self._send(vu.SET_OWNER)
        self.phase = Phase.READY
        self._ready()

    # --- Start (QEMU: vhost_dev_start) ----------------------------------------------------------------------

    def start(
        self, features: int, memory: Sequence[SharedRegion], rings: Sequence[SharedRing], mtu: int = 0
    ) -> None:
        """Hand the rings over; `features` are those that the guest acknowledged. Only in READY."""
        assert self.phase is Phase.READY
        self.phase = Phase.RUNNING
        told = features | (vu.F_PROTOCOL_FEATURES if self._protocol else 0)
        with self.together():
            if mtu and self.protocol_features & vu.P_MTU:
                self._tell(vu.NET_SET_MTU, vu.U64.pack(mtu), value=mtu)
            self._tell(vu.SET_FEATURES, vu.U64.pack(told))
            self.set_memory(memory)
            for ring in rings:
                self.set_ring(ring)
            if self.protocol_features & vu.P_STATUS:
                self._send(vu.SET_STATUS, vu.U64.pack(STARTED))

    def set_memory(self, memory: Sequence[SharedRegion]) -> None:
        """SET_MEM_TABLE, also while rings run."""
        if not 0 < len(memory) <= vu.MAX_FDS:
            raise ProtocolError(f"guest memory in {len(memory)} pieces; a back-end takes 1 to {vu.MAX_FDS}")
        table = [vu.MEM_TABLE.pack(len(memory), 0)]
        table += [vu.MEM_REGION.pack(r.guest_addr, r.size, r.guest_addr, r.offset) for r in memory]
        self._tell(vu.SET_MEM_TABLE, b"".join(table), [region.fd for region in memory])

    def set_ring(self, ring: SharedRing) -> None:
        """Hand one more ring over, or tell the new descriptors of one that is there."""
        told = self._rings.get(ring.index)
        self._rings[ring.index] = ring
        if told is None:
            self._send(vu.SET_VRING_NUM, vu.VRING_STATE.pack(ring.index, ring.size))
            self._send(vu.SET_VRING_BASE, vu.VRING_STATE.pack(ring.index, ring.base))
            address = vu.VRING_ADDR.pack(ring.index, 0, ring.desc, ring.used, ring.avail, 0)
            self._tell(vu.SET_VRING_ADDR, address)
        if told is None or told.call != ring.call:
            self._send_fd(vu.SET_VRING_CALL, ring.index, ring.call)
        # Before the kick, as QEMU: a ring that is started and not yet enabled has its frames thrown away.
        self.enable_ring(ring.index, ring.enabled)
        if told is None or told.kick != ring.kick:
            self._send_fd(vu.SET_VRING_KICK, ring.index, ring.kick)

    def enable_ring(self, index: int, enabled: bool) -> None:
        """SET_VRING_ENABLE where the back-end does not know it; without protocol features a ring is always enabled."""
        if self._protocol and enabled != (index in self._enabled):
            (self._enabled.add if enabled else self._enabled.discard)(index)
            self._send(vu.SET_VRING_ENABLE, vu.VRING_STATE.pack(index, int(enabled)))

    def _send_fd(self, number: int, index: int, fd: int | None) -> None:
        if fd is None:
            self._send(number, vu.U64.pack(index | vu.VRING_NOFD))
        else:
            self._send(number, vu.U64.pack(index), [fd])

    @property
    def rings(self) -> Mapping[int, SharedRing]:
        """The rings that the back-end has, as last sent."""
        return self._rings

    # --- Stop (QEMU: vhost_dev_stop) ------------------------------------------------------------------------

    def stop(self) -> None:
        """Take the rings back; `stopped` gets the base of each when the back-end has stopped all. RUNNING only."""
        assert self.phase is Phase.RUNNING
        self.phase = Phase.STOPPING
        for index in sorted(self._rings):
            self._ask(vu.GET_VRING_BASE, index)
        if self.protocol_features & vu.P_STATUS:
            self._send(vu.SET_STATUS, vu.U64.pack(0))
        if not self._rings:
            self._all_stopped()

    def _got_base(self, awaited: Awaited, payload: bytes) -> None:
        if len(payload) != vu.VRING_STATE.size:
            raise ProtocolError(f"GET_VRING_BASE answered with {len(payload)} bytes")
        index, base = vu.VRING_STATE.unpack(payload)
        if index != awaited.value or base > 0xFFFF:
            raise ProtocolError(
                f"GET_VRING_BASE of ring {awaited.value} answered with ring {index}, base {base}"
            )
        self._bases[index] = base
        if len(self._bases) == len(self._rings):
            self._all_stopped()

    def _all_stopped(self) -> None:
        bases = dict(self._bases)
        self._forget_rings()
        self.phase = Phase.READY
        self._stopped(bases)

    def barrier(self) -> None:
        """Have `processed` called when the back-end has processed all messages before: it answers in order."""
        self._ask(vu.GET_FEATURES)

    # --- Others ---------------------------------------------------------------------------------------------

    def send_rarp(self, mac: bytes) -> bool:
        """Have the back-end announce the guest (SEND_RARP). False if it cannot."""
        if not self.protocol_features & vu.P_RARP:
            return False
        self._tell(vu.SEND_RARP, mac.ljust(vu.U64.size, b"\0"))
        return True


def _u64(awaited: Awaited, payload: bytes) -> int:
    if len(payload) != vu.U64.size:
        raise ProtocolError(f"{vu.request_name(awaited.request)} answered with {len(payload)} bytes")
    value: int = vu.U64.unpack(payload)[0]
    return value


ANSWERS: Final[dict[int, Callable[[FrontendEngine, Awaited, bytes], None]]] = {
    vu.GET_FEATURES: FrontendEngine._got_features,
    vu.GET_PROTOCOL_FEATURES: FrontendEngine._got_protocol_features,
    vu.GET_QUEUE_NUM: FrontendEngine._got_queue_num,
    vu.GET_VRING_BASE: FrontendEngine._got_base,
    **dict.fromkeys(ACKNOWLEDGED, FrontendEngine._acknowledged),
}
