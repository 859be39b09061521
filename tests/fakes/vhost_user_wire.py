"""A NIC whose netdev is vhost-user: a guest on its one side, and on the other a fake back-end or a second vnic."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.fakes.events import record_events
from tests.fakes.loops import until
from tests.fakes.vhost_user_rig import MAC

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.backend import BackendContext, netdev_add
from vnic.backend.options import VhostUserOptions
from vnic.backend.vhost_user import BackendState, VhostUserBackend
from vnic.chardev.options import SocketOptions
from vnic.chardev.table import Chardevs
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient, turn
from vnic.net.network import Network
from vnic.nic.virtio_net import VirtioNet
from vnic.sockets.address import FdAddress, UnixAddress
from vnic.virtio.device_record import DataPath


class WireRig:
    """`nic0` on `vu0` over the chardev `c0`, whose socket is `backend_path`; the guest's driver is not there yet."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        *,
        pairs: int = 1,
        server: bool = False,
        reconnect_ms: int = 10,
        mtu: int = 0,
        name: str = "",
        passed: socket.socket | None = None,
    ) -> None:
        """`passed`: the chardev is made of this socket, and not of a path."""
        self.loop = loop
        self.backend_path = str(folder / "backend.sock")
        self.network = Network(loop)
        self.events = record_events(self.network)
        self.chardevs = Chardevs(None if passed is None else lambda _: passed.detach())
        self.chardevs.add(
            SocketOptions(
                id="c0",
                addr=UnixAddress(path=self.backend_path) if passed is None else FdAddress(text="s"),
                server=server,
                reconnect_ms=reconnect_ms if passed is None else 0,
            ),
            listens=passed is not None,
        )
        self.context = BackendContext(loop, self.network, self.chardevs)
        self.pairs = pairs
        self.backend = self.add_netdev()
        self.device = VirtioNet(pairs, mtu=mtu)
        self.nic = self.network.add_nic(
            "nic0", "virtio-net", self.device, mac=MAC, queues=pairs, netdev_id="vu0"
        )
        self.guest_path = str(folder / "guest.sock")
        self.attachment = VhostUserAttachment(self.device, self.nic, self.guest_path, True, loop)
        self.attachment.start()
        self.memory = FakeGuestMemory()
        self.driver = NetDriver(self.memory, pairs=pairs)
        self.guest: VhostUserClient | None = None

    def add_netdev(self) -> VhostUserBackend:
        netdev_add(self.context, VhostUserOptions(id="vu0", chardev="c0", queues=self.pairs))
        netdev = self.network.find_netdev("vu0")
        assert netdev is not None
        assert isinstance(netdev.endpoint, VhostUserBackend)
        return netdev.endpoint

    def boot(self, features: int | None = None) -> VhostUserClient:
        """A guest attaches and starts its driver; then the loop has a few turns."""
        self.guest = VhostUserClient(SocketWire.connect(self.guest_path, self.loop), self.memory, self.driver)
        self.guest.start(features=features)
        self.settle()
        return self.guest

    def shut_down(self) -> None:
        """The guest goes."""
        assert self.guest is not None
        self.guest.close()
        self.guest = None
        for ring in self.driver.rings:
            ring.restart()

    def settle(self) -> None:
        """Run the loop until nothing is due; a fake back-end reads each message in two turns."""
        turn(self.loop, 100)

    def serves(self, datapath: DataPath) -> bool:
        """Whether the NIC's rings are worked on in that way."""
        return self.device.datapath is datapath

    def wait_up(self) -> None:
        until(self.loop, lambda: self.backend.state is BackendState.UP and self.nic.link_up)
        self.settle()

    def wait_down(self) -> None:
        until(self.loop, lambda: not self.nic.link_up)
        self.settle()

    @property
    def why(self) -> str:
        """The text of the netdev's hold."""
        netdev = self.network.find_netdev("vu0")
        assert netdev is not None
        return "; ".join(hold.text for hold in netdev.holds.values())

    def event_names(self) -> list[str]:
        return [name for name, _ in self.events if name.startswith("NETDEV_")]

    def close(self) -> None:
        if self.guest is not None:
            self.guest.close()
        self.settle()
        self.network.close_netdevs()
        self.attachment.close()
        self.settle()
        self.network.close()
        self.driver.close()
        self.memory.close()
