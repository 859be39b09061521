"""A guest's rings at vnic-wire, which is a vhost-user back-end to them, on a socket pair: the hand-over is that of any
vhost-user netdev.

`engine` makes one `RingPort` for each virtio NIC that it carries.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from vnic.backend.vhost_user_session import BackEndSession, acked, lacking, shared_memory
from vnic.dataplane.engine import RingCarrier
from vnic.dataplane.wire.channel import Channel
from vnic.dataplane.wire.messages import (
    VLAN_BYTES,
    AddDoorbell,
    FilterBit,
    GetStats,
    Kind,
    Overflow,
    PortAdd,
    PortRemove,
    Reply,
    SetFilter,
)
from vnic.dataplane.wire.ports import count_traffic, inject
from vnic.dataplane.wire.records import PortFacts
from vnic.dataplane.wire.replies import HelloReply
from vnic.memory.guest import NO_MEMORY
from vnic.net.client import NetClient
from vnic.net.offload import MAX_FRAME_BYTES
from vnic.net.queue import Frame
from vnic.nic.virtio_net.control import RX_MODES
from vnic.nic.virtio_net.device import VirtioNet
from vnic.nic.virtio_net.rx_filter import ALL_VLANS, RxFilter
from vnic.pci.irq import MessageSocket
from vnic.virtio.device import VirtioDevice

log = logging.getLogger("vnic.wire")

_ALL_VLANS = b"\xff" * VLAN_BYTES
_BITS = dict(zip(RX_MODES, FilterBit, strict=False))


class RingState(enum.Enum):
    """The state of a RingPort."""

    READY = enum.auto()
    """It takes rings, or has them."""
    ENDED = enum.auto()
    """It takes no more; it may still have rings."""


class RingPortUser(Protocol):
    def ring_port_changed(self, port: RingPort) -> None:
        """The program has the rings."""

    borrowing: set[RingPort]
    """Those whose VM's connection the program reads: call `return_doorbell` when it has ended."""

    def ring_port_failed(self, port: RingPort, reason: str) -> None:
        """The program closed the port's socket, or broke vhost-user."""


class RingPort(RingCarrier):
    """One NIC at the program. It is the owner of its BackEndSession."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        number: int,
        client: NetClient,
        device: VirtioNet,
        user: RingPortUser,
        freed: Callable[[int, int | None], None],
        hello: HelloReply,
    ) -> None:
        """`hello` is the program's, which says what it can do: no port has to ask. `freed` gets the port's number, and
        that of the wire of its own, when both may be used again. Raises OSError if there are no descriptors left."""
        self.number = number
        self.client = client
        self.device = device
        self.state = RingState.READY
        self._loop = loop
        self._channel = channel
        self._user = user
        self._filter: SetFilter | None = None
        self._leaving = False
        self.carries = False
        """Whether the device gives its rings to this port."""
        self.started = False
        """The program has processed the hand-over of the rings."""
        self.parked_in: int | None = None
        """The wire of its own in which it leaves."""
        self._freed = freed
        self._messages: MessageSocket | None = None
        """The VM's connection, while the program takes kicks from it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with theirs:
            request = PortAdd(number, Kind.VHOST, device.pairs, max_frame=MAX_FRAME_BYTES)
            channel.request(request, (theirs.fileno(),), self._added)
        self._session = BackEndSession(self, loop, ours, client.name, device.pairs)
        self._session.begin_with(hello.features, hello.protocol_features)

    @property
    def end(self) -> VirtioNet:
        return self.device

    @property
    def facts(self) -> PortFacts:
        """What its record holds."""
        return PortFacts(Kind.VHOST)

    def _added(self, reply: Reply) -> None:
        if reply.error and self.state is not RingState.ENDED:
            self.refuse(reply.data.decode(errors="replace") or os.strerror(reply.error))

    # -- SessionOwner -------------------------------------------------------------------------------------------

    def ready(self, features: int) -> None:
        self.ring_features = features

    def refuse(self, reason: str) -> None:
        self._session.close()
        self._user.ring_port_failed(self, reason)

    def lost(self, reason: str | None) -> None:
        self._user.ring_port_failed(self, reason or "vnic-wire closed the port")

    def rings_returned(self) -> None:
        if self._leaving:
            self._loop.call_soon(self._leave)  # not within the session's own feed

    # -- RingCarrier --------------------------------------------------------------------------------------------

    def take_rings(self, device: VirtioDevice) -> bool:
        if self.state is not RingState.READY:
            return False
        self.filter_changed()
        taken = self._session.take_rings(device)
        if taken:
            self._session.when_processed(self._processed)
        return taken

    def _processed(self) -> None:
        self.started = True
        self._lend_doorbell()
        self._user.ring_port_changed(self)

    def _lend_doorbell(self) -> None:
        """Let the program take the VM's kicks where they are messages. It takes those of running rings only, so none is
        lost while rings go back and forth."""
        doorbell = self.device.attachment.doorbell() if self._messages is None else None
        lent = doorbell.messages.lend() if doorbell is not None else None
        if doorbell is None or lent is None:
            return
        self._messages = doorbell.messages
        self._user.borrowing.add(self)
        request = AddDoorbell(self.number, doorbell.region, doorbell.first, doorbell.size, doorbell.stride)
        self._channel.request(request, lent, self._doorbell_added)

    def _doorbell_added(self, reply: Reply) -> None:
        if reply.error:
            log.error(
                "%s: vnic-wire takes no kicks: %s", self.client.name, reply.data.decode(errors="replace")
            )
            self.return_doorbell()

    def return_doorbell(self) -> None:
        """The program does not read the VM's connection, or has ended."""
        if self._messages is not None:
            self._messages.take_back()
            self._messages = None
            self._user.borrowing.discard(self)

    def carry(self) -> None:
        """Have the device give its rings."""
        self.carries = True
        self.device.set_carrier(self)

    def rings_changed(self, device: VirtioDevice) -> None:
        self._session.rings_changed(device)

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        self._session.give_back(done)

    def filter_changed(self) -> None:
        request = filter_request(self.number, self.device.filter, self.device.config.mac)
        if request != self._filter:
            self._filter = request
            self._channel.request(request)

    def inject(self, queue: int, frame: Frame) -> None:
        inject(self._channel, self.client, self.number, queue, frame)

    # -- the end ------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Give the rings back, then leave the program."""
        if self.state is RingState.ENDED:
            return
        self.state = RingState.ENDED
        self._leaving = True
        self.device.drop_carrier(self)
        if not self._session.has_rings:
            self._leave()

    def drop(self) -> None:
        """The program, or its end of this port, is gone: the rings continue here from used.idx."""
        self.state = RingState.ENDED
        self._leaving = True
        self._session.close()
        self.device.drop_carrier(self)
        self._leave()

    def _leave(self) -> None:
        if not self._leaving:
            return
        self._leaving = False
        self._channel.request(GetStats(self.number), answered=lambda reply: count_traffic(self.client, reply))
        # Not before the answer: until then there may be events of this port.
        self._channel.request(PortRemove(self.number), answered=self._removed)
        self._session.close()
        self._session.return_rings()

    def _removed(self, _: Reply) -> None:
        self.return_doorbell()
        self._freed(self.number, self.parked_in)


def missing_features(device: VirtioNet, hello: HelloReply) -> str:
    """Why the program cannot take the device's rings as they are now; "" if it can."""
    missing = acked(device) & ~hello.features
    return f"vnic-wire: {lacking(missing)}" if missing else ""


class SharedMemoryCheck:
    """Remembers whether a NIC's guest memory can be shared: the answer changes only with the memory."""

    def __init__(self) -> None:
        self._asked: tuple[object, int] | None = None
        self._answer = ""

    def refusal(self, device: VirtioNet) -> str:
        memory = device.memory
        if memory is NO_MEMORY:
            return "no VM is attached"
        asked = memory, memory.generation
        if asked != self._asked:
            try:
                shared_memory(memory)
                self._answer = ""
            except (ValueError, OSError) as error:
                self._answer = str(error)
            self._asked = asked
        return self._answer


def filter_request(port: int, rx_filter: RxFilter, mac: bytes) -> SetFilter:
    """The FILTER message for a driver's receive filter."""
    if rx_filter.promisc:
        return SetFilter(port, FilterBit(0), mac)
    bits = FilterBit.ENABLED
    for name, bit in _BITS.items():
        if getattr(rx_filter, name):
            bits |= bit
    overflow = Overflow(0)
    if rx_filter.unicast_overflow:
        overflow |= Overflow.UNICAST
    if rx_filter.multicast_overflow:
        overflow |= Overflow.MULTICAST
    vlans = _ALL_VLANS
    if rx_filter.vlans != ALL_VLANS:
        passing = bytearray(VLAN_BYTES)
        for vlan in rx_filter.vlans:
            passing[vlan >> 3] |= 1 << (vlan & 7)
        vlans = bytes(passing)
    return SetFilter(port, bits, mac, tuple(rx_filter.unicast), tuple(rx_filter.multicast), overflow, vlans)
