"""A virtio-net NIC that is given to another process, as it were, between two steps of its driver."""

from __future__ import annotations

import msgspec
from tests.fakes.virtio_lab import MAC, FarEnd, VirtioLab

from vnic.keep import Kept
from vnic.net.client_record import NetClientRecord
from vnic.net.network import Network
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.record import decode, encode
from vnic.virtio.attachment import NO_ATTACHMENT, VirtioHandles


class MovingLab(VirtioLab):
    """The guest's memory and eventfds stay, and the far end."""

    def __init__(self, pairs: int = 1, *, ring_size: int = 256) -> None:
        super().__init__(VirtioNet(pairs, mtu=2000), memory_bytes=4 << 20, ring_size=ring_size)

    def __enter__(self) -> MovingLab:
        return self

    def move(self, data: bytes | None = None, kept: Kept | None = None) -> None:
        """`data` is the record of the device, which is saved now unless it is given."""
        device, far, pairs = self.device, self.far, self.device.pairs
        assert isinstance(far, FarEnd)
        data = encode(device.save()) if data is None else data
        clients = [encode(client.save()) for client in (self.netdev, self.nic)]
        journal = self.network.journal.save()
        memory, attached = device.memory, device.attached
        # The process before ends here: it closes nothing and tells nobody.
        memory.on_change.clear()
        for queue in device.queues:
            queue.invalidate()
        self.scheduler.cancel_all()

        self.network = Network(self.scheduler, self.network.clock)
        self.network.subscribe(lambda name, event: self.events.append((name, msgspec.to_builtins(event))))
        self.device = VirtioNet(pairs, mtu=2000)
        if kept is not None:
            self.device.kept = kept
        self.netdev = self.network.add_netdev("net0", "stream", far, pairs)
        self.nic = self.network.add_nic(
            "nic0", "virtio-net-pci", self.device, mac=MAC, queues=pairs, netdev_id="net0"
        )
        self.network.journal.restore(journal)
        for client, each in zip((self.netdev, self.nic), clients, strict=True):
            client.restore(decode(NetClientRecord, each))
        attachment = self.driver if attached else NO_ATTACHMENT
        self.device.restore(decode(VirtioNetRecord, data), VirtioHandles(attachment, memory))
        if attached:
            self.driver.device = self.device
