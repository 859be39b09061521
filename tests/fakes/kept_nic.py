"""A NIC behind its vhost-user socket with all its units in a keep, and the one that takes its place."""

from __future__ import annotations

import asyncio

from tests.fakes.vhost_user_rig import MAC, Sink

from vnic.attach.vhost_user.attachment import VhostUserAttachment
from vnic.keep import NO_HANDLES, Keep, NoHandles
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.client_record import NetClientRecord
from vnic.net.network import Network
from vnic.nic.virtio_net.device import VirtioNet
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.record import RecordError


class DeviceUnit:
    """The unit of a device model."""

    def __init__(self, device: VirtioNet) -> None:
        self._device = device

    def save_kept(self) -> tuple[VirtioNetRecord, NoHandles]:
        return self._device.save(), NO_HANDLES


class KeptNic:
    """`nic0` in front of the netdev `net0`, which keeps what it gets. With an inherited state it goes on where the
    one before was; `anew` says that its device does not."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keep: Keep,
        path: str,
        *,
        server: bool = True,
        far: Endpoint | None = None,
    ) -> None:
        self.keep = keep
        self.network = Network(loop)
        self.sink = Sink()
        self.device = VirtioNet(1)
        self.anew = True
        goes_on = "vm/nic0" in set(keep.keys())
        self.network.links.suspend()
        self.netdev = self.network.add_netdev("net0", "sink", far or self.sink)
        self._begin(self.netdev, "client/netdev/net0")

        def start() -> None:
            nic = self.device.client
            self.device.start()
            self.attachment = VhostUserAttachment(self.device, nic, path, server, loop, keep=keep)
            self._restore(nic)

        self.nic: Nic = self.network.add_nic(
            "nic0", "virtio-net", self.device, mac=MAC, netdev_id="net0", start=start
        )
        self.nic.kept = keep.unit("client/device/nic0", self.nic)
        self.device.kept = keep.unit("nic/nic0", DeviceUnit(self.device))
        if not goes_on:
            self.attachment.start()
        keep.settle()
        self.network.links.resume(self.network.nics)
        keep.commit()
        if goes_on:
            self.attachment.go_on()

    def _begin(self, client: NetClient, key: str) -> None:
        found = self.keep.inherited(key, NetClientRecord, NoHandles)
        if found is not None:
            client.restore(found[0])
        client.kept = self.keep.unit(key, client)

    def _restore(self, nic: Nic) -> None:
        client = self.keep.inherited("client/device/nic0", NetClientRecord, NoHandles)
        device = self.keep.inherited("nic/nic0", VirtioNetRecord, NoHandles)
        if client is None or device is None:
            return
        nic.restore(client[0])
        if not self.attachment.restore():
            self.attachment.start()
            return
        try:
            self.device.restore(device[0], self.attachment.device_handles)
            self.anew = False
        except RecordError as error:
            self.keep.refused("nic/nic0", error)
            self.attachment.drop_vm()

    def set_link(self, up: bool) -> None:
        """As a monitor does, which replies after the commit."""
        self.network.set_link("nic0", up, "test")
        self.keep.commit()

    def close(self) -> None:
        self.attachment.close()
        self.network.close()
