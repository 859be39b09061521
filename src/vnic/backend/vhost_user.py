"""vhost-user: a back-end in another process runs the guest's rings itself (QEMU's net/vhost-user.c).

No packet and no notification passes through Python: the NIC's guest memory and eventfds are handed on. The socket is
the cable: while no back-end is connected, or the one there cannot serve the guest, the wire is held `disconnected`.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
from collections.abc import Callable, Sequence

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.options import VhostUserOptions
from vnic.chardev.socket import ChardevSocket
from vnic.memory.guest import GuestMemory
from vnic.net.announce import ETH_P_RARP, RARP_FRAME_LENGTH
from vnic.net.errors import NetError
from vnic.net.queue import Frame
from vnic.nic.virtio_net.features import (
    GUEST_ANNOUNCE,
    MTU,
    OF_THE_RINGS,
    names,
)
from vnic.protocol.vhost_user.frontend import (
    Bases,
    FrontendEngine,
    Phase,
    SharedRegion,
    SharedRing,
)
from vnic.protocol.vhost_user.messages import MAX_FDS, ProtocolError
from vnic.sockets.connection import Connection
from vnic.virtio.device import RingBackend, VirtioDevice

ANSWER_TIMEOUT_S = 5.0
"""How long an answer of the handshake or of a start may take before the back-end counts as dead."""
MEMORY_TIMEOUT_S_PER_GIB = 8.0
"""How much longer for SET_MEM_TABLE: DPDK touches all of the guest's memory first, and answers nothing else by then.
Cut off in the midst of that, it would begin anew."""
STOP_TIMEOUT_S = 2.0
"""The same for the rings' return, which the guest waits for."""
UNFIT_PAUSE_S = 0.5
"""The rest before a back-end that broke the protocol, or cannot serve the guest, may try again: where that shows
only after the link came up, the guest's link would otherwise flap as fast as it reconnects."""

WRONG_PEER = "vhost-user requires frontend driver virtio-net-*"
"""QEMU's text for a NIC that is no virtio device."""

MTU_AT = 10  # where a network device's config space holds its MTU (virtio 1.2 §5.1.4)


class BackendState(enum.Enum):
    """Where the netdev is."""

    NEW = enum.auto()
    ABSENT = enum.auto()
    """No back-end is connected."""
    HANDSHAKE = enum.auto()
    """One is, and its features are being asked for."""
    UP = enum.auto()
    """It is ready for the rings, or has them."""
    LOST = enum.auto()
    """It went; the loop's next turn draws the consequences."""
    ENDED = enum.auto()
    """The netdev was deleted; at most the rings' return is still awaited."""


class VhostUserBackend(Backend, RingBackend):
    """One vhost-user netdev; a RingBackend for the virtio NIC that is plugged into it."""

    passes_frames = False

    def __init__(self, context: BackendContext, options: VhostUserOptions) -> None:
        super().__init__(context)
        self._chardev = context.chardevs.find(options.chardev)
        self._socket = ChardevSocket(context.loop, self._chardev, self)
        self.queues = options.queues if options.queues is not None else 1
        if self.queues < 1 or self.queues > 1024:
            raise NetError("vhost-user number of queues must be in range [1, 1024]")
        self.state = BackendState.NEW
        self.ring_features: int | None = None
        """What the last back-end to connect can do; None before the first."""
        self._connection: Connection | None = None
        self._engine: FrontendEngine | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._device: VirtioDevice | None = None
        """The NIC whose rings were taken, until they are given back."""
        self._handed_over: set[int] = set()
        self._told_memory: tuple[GuestMemory, int] | None = None
        self._returned: Callable[[Sequence[int | None]], None] | None = None
        self._has_nic = False
        """A NIC is plugged in; also one that the end of this netdev unplugs, which only the NIC is told."""
        self._rarp_failed = False
        self._complaint = ""

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._chardev.claim(f"netdev {self.name}")
        self.state = BackendState.ABSENT
        self._socket.start()

    def cleanup(self) -> None:
        """The netdev goes. Rings that the back-end still has are awaited first, for as long as a stop may take."""
        began, self.state = self.state, BackendState.ENDED
        self._socket.close()
        if began is not BackendState.NEW:
            self._chardev.release()
            if self.client.created and not self._has_nic:
                # net_vhost_user_cleanup. A NIC that waits for this id finds the chardev again; QEMU keeps it busy.
                self.context.chardevs.remove(self._chardev.label)
        if self._device is None:
            self._drop_connection()

    # -- the socket (ChardevUser, ConnectionUser) -------------------------------------------------------------------

    def awaiting(self, text: str) -> None:
        self.hold_disconnected(text)

    def opened(self, sock: socket.socket) -> None:
        """CHR_EVENT_OPENED: vhost_user_start."""
        self.state = BackendState.HANDSHAKE
        self._chardev.set_connected(sock)
        self.hold_disconnected(f"connected to {self._socket.name}, asking the back-end what it can")
        self._connection = Connection(self.loop, sock, self, max_fds=MAX_FDS, owner=self.name)
        self._engine = FrontendEngine(self._connection.send, self.queues)
        self._engine.begin(self._ready)
        self._watch_time()

    @property
    def wanted(self) -> int:
        assert self._engine is not None
        return self._engine.wanted

    def received(self, data: bytes, fds: list[int]) -> None:
        assert self._engine is not None
        try:
            self._engine.feed(data, fds)
        except ProtocolError as error:
            self._refuse(str(error))
        else:
            self._watch_time()

    def lost(self, reason: str | None) -> None:
        """CHR_EVENT_CLOSED: the socket is no longer watched; the rest waits for the loop's next turn, because this
        may come from within a read or write."""
        self._disconnect(f"the back-end closed the connection{f': {reason}' if reason else ''}", 0.0)

    def _refuse(self, reason: str) -> None:
        """The back-end is of no use as it is."""
        self._disconnect(reason, UNFIT_PAUSE_S)

    def _disconnect(self, reason: str, pause_s: float) -> None:
        """Part from the back-end (qemu_chr_fe_disconnect), and draw the consequences in the next turn."""
        if self.state in (BackendState.HANDSHAKE, BackendState.UP):
            connected = self.state is BackendState.UP
            if connected or reason != self._complaint:
                log.warning("netdev %s: %s", self.name, reason)
            self._complaint = reason
            self.state = BackendState.LOST
            self._close_socket()
            self.loop.call_soon(self._closed, reason, connected, pause_s)
        elif self.state is BackendState.ENDED:
            self._drop_connection()

    def _closed(self, reason: str, connected: bool, pause_s: float) -> None:
        """chr_closed_bh: link down for all queues, the device notified, the handlers installed again, the event.

        The features that the guest acknowledged, which QEMU saves here, are the device model's all along.
        """
        if self.state is not BackendState.LOST:
            self._drop_connection()  # the netdev was deleted in between
            return
        self._engine = None
        self.state = BackendState.ABSENT
        self._chardev.set_connected(None)
        self.hold_disconnected(reason)
        self._give_back_now()
        self._socket.rearm(reason, pause_s)
        if connected:
            self.context.emit("NETDEV_VHOST_USER_DISCONNECTED", {"netdev-id": self.name})

    def _close_socket(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.close()

    def _drop_connection(self) -> None:
        self._close_socket()
        self._engine = None
        self._give_back_now()

    # -- time -------------------------------------------------------------------------------------------------------

    def _watch_time(self) -> None:
        """Bound the wait for the next answer, if one is due."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        engine = self._engine
        if engine is None or engine.awaited is None:
            return
        seconds = STOP_TIMEOUT_S if engine.phase is Phase.STOPPING else ANSWER_TIMEOUT_S
        if engine.phase is Phase.RUNNING and engine.awaited == "SET_MEM_TABLE" and self._told_memory:
            shared = sum(each.size for each in self._told_memory[0].regions if each.fd is not None)
            seconds += MEMORY_TIMEOUT_S_PER_GIB * shared / (1 << 30)
        self._deadline = self.loop.call_later(seconds, self._too_late, engine.awaited, seconds)

    def _too_late(self, awaited: str, seconds: float) -> None:
        self._deadline = None
        self._refuse(f"the back-end did not answer {awaited} within {seconds:g} s")

    # -- handshake --------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        """The features are known: refuse a back-end that lacks what the guest already uses, or bring the link up."""
        assert self._engine is not None
        if not self._peer_fits():
            raise ProtocolError(WRONG_PEER)
        self.ring_features = self._engine.features  # also if refused: a guest that starts anew will fit
        device = self._peer_device()
        missing = _acked(device) & ~self._engine.features
        if missing:
            raise ProtocolError(_lacking(missing))
        if device is not None:
            try:
                self._usable(device)
            except ValueError as error:
                raise ProtocolError(str(error)) from None
        self.state = BackendState.UP
        self.release_disconnected(f"back-end connected: {self._socket.name}")
        data: dict[str, object] = {"netdev-id": self.name, "chardev-id": self._chardev.label}
        self.context.emit("NETDEV_VHOST_USER_CONNECTED", data)

    def _peer_device(self) -> VirtioDevice | None:
        endpoint = self.client.peer.endpoint if self.client.peer is not None else None
        return endpoint if isinstance(endpoint, VirtioDevice) else None

    def _peer_fits(self) -> bool:
        """Whether the NIC, if there is one, has rings to hand over."""
        return self.client.peer is None or self._peer_device() is not None

    def peer_changed(self) -> None:
        self._has_nic = self.client.peer is not None
        if self.state is BackendState.UP and not self._peer_fits():
            self.loop.call_soon(self._refuse, WRONG_PEER)

    # -- RingBackend --------------------------------------------------------------------------------------------------

    def take_rings(self, device: VirtioDevice) -> bool:
        engine = self._engine
        if self.state is not BackendState.UP or engine is None or engine.phase is not Phase.READY:
            return False
        missing = _acked(device) & ~engine.features
        if missing:
            self.loop.call_soon(self._refuse, _lacking(missing))
            return False
        assert device.memory is not None
        try:
            memory = shared_memory(device.memory)
            rings = [self._hand_over(device, index) for index in self._usable(device)]
        except ValueError as error:
            self._reclaim(device)
            self.loop.call_soon(self._refuse, str(error))
            return False
        self._device = device
        self._told_memory = (device.memory, device.memory.generation)
        engine.start(_acked(device), memory, rings, self._mtu(device))
        self._watch_time()
        return True

    def rings_changed(self, device: VirtioDevice) -> None:
        engine = self._engine
        if engine is None or engine.phase is not Phase.RUNNING or device is not self._device:
            return
        assert device.memory is not None
        try:
            usable = self._usable(device)
            if self._told_memory != (device.memory, device.memory.generation):
                engine.set_memory(shared_memory(device.memory))
                self._told_memory = (device.memory, device.memory.generation)
            for index in usable:
                engine.set_ring(self._hand_over(device, index, engine.rings.get(index)))
        except (ValueError, ProtocolError) as error:
            self._refuse(str(error))
            return
        for index in set(engine.rings) - set(usable):
            engine.enable_ring(index, False)
        self._watch_time()

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        self._returned = done
        engine = self._engine
        if engine is None or engine.phase is not Phase.RUNNING or self._connection is None:
            self._give_back_now()
            return
        engine.stop(self._stopped)
        self._watch_time()

    def _stopped(self, bases: Bases) -> None:
        self._give_back_now(bases)
        if self.state is BackendState.ENDED:
            self.loop.call_soon(self._drop_connection)  # not from within the engine's own feed

    def _give_back_now(self, bases: Bases | None = None) -> None:
        """Nobody touches the rings any more, as far as can be known: the NIC has them again."""
        returned, self._returned = self._returned, None
        if returned is None:
            return
        device, self._device = self._device, None
        self._told_memory = None
        if device is None:
            returned([])
            return
        self._reclaim(device)
        returned([(bases or {}).get(index) for index in range(len(device.queues))])

    def _reclaim(self, device: VirtioDevice) -> None:
        if device.attachment is not None:
            for index in self._handed_over:
                device.attachment.reclaim_queue(index)
        self._handed_over.clear()

    def _usable(self, device: VirtioDevice) -> list[int]:
        """The rings to hand over: all that the guest set up, those that it does not use yet as well (QEMU's
        vhost_net_start). ValueError where it uses more than there are queues for: the NIC was made for another netdev.
        """
        usable = [q.index for q in device.queues if q.ready and q.enabled and device.carries_packets(q.index)]
        used = [index for index in usable if device.is_data_queue(index)]
        if used and used[-1] >= 2 * self.queues:
            pairs = used[-1] // 2 + 1
            raise ValueError(f"the guest uses {pairs} queue pairs, the netdev has queues={self.queues}")
        return [index for index in usable if index < 2 * self.queues]

    def _hand_over(self, device: VirtioDevice, index: int, told: SharedRing | None = None) -> SharedRing:
        """ValueError where the ring cannot be handed over."""
        queue = device.queues[index]
        fds = device.attachment.hand_over_queue(index) if device.attachment is not None else None
        if fds is None:
            raise ValueError(f"ring {index} of {device.name} cannot be handed over")
        self._handed_over.add(index)
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

    def _mtu(self, device: VirtioDevice) -> int:
        """The guest's MTU, where it was given one (virtio_net_vhost_status)."""
        if not device.driver_features & MTU:
            return 0
        return int.from_bytes(device.read_config(MTU_AT, 2), "little")

    # -- Endpoint ---------------------------------------------------------------------------------------------------

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Nothing is sent through here but announcements, which the back-end makes itself (vhost_user_receive)."""
        engine, device = self._engine, self._device
        is_rarp = len(frame) == RARP_FRAME_LENGTH and int.from_bytes(frame[12:14], "big") == ETH_P_RARP
        if not is_rarp or engine is None or device is None or self.state is not BackendState.UP:
            return True
        if device.driver_features & GUEST_ANNOUNCE:
            return True  # the guest does it
        if engine.send_rarp(bytes(frame[6:12])):
            self._watch_time()
        elif not self._rarp_failed:
            self._rarp_failed = True
            log.error("netdev %s: Vhost user backend fails to broadcast fake RARP", self.name)
        return True

    def info_text(self, queue: int) -> str:
        return f"vhost-user{queue} to {self._chardev.label}"


def _lacking(missing: int) -> str:
    """QEMU's text, and the features by name."""
    return f"vhost lacks feature mask {missing:#x} for backend: {names(missing)}"


def _acked(device: VirtioDevice | None) -> int:
    """The features that a guest's driver chose, as far as they concern whoever runs the rings."""
    return device.driver_features & OF_THE_RINGS if device is not None else 0


def shared_memory(memory: GuestMemory) -> list[SharedRegion]:
    """The guest's memory in as few pieces as it allows: neighbours that are neighbours in one file are joined.

    ValueError where there is nothing to share, or too much for SET_MEM_TABLE.
    """
    pieces: list[SharedRegion] = []
    files: list[tuple[int, int]] = []
    for region in memory.regions:
        if region.fd is None or not region.writable:
            continue  # not shared by the VM, or ROM: no ring and no buffer of a driver lies there
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
