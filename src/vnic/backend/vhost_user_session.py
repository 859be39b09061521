"""One back-end at a vhost-user netdev: its connection, its engine, and the guest's rings while it has them.

`VhostUserBackend` makes one for each back-end that connects, and drops it when the back-end has disconnected.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from vnic.keep import NO_KEPT, Kept
from vnic.memory.guest import GuestMemory
from vnic.nic.virtio_net.features import MTU, OF_THE_RINGS, names
from vnic.protocol.vhost_user.frontend import Bases, FrontendEngine, SharedRegion
from vnic.protocol.vhost_user.frontend_record import (
    FrontendEngineRecord,
    FrontendHandles,
    Phase,
    SharedRing,
)
from vnic.protocol.vhost_user.messages import MAX_FDS, SET_MEM_TABLE, ProtocolError
from vnic.record import Record, RecordError, require, within
from vnic.sockets.connection import Connection, ConnectionRecord
from vnic.sockets.kept_connection import KeptConnection
from vnic.sockets.time_limit import TimeLimit
from vnic.virtio.attachment import Attachment, QueueFds
from vnic.virtio.device import VirtioDevice

ANSWER_TIMEOUT_S = 5.0
"""The time limit for an answer of the handshake or of a start."""
MEMORY_TIMEOUT_S_PER_GIB = 8.0
"""The extra time for SET_MEM_TABLE: DPDK touches all of the guest's memory first, and answers nothing else meanwhile.
If it were disconnected then, it would have to start over."""
STOP_TIMEOUT_S = 2.0
"""The time limit for the return of the rings, which the guest waits for."""

MTU_AT = 10  # the offset of the MTU in a network device's config space (virtio 1.2 §5.1.4)

Returned = Callable[[Sequence[int | None]], None]


class SessionOwner(Protocol):
    """What a session needs from the netdev that made it."""

    def ready(self, features: int) -> None:
        """The handshake is complete; `features` are the back-end's virtio features. Raises ProtocolError if they do not
        match the guest's."""

    def refuse(self, reason: str) -> None:
        """The back-end cannot be used: `close` the session."""

    def lost(self, reason: str | None) -> None:
        """The connection is closed; `reason` is None if the back-end closed it."""

    def rings_returned(self) -> None:
        """The back-end has returned the rings that were requested."""


@dataclass
class TakenRings:
    """A guest's rings that the back-end has."""

    device: VirtioDevice
    memory: GuestMemory
    generation: int
    """The version of the memory that the back-end has received."""
    handed_over: set[int] = field(default_factory=set)

    @property
    def memory_is_told(self) -> bool:
        return self.device.memory is self.memory and self.generation == self.memory.generation

    def reclaim(self) -> None:
        for index in self.handed_over:
            self.device.attachment.reclaim_queue(index)
        self.handed_over.clear()


class BackEndSessionRecord(Record, frozen=True):
    """The state of a BackEndSession whose connection is not closed."""

    engine: FrontendEngineRecord
    connection: ConnectionRecord
    memory_told: bool
    """The back-end has the newest map of the guest's memory, if it has the rings."""

    @property
    def has_rings(self) -> bool:
        return self.engine.phase in (Phase.RUNNING, Phase.STOPPING)


class BackEndHandles(NamedTuple):
    """The handles of a session. The descriptors are its own after `restore`."""

    output: Sequence[Sequence[int]] = ()
    """As `Connection.fds`."""
    begun: Sequence[int] = ()
    """Those of the half-read message."""
    device: VirtioDevice | None = None
    """The device whose rings the back-end has; it is restored after the session."""
    attachment: Attachment | None = None
    """That of the device, which is restored: it hands the rings over again."""
    memory: GuestMemory | None = None


class BackEndSession:
    """From the connection of a back-end until its end is processed. It is the ConnectionUser of its connection."""

    def __init__(
        self,
        owner: SessionOwner,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        name: str,
        pairs: int,
        kept: Kept | None = None,
        outbox: int | None = None,
    ) -> None:
        """`begin` or `restore` follows. `name` is the netdev's. `pairs` are the queue pairs that will be used. `kept`:
        the unit that the session is a part of, if it outlives the process; `outbox` is then that of the process before.
        Raises OSError if there are no descriptors left for what is kept."""
        self._owner = owner
        self._loop = loop
        self._pairs = pairs
        self._taken: TakenRings | None = None
        self._returned: Returned | None = None
        """Called when the rings are returned."""
        self._when_processed: Callable[[], None] | None = None
        self._limit = TimeLimit(loop, self._too_late)
        self._kept = kept or NO_KEPT
        self._connection = (
            Connection(loop, sock, self, max_fds=MAX_FDS, owner=name)
            if kept is None
            else KeptConnection(loop, sock, self, kept, max_fds=MAX_FDS, owner=name, outbox=outbox)
        )
        self._engine = FrontendEngine(
            self._connection.send, pairs, self._ready, self._stopped, self._processed
        )

    def begin(self) -> None:
        """Ask the back-end what it can do."""
        self._engine.begin()
        self._watch_time()

    def begin_with(self, features: int, protocol_features: int) -> None:
        """As `begin`, with a back-end that is known; it is `ready` within."""
        self._engine.begin_with(features, protocol_features)

    @property
    def has_rings(self) -> bool:
        return self._taken is not None

    def close(self) -> None:
        """Disconnect the back-end; `return_rings` returns the rings that it has to the guest."""
        self._kept.handles_changed()
        self._limit.stop()
        self._connection.close()
        self._engine.close()

    # -- state apart from handles -----------------------------------------------------------------------------------

    def save(self) -> BackEndSessionRecord | None:
        """None if the connection is closed: rings that the back-end has count as lost with it."""
        if self._connection.closed:
            return None
        return BackEndSessionRecord(
            engine=self._engine.save(),
            connection=self._connection.save(),
            memory_told=self._taken is not None and self._taken.memory_is_told,
        )

    @property
    def sock(self) -> socket.socket | None:
        """The socket that belongs to the record."""
        return None if self._connection.closed else self._connection.sock

    @property
    def outbox(self) -> int | None:
        """What the back-end has not got yet; it belongs to the record, too."""
        return self._connection.outbox if isinstance(self._connection, KeptConnection) else None

    @property
    def handles(self) -> BackEndHandles:
        """The descriptors that belong to the record, still the session's, and what the back-end has."""
        begun, output = self._engine.handles.frames, self._connection.fds
        if self._taken is None:
            return BackEndHandles(output, begun)
        device = self._taken.device
        return BackEndHandles(output, begun, device, device.attachment, self._taken.memory)

    def restore(self, record: BackEndSessionRecord, handles: BackEndHandles) -> None:
        """Go on on the same connection; the back-end gets the whole time for an answer again. Raises RecordError, and
        leaves the descriptors to the caller then."""
        device, attachment, memory = handles.device, handles.attachment, handles.memory
        has = "a" if device is not None else "no"
        agree = record.has_rings is (device is not None)
        require(agree, "engine.phase", f"is {record.engine.phase.value}, and {has} device was passed")
        with within("connection"):
            record.connection.check(handles.output)
        rings: dict[int, QueueFds] = {}
        try:
            if device is not None and attachment is not None:
                for at, ring in enumerate(record.engine.rings):
                    known = ring.index < len(device.queues)
                    fds = attachment.hand_over_queue(ring.index) if known else None
                    if fds is None:
                        raise RecordError(f"engine.rings[{at}].index", "is that of a ring that is not there")
                    rings[ring.index] = fds
            with within("engine"):
                self._engine.restore(record.engine, FrontendHandles(handles.begun, rings))
        except RecordError:
            if attachment is not None:
                for index in rings:
                    attachment.reclaim_queue(index)
            raise
        if device is not None and memory is not None:
            told = memory.generation if record.memory_told else -1
            self._taken = TakenRings(device, memory, told, set(rings))
        self._connection.restore(record.connection, handles.output)
        self._watch_time()
        if isinstance(self._connection, KeptConnection):
            self._loop.call_soon(self._connection.go_on)

    # -- ConnectionUser ---------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        return self._engine.wanted

    def received(self, data: bytes, fds: list[int]) -> None:
        try:
            self._engine.feed(data, fds)
        except ProtocolError as error:
            self._owner.refuse(str(error))
        else:
            self._watch_time()

    def lost(self, reason: str | None) -> None:
        self._owner.lost(reason)

    def _ready(self) -> None:
        self._owner.ready(self._engine.features)

    def _refuse_later(self, reason: str) -> None:
        """As `refuse`, but in a later turn: not within a call of the device."""

        def refuse() -> None:
            if not self._connection.closed:
                self._owner.refuse(reason)

        self._loop.call_soon(refuse)

    # -- time -------------------------------------------------------------------------------------------------------

    def _watch_time(self) -> None:
        """Set the time limit of the next answer, if one is due. The engine's state has changed."""
        self._kept.handles_changed()
        engine = self._engine
        if engine.awaits is None or self._connection.closed:
            self._limit.clear()
            return
        seconds = STOP_TIMEOUT_S if engine.phase is Phase.STOPPING else ANSWER_TIMEOUT_S
        if engine.awaits == SET_MEM_TABLE and engine.phase is Phase.RUNNING and self._taken is not None:
            shared = sum(each.size for each in self._taken.memory.regions if each.fd is not None)
            seconds += MEMORY_TIMEOUT_S_PER_GIB * shared / (1 << 30)
        self._limit.set(seconds)

    def _too_late(self) -> None:
        self._owner.refuse(
            f"the back-end did not answer {self._engine.awaited} within {self._limit.seconds:g} s"
        )

    # -- the rings (RingBackend, once a back-end is there) ------------------------------------------------------------

    def take_rings(self, device: VirtioDevice) -> bool:
        engine, memory = self._engine, device.memory
        if engine.phase is not Phase.READY:
            return False
        missing = acked(device) & ~engine.features
        if missing:
            self._refuse_later(lacking(missing))
            return False
        taken = TakenRings(device, memory, memory.generation)
        try:
            regions = shared_memory(memory)
            rings = [self._hand_over(taken, index) for index in usable_rings(device, self._pairs)]
        except ValueError as error:
            taken.reclaim()
            self._refuse_later(str(error))
            return False
        self._taken = taken
        engine.start(acked(device), regions, rings, _mtu(device))
        self._watch_time()
        return True

    def when_processed(self, done: Callable[[], None]) -> None:
        """Call `done` when the back-end has processed all that was sent to it."""
        self._when_processed = done
        self._engine.barrier()
        self._watch_time()

    def _processed(self) -> None:
        done, self._when_processed = self._when_processed, None
        if done is not None:
            done()

    def rings_changed(self, device: VirtioDevice) -> None:
        engine, taken, memory = self._engine, self._taken, device.memory
        if self._connection.closed or engine.phase is not Phase.RUNNING:
            return
        if taken is None or taken.device is not device:
            return
        try:
            usable = usable_rings(device, self._pairs)
            if not taken.memory_is_told:
                engine.set_memory(shared_memory(memory))
                taken.memory, taken.generation = memory, memory.generation
            for index in usable:
                engine.set_ring(self._hand_over(taken, index, engine.rings.get(index)))
        except (ValueError, ProtocolError) as error:
            self._owner.refuse(str(error))
            return
        for index in set(engine.rings) - set(usable):
            engine.enable_ring(index, False)
        self._watch_time()

    def give_back(self, done: Returned) -> None:
        self._returned = done
        if self._engine.phase is Phase.STOPPING and not self._connection.closed:
            return  # it was asked before a restart
        if self._connection.closed or self._engine.phase is not Phase.RUNNING:
            self.return_rings()
            return
        self._engine.stop()
        self._watch_time()

    def _stopped(self, bases: Bases) -> None:
        self.return_rings(bases)
        self._owner.rings_returned()

    def return_rings(self, bases: Bases | None = None) -> None:
        """The back-end does not access the rings any more, as far as is known: return them to the NIC, if it requested
        them."""
        returned, self._returned = self._returned, None
        if returned is None:
            return
        taken, self._taken = self._taken, None
        if taken is None:
            returned([])
            return
        taken.reclaim()
        returned([(bases or {}).get(index) for index in range(len(taken.device.queues))])

    def _hand_over(self, taken: TakenRings, index: int, told: SharedRing | None = None) -> SharedRing:
        """ValueError if the ring cannot be handed over."""
        device = taken.device
        queue = device.queues[index]
        fds = device.attachment.hand_over_queue(index)
        if fds is None:
            raise ValueError(f"ring {index} of {device.name} cannot be handed over")
        taken.handed_over.add(index)
        return SharedRing(
            index,
            queue.size,
            queue.last_avail if told is None else told.base,
            queue.desc,
            queue.avail,
            queue.used,
            fds.kick,
            fds.call,
            device.is_data_queue(index),
        )

    def announces(self) -> VirtioDevice | None:
        """The device whose guest the back-end may announce, while it has the rings."""
        return self._taken.device if self._taken is not None else None

    def send_rarp(self, mac: bytes) -> bool:
        """Make the back-end announce `mac`. False: it cannot."""
        if not self._engine.send_rarp(mac):
            return False
        self._watch_time()
        return True


def usable_rings(device: VirtioDevice, pairs: int) -> list[int]:
    """The rings to hand over: all that the guest has set up, including those that it does not use yet (QEMU's
    vhost_net_start). ValueError if it uses more than there are queues: the NIC was made for another netdev."""
    usable = [q.index for q in device.queues if q.ready and q.enabled and device.carries_packets(q.index)]
    used = [index for index in usable if device.is_data_queue(index)]
    if used and used[-1] >= 2 * pairs:
        raise ValueError(f"the guest uses {used[-1] // 2 + 1} queue pairs, the netdev has queues={pairs}")
    return [index for index in usable if index < 2 * pairs]


def _mtu(device: VirtioDevice) -> int:
    """The guest's MTU, if it was given one (virtio_net_vhost_status)."""
    if not device.driver_features & MTU:
        return 0
    return int.from_bytes(device.read_config(MTU_AT, 2), "little")


def lacking(missing: int) -> str:
    """QEMU's text, and the features by name."""
    return f"vhost lacks feature mask {missing:#x} for backend: {names(missing)}"


def acked(device: VirtioDevice | None) -> int:
    """The features that a guest's driver has negotiated, as far as the back-end needs them."""
    return device.driver_features & OF_THE_RINGS if device is not None else 0


def shared_memory(memory: GuestMemory) -> list[SharedRegion]:
    """The guest's memory in as few regions as possible: adjacent regions of one file are joined.

    ValueError if there is nothing to share, or too much for SET_MEM_TABLE.
    """
    pieces: list[SharedRegion] = []
    files: list[tuple[int, int]] = []
    for region in memory.regions:
        if region.fd is None or not region.writable:
            continue  # not shared by the VM, or ROM: it has no rings and no buffers
        info = os.fstat(region.fd)
        file = (info.st_dev, info.st_ino)
        last = pieces[-1] if pieces else None
        if (
            last is not None
            and files[-1] == file
            and last.guest_addr + last.size == region.guest_addr
            and last.offset + last.size == region.fd_offset
        ):
            pieces[-1] = last._replace(size=last.size + region.size)
        else:
            pieces.append(SharedRegion(region.guest_addr, region.size, region.fd, region.fd_offset))
            files.append(file)
    if not pieces:
        raise ValueError("the VM shares no memory (share=on), so no back-end can run its rings")
    if len(pieces) > MAX_FDS:
        raise ValueError(f"guest memory in {len(pieces)} pieces; a vhost-user back-end takes {MAX_FDS}")
    return pieces
