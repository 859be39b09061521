"""A virtio-net NIC with a back-end that remembers its frames, ready to be served over vhost-user in tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fakes.loops import turn
from tests.fakes.scheduler import FakeScheduler

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import EngineWire, SocketWire, VhostUserClient
from vnic.memory.guest import GuestMemory
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.clock import Scheduler
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.nic.virtio_net.device import VirtioNet
from vnic.protocol.vhost_user.backend import BackendEngine
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.virtio.device import QueueFds

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

    def __init__(self, scheduler: Scheduler, pairs: int = 1) -> None:
        self.network = Network(scheduler)
        self.sink = Sink()
        self.netdev: NetClient = self.network.add_netdev("net0", "sink", self.sink, pairs)
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

    def __init__(self, pairs: int = 1) -> None:
        self.scheduler = FakeScheduler()
        super().__init__(self.scheduler, pairs)
        self.kicks: dict[int, int] = {}
        self.resumed: list[bytes] = []
        self.failures: list[ProtocolError] = []
        self.choices = 0
        self.served = GuestMemory()
        self.device.attach(self, self.served)
        self.engine = BackendEngine(self.device, self.served, self, queue_pairs=pairs)
        self.wire = EngineWire(self.engine)
        self.client = VhostUserClient(self.wire, self.memory, self.driver)

    def close(self) -> None:
        self.client.close()
        self.device.detach()
        self.served.close()
        super().close()

    # DeviceShell

    def watch_kick(self, index: int, fd: int | None) -> None:
        self.kicks.pop(index, None)
        if fd is not None:
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

    def hand_over_queue(self, index: int) -> QueueFds | None:
        return None

    def reclaim_queue(self, index: int) -> None:
        pass


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
