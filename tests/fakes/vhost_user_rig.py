"""A virtio-net NIC with a back-end that remembers its frames, ready to be served over vhost-user in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.loops import no_fd_leak, turn
from tests.fakes.ring_backend import FakeRingBackend
from tests.fakes.scheduler import FakeScheduler

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import EngineWire, SocketWire, VhostUserClient
from vnic.memory.guest import GuestMemory
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.client_record import NetClientRecord
from vnic.net.clock import Scheduler
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.nic.virtio_net.device import VirtioNet
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.protocol.vhost_user.backend import BackendEngine
from vnic.protocol.vhost_user.backend_record import BackendEngineRecord
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.ring import RingState
from vnic.record import decode, encode
from vnic.virtio.attachment import Doorbell, QueueFds, VirtioHandles

MAC = bytes.fromhex("525400123456")


class Sink(Endpoint):
    """A back-end that keeps what it gets."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.frames.append(bytes(frame))
        return True


class NicRig:
    """The NIC `nic0` plugged into the netdev `net0`, and a guest that is not attached yet."""

    def __init__(self, scheduler: Scheduler, pairs: int = 1, far: Endpoint | None = None) -> None:
        self.network = Network(scheduler)
        self.sink = Sink()
        self.far = far or self.sink
        self.netdev: NetClient = self.network.add_netdev("net0", "sink", self.far, pairs)
        self.device = VirtioNet(pairs)
        self.nic: Nic = self.network.add_nic(
            "nic0", "virtio-net", self.device, mac=MAC, queues=pairs, netdev_id="net0"
        )
        self.memory = FakeGuestMemory()
        self.driver = NetDriver(self.memory, pairs=pairs)

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def close(self) -> None:
        self.driver.close()
        self.memory.close()
        self.network.close()


class EngineRig(NicRig):
    """The NIC behind an engine without a socket; it is the engine's shell and the device's attachment."""

    def __init__(self, pairs: int = 1, far: Endpoint | None = None) -> None:
        self.scheduler = FakeScheduler()
        super().__init__(self.scheduler, pairs, far)
        self.handed_over: set[int] = set()
        self.kicks: dict[int, int] = {}
        self.resumed: list[bytes] = []
        self.failures: list[ProtocolError] = []
        self.choices = 0
        self.served = GuestMemory()
        self.device.attach(self, self.served)
        self.engine = self.new_engine()
        self.wire = EngineWire(self.engine)
        self.client = VhostUserClient(self.wire, self.memory, self.driver)

    def new_engine(self) -> BackendEngine:
        return BackendEngine(self.device, self.served, self, queue_pairs=self.nic.queues)

    def move(self) -> None:
        """Another engine and another device take the places of these, as in another process; what the scheduler has is
        lost. The connection, the guest and the far end stay."""
        engine, handles, memory = encode(self.engine.save()), self.engine.handles, self.served
        device, journal = encode(self.device.save()), self.network.journal.save()
        clients = [encode(client.save()) for client in (self.netdev, self.nic)]
        memory.on_change.clear()
        for queue in self.device.queues:
            queue.invalidate()
        self.scheduler.cancel_all()
        self.kicks.clear()

        pairs = self.nic.queues
        self.network = Network(self.scheduler)
        self.device, self.served = VirtioNet(pairs), GuestMemory()
        self.netdev = self.network.add_netdev("net0", "sink", self.far, pairs)
        self.nic = self.network.add_nic(
            "nic0", "virtio-net", self.device, mac=MAC, queues=pairs, netdev_id="net0"
        )
        self.network.journal.restore(journal)
        for client, each in zip((self.netdev, self.nic), clients, strict=True):
            client.restore(decode(NetClientRecord, each))
        if isinstance(self.far, FakeRingBackend):
            self.far.moved(self.device)
        self.engine = self.wire.engine = self.new_engine()
        self.engine.restore(decode(BackendEngineRecord, engine), handles)
        memory.close()
        self.device.restore(decode(VirtioNetRecord, device), VirtioHandles(self, self.served))
        self.wire.answered += self.engine.go_on()

    def close(self) -> None:
        self.client.close()
        self.device.detach()
        if isinstance(self.far, FakeRingBackend) and self.far.waiting:
            self.far.answer()
        self.served.close()
        super().close()

    # DeviceShell

    def watch_kick(self, index: int, fd: int | None) -> None:
        self.kicks.pop(index, None)
        if fd is not None and index not in self.handed_over:
            self.kicks[index] = fd

    def rings_changed(self) -> None:
        pass

    def requests_changed(self) -> None:
        pass

    def negotiated(self) -> None:
        self.choices += 1

    def announce(self, mac: bytes) -> None:
        pass

    def resume(self, replies: bytes) -> None:
        self.resumed.append(replies)

    def failed(self, error: ProtocolError) -> None:
        self.failures.append(error)

    # Attachment

    def config_interrupt(self) -> bool:
        self.engine.notices.changed()
        return self.engine.take_notice() is not None

    def queue_interrupt(self, index: int) -> None:
        pass

    def link_changed(self, up: bool) -> None:
        pass

    def needs_reset(self) -> None:
        pass

    def doorbell(self) -> Doorbell | None:
        return None

    def hand_over_queue(self, index: int) -> QueueFds | None:
        self.handed_over.add(index)
        self.kicks.pop(index, None)
        ring = self.engine.rings[index]
        return QueueFds(ring.kick_fd, ring.call_fd)

    def reclaim_queue(self, index: int) -> None:
        self.handed_over.discard(index)
        if self.engine.rings[index].state is RingState.STARTED:
            self.watch_kick(index, self.engine.rings[index].kick_fd)


class SocketRig(NicRig):
    """The NIC behind its socket, served by `loop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: Path, pairs: int = 1, *, server: bool = True
    ) -> None:
        super().__init__(loop, pairs)
        self.loop = loop
        self.path = str(path)
        self.attachment = VhostUserAttachment(self.device, self.nic, self.path, server, loop)
        self.clients: list[VhostUserClient] = []

    def connect(self) -> VhostUserClient:
        """A client on the NIC's socket, which has said nothing yet."""
        return self.adopt(SocketWire.connect(self.path, self.loop))

    def adopt(self, wire: SocketWire) -> VhostUserClient:
        client = VhostUserClient(wire, self.memory, self.driver)
        self.clients.append(client)
        return client

    def serve(self, turns: int = 5) -> None:
        """Run the device's pending work."""
        turn(self.loop, turns)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.attachment.close()
        super().close()


def closed_by_device(client: VhostUserClient) -> bool:
    """Whether the device closed the connection of a client made by SocketRig."""
    assert isinstance(client.wire, SocketWire)
    return client.wire.closed()


@contextmanager
def engine_rig() -> Iterator[EngineRig]:
    """A rig that is closed, and has no descriptor open then."""
    with no_fd_leak():
        rig = EngineRig()
        try:
            yield rig
        finally:
            rig.close()
