"""The front-end side of vhost-user, without a socket: passes a guest's rings to another program's back-end.

`vnic.backend.vhost_user` owns the socket, feeds its input, and requests the handshake, the start and the stop of
rings. Messages are sent at once and replies are matched in order, so that no call blocks.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vnic.lifecycle import Lifecycle, Moves
from vnic.protocol.frames import FrameError, Message
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.virtio.constants import (
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
)

WANTED_PROTOCOL_FEATURES: Final = vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU | vu.P_STATUS
"""BACKEND_REQ is left out: no message of that channel concerns a network device without IOMMU, and a channel that
does not exist cannot be flooded. CONFIG is left out as in QEMU: the config space is the NIC's own."""

STARTED: Final = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK


class SharedRegion(NamedTuple):
    """A range of guest memory in a file. The guest address is also sent as the user address, so
    that ring addresses need no translation."""

    guest_addr: int
    size: int
    fd: int
    offset: int


@dataclass(frozen=True, slots=True)
class SharedRing:
    """One ring to be run by the back-end; addresses are the guest's. No `kick`: it is polled; no `call`: silent.

    One that is not `enabled` is started all the same, as by QEMU: a back-end may wait for all that there are.
    """

    index: int
    size: int
    base: int
    desc: int
    avail: int
    used: int
    kick: int | None
    call: int | None
    enabled: bool = True


class Phase(enum.Enum):
    """The state of a connection."""

    HANDSHAKE = enum.auto()
    READY = enum.auto()
    """Both sides know each other; no ring is there."""
    RUNNING = enum.auto()
    STOPPING = enum.auto()
    """The rings' bases are awaited."""


MOVES: Final[Moves[Phase]] = {
    Phase.HANDSHAKE: frozenset({Phase.READY}),
    Phase.READY: frozenset({Phase.RUNNING}),
    Phase.RUNNING: frozenset({Phase.STOPPING}),
    Phase.STOPPING: frozenset({Phase.READY}),
}


Send = Callable[[bytes, Sequence[int]], None]
Bases = dict[int, int]
"""By ring: the avail index to continue from."""


class FrontendEngine:
    """One connection to one back-end. `feed` raises ProtocolError when it has to be closed.

    `pairs` are the queue pairs that will be used. `features` are the back-end's virtio features, known from READY
    on. `awaited` names the request whose answer is due; the shell measures the time.
    """

    phase = Lifecycle(Phase.HANDSHAKE, MOVES)

    def __init__(self, send: Send, pairs: int) -> None:
        self._send_bytes = send
        self._pairs = pairs
        self._frames = vu.assembler()
        self._answers: deque[tuple[int, Callable[[bytes], None]]] = deque()
        self.features = 0
        self.protocol_features = 0
        self.max_pairs = 1
        self._protocol = False
        """Both sides know protocol features (VHOST_USER_F_PROTOCOL_FEATURES)."""
        self._rings: dict[int, SharedRing] = {}
        self._enabled: set[int] = set()
        self._ready: Callable[[], None] | None = None

    # --- Bytes ---------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """The most bytes to read next."""
        return self._frames.wanted

    @property
    def awaited(self) -> str | None:
        """The request whose answer comes next, None when none is due."""
        return vu.request_name(self._answers[0][0]) if self._answers else None

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take one piece that the back-end sent."""
        try:
            for message in self._frames.feed(data, fds):
                self._answered(message)
        except FrameError as error:
            raise ProtocolError(str(error)) from None

    def close(self) -> None:
        """The connection has ended: no awaited reply will come."""
        self._frames.close()
        self._answers.clear()
        self._forget_rings()

    def _forget_rings(self) -> None:
        self._rings.clear()
        self._enabled.clear()

    def _answered(self, message: Message) -> None:
        try:
            number, flags, _ = vu.HEADER.unpack(message.header)
            name = vu.request_name(number)
            if message.fds:
                raise ProtocolError(f"{name} answered with descriptors")
            if not flags & vu.FLAG_REPLY:
                raise ProtocolError(f"{name} sent by the back-end")
            if not self._answers or self._answers[0][0] != number:
                raise ProtocolError(f"an answer to {name}, awaited was {self.awaited or 'none'}")
            self._answers.popleft()[1](message.payload)
        finally:
            message.close()

    def _send(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        self._send_bytes(vu.encode(number, payload, flags), fds)

    def _ask(self, number: int, payload: bytes, answered: Callable[[bytes], None]) -> None:
        self._answers.append((number, answered))
        self._send(number, payload)

    def _ask_u64(self, number: int, answered: Callable[[int], None]) -> None:
        def unpack(payload: bytes) -> None:
            if len(payload) != vu.U64.size:
                raise ProtocolError(f"{vu.request_name(number)} answered with {len(payload)} bytes")
            answered(vu.U64.unpack(payload)[0])

        self._ask(number, b"", unpack)

    def _tell(
        self, number: int, payload: bytes = b"", fds: Sequence[int] = (), refused: str | None = None
    ) -> None:
        """Send what may fail, and have it acknowledged where REPLY_ACK allows that. `refused` is the text of the
        ProtocolError if it is not done."""
        if not self.protocol_features & vu.P_REPLY_ACK:
            self._send(number, payload, fds)
            return
        name = vu.request_name(number)

        def acked(answer: bytes) -> None:
            if len(answer) != vu.U64.size:
                raise ProtocolError(f"{name} acknowledged with {len(answer)} bytes")
            if vu.U64.unpack(answer)[0]:
                raise ProtocolError(refused or f"the back-end refused {name}")

        self._answers.append((number, acked))
        self._send(number, payload, fds, vu.FLAG_NEED_REPLY)

    # --- Handshake (QEMU: vhost_user_backend_init, vhost_net_init) ------------------------------------------

    def begin(self, ready: Callable[[], None]) -> None:
        """Learn what the back-end can do; `ready` is called then."""
        self._ready = ready
        self._ask_u64(vu.GET_FEATURES, self._got_features)

    def _got_features(self, features: int) -> None:
        self.features = features & ~vu.F_PROTOCOL_FEATURES
        self._protocol = bool(features & vu.F_PROTOCOL_FEATURES)
        if self._protocol:
            self._ask_u64(vu.GET_PROTOCOL_FEATURES, self._got_protocol_features)
        else:
            self._finish_handshake(1)

    def _got_protocol_features(self, features: int) -> None:
        self.protocol_features = features & WANTED_PROTOCOL_FEATURES
        self._send(vu.SET_PROTOCOL_FEATURES, vu.U64.pack(self.protocol_features))
        if self.protocol_features & vu.P_MQ:
            self._ask_u64(vu.GET_QUEUE_NUM, self._finish_handshake)
        else:
            self._finish_handshake(1)

    def _finish_handshake(self, max_pairs: int) -> None:
        if max_pairs < self._pairs:
            # The text of QEMU's net/vhost-user.c.
            raise ProtocolError(f"you are asking more queues than supported: {max_pairs}")
        self.max_pairs = max_pairs
        self._send(vu.SET_OWNER)
        self.phase = Phase.READY
        assert self._ready is not None
        self._ready()

    # --- Start (QEMU: vhost_dev_start) ----------------------------------------------------------------------

    def start(
        self, features: int, memory: Sequence[SharedRegion], rings: Sequence[SharedRing], mtu: int = 0
    ) -> None:
        """Hand the rings over; `features` are those that the guest acknowledged. Only in READY."""
        assert self.phase is Phase.READY
        self.phase = Phase.RUNNING
        told = features | (vu.F_PROTOCOL_FEATURES if self._protocol else 0)
        if mtu and self.protocol_features & vu.P_MTU:
            refused = f"{mtu}Bytes MTU not supported by the backend"  # QEMU's text
            self._tell(vu.NET_SET_MTU, vu.U64.pack(mtu), refused=refused)
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

    def stop(self, done: Callable[[Bases], None]) -> None:
        """Take the rings back; `done` gets the base of each when the back-end has stopped all. RUNNING only."""
        assert self.phase is Phase.RUNNING
        self.phase = Phase.STOPPING
        bases: Bases = {}

        def got_base(index: int, base: int) -> None:
            bases[index] = base
            if len(bases) == len(self._rings):
                self._stopped(bases, done)

        for index in sorted(self._rings):
            self._ask_base(index, got_base)
        if self.protocol_features & vu.P_STATUS:
            self._send(vu.SET_STATUS, vu.U64.pack(0))
        if not self._rings:
            self._stopped(bases, done)

    def _ask_base(self, index: int, got_base: Callable[[int, int], None]) -> None:
        def answered(payload: bytes) -> None:
            if len(payload) != vu.VRING_STATE.size:
                raise ProtocolError(f"GET_VRING_BASE answered with {len(payload)} bytes")
            told, base = vu.VRING_STATE.unpack(payload)
            if told != index or base > 0xFFFF:
                raise ProtocolError(f"GET_VRING_BASE of ring {index} answered with ring {told}, base {base}")
            got_base(index, base)

        self._ask(vu.GET_VRING_BASE, vu.VRING_STATE.pack(index, 0), answered)

    def _stopped(self, bases: Bases, done: Callable[[Bases], None]) -> None:
        self._forget_rings()
        self.phase = Phase.READY
        done(bases)

    # --- Others ---------------------------------------------------------------------------------------------

    def send_rarp(self, mac: bytes) -> bool:
        """Have the back-end announce the guest (SEND_RARP). False if it cannot."""
        if not self.protocol_features & vu.P_RARP:
            return False
        self._tell(vu.SEND_RARP, mac.ljust(vu.U64.size, b"\0"))
        return True
