"""The state of a `FrontendEngine` as data: its phase, the rings it handed over, the answers it awaits.

`frontend` works with these types, and saves and restores the record; the session of the back-end reads the phase.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import msgspec

from vnic.lifecycle import Moves
from vnic.protocol.frames import FrameAssemblerRecord
from vnic.protocol.vhost_user import messages as vu
from vnic.record import U16, U64, Record, require
from vnic.virtio.attachment import QueueFds

WANTED_PROTOCOL_FEATURES: Final = vu.P_MQ | vu.P_RARP | vu.P_REPLY_ACK | vu.P_MTU | vu.P_STATUS
"""BACKEND_REQ is left out: no message of that channel concerns a network device without IOMMU, and a channel that
does not exist cannot be flooded. CONFIG is left out as in QEMU: the config space is the NIC's own."""

HANDSHAKE: Final = (vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM)
"""The requests of the handshake, each of which awaits the answer to the one before."""
ACKNOWLEDGED: Final = frozenset(
    {vu.NET_SET_MTU, vu.SET_FEATURES, vu.SET_MEM_TABLE, vu.SET_VRING_ADDR, vu.SEND_RARP}
)
"""The requests that may fail: they are acknowledged if the back-end has REPLY_ACK."""


class Phase(enum.Enum):
    """The state of a connection."""

    HANDSHAKE = "handshake"
    READY = "ready"
    """Both sides know each other; no ring is there."""
    RUNNING = "running"
    STOPPING = "stopping"
    """The rings' bases are awaited."""


MOVES: Final[Moves[Phase]] = {
    Phase.HANDSHAKE: frozenset({Phase.READY}),
    Phase.READY: frozenset({Phase.RUNNING}),
    Phase.RUNNING: frozenset({Phase.STOPPING}),
    Phase.STOPPING: frozenset({Phase.READY}),
}


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


class Awaited(NamedTuple):
    """A request whose answer is due."""

    request: int
    value: int = 0
    """GET_VRING_BASE: the ring; NET_SET_MTU: the MTU."""


class FrontendHandles(NamedTuple):
    """The descriptors of an engine."""

    frames: Sequence[int]
    """Of the half-read message; the engine closes them."""
    rings: dict[int, QueueFds]
    """By ring; they stay the attachment's."""


class SharedRingRecord(Record, frozen=True):
    """A SharedRing apart from its descriptors."""

    index: U16
    size: Annotated[int, msgspec.Meta(ge=1, le=0x8000)]
    base: U16
    desc: U64
    avail: U64
    used: U64
    kick: bool
    """It has this descriptor; so for `call`."""
    call: bool
    enabled: bool
    told_enabled: bool
    """Whether the back-end was last told that it is enabled."""

    @staticmethod
    def of(ring: SharedRing, told_enabled: bool) -> SharedRingRecord:
        return SharedRingRecord(
            index=ring.index,
            size=ring.size,
            base=ring.base,
            desc=ring.desc,
            avail=ring.avail,
            used=ring.used,
            kick=ring.kick is not None,
            call=ring.call is not None,
            enabled=ring.enabled,
            told_enabled=told_enabled,
        )

    def ring(self, fds: QueueFds) -> SharedRing:
        return SharedRing(
            self.index, self.size, self.base, self.desc, self.avail, self.used, *fds, enabled=self.enabled
        )

    def check(self, fds: QueueFds | None) -> None:
        """Raise RecordError unless these are its descriptors."""
        require(fds is not None, "index", f"is {self.index}, for which no descriptors were passed")
        for name, fd in (fds or QueueFds(None, None))._asdict().items():
            told = getattr(self, name)
            missing = "no" if told else "a"
            require(told is (fd is not None), name, f"is {told}, and {missing} descriptor was passed")


class AwaitedRecord(Record, frozen=True):
    """An Awaited."""

    request: U16
    value: U16


class BaseRecord(Record, frozen=True):
    """The base that the back-end returned of one ring."""

    index: U16
    base: U16


class FrontendEngineRecord(Record, frozen=True):
    """The state of a FrontendEngine between two messages."""

    phase: Phase
    features: U64
    protocol: bool
    """Both sides know protocol features."""
    protocol_features: U64
    max_pairs: U64
    rings: list[SharedRingRecord]
    bases: list[BaseRecord]
    awaited: list[AwaitedRecord]
    frames: FrameAssemblerRecord

    def check_fields(self) -> None:
        allowed = WANTED_PROTOCOL_FEATURES if self.protocol else 0
        surplus = self.protocol_features & ~allowed
        require(not surplus, "protocol_features", f"has {surplus:#x}, which was not asked for")
        there = [ring.index for ring in self.rings]
        has_rings = self.phase in (Phase.RUNNING, Phase.STOPPING)
        require(has_rings or not there, "rings", f"are there in {self.phase.value}")
        require(len(set(there)) == len(there), "rings", "have one index twice")
        for at, ring in enumerate(self.rings):
            told = not ring.told_enabled or self.protocol
            require(told, f"rings[{at}].told_enabled", "to a back-end that does not know it")
        self._check_bases(sorted(there))
        for at, each in enumerate(self.awaited):
            known = each.request == vu.GET_VRING_BASE or self._may_await(each.request)
            name = vu.request_name(each.request)
            require(known, f"awaited[{at}].request", f"is {name} in {self.phase.value}")
        once = self.phase is not Phase.HANDSHAKE or len(self.awaited) <= 1
        require(once, "awaited", "has more than one request of the handshake")

    def _check_bases(self, rings: list[int]) -> None:
        """In STOPPING each ring's base is here or awaited, in other phases none."""
        here = [each.index for each in self.bases]
        due = [each.value for each in self.awaited if each.request == vu.GET_VRING_BASE]
        if self.phase is Phase.STOPPING:
            require(due, "awaited", "has no base, so that the stop would never end")
            require(sorted(here + due) == rings, "bases", "here and awaited are not those of the rings")
        else:
            require(not here, "bases", f"are there in {self.phase.value}")
            require(not due, "awaited", f"has bases in {self.phase.value}")

    def _may_await(self, request: int) -> bool:
        if self.phase is not Phase.HANDSHAKE:
            return request in ACKNOWLEDGED and bool(self.protocol_features & vu.P_REPLY_ACK)
        if request == vu.GET_PROTOCOL_FEATURES:
            return self.protocol
        if request == vu.GET_QUEUE_NUM:
            return bool(self.protocol_features & vu.P_MQ)
        return request in HANDSHAKE

    def check(self, pairs: int) -> None:
        """Raise RecordError if an engine of so many queue pairs cannot be restored from it."""
        enough = self.phase is Phase.HANDSHAKE or self.max_pairs >= pairs
        require(enough, "max_pairs", f"is {self.max_pairs}, for {pairs} pairs")
