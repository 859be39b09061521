"""Builder: how one NIC is put together from its device model, its Nic and its socket, new or from its records.

The functions of `nics` make the parts and call `Builder.plug`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from vnic.backend.base import Backend
from vnic.backend.items import Item, ItemRecord, Items, Kind
from vnic.keep import NoHandles
from vnic.machine.model import Model
from vnic.machine.nic_options import VfioUserAttach, VhostUserAttach, VirtioNetBase
from vnic.machine.virtio_features import NicOptions
from vnic.memory.guest import GuestMemory
from vnic.monitor.interfaces import AttachmentNode
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.client_record import NetClientRecord
from vnic.net.names import parse_mac
from vnic.net.network import Network
from vnic.pci.device import PciDevice
from vnic.record import RecordError
from vnic.virtio.attachment import VirtioHandles
from vnic.virtio.device import RingBackend

log = logging.getLogger(__name__)


class ServedAttachment(Protocol):
    """The socket shell of one NIC (vnic.attach)."""

    @property
    def device_handles(self) -> Any:
        """What the device model of an attached VM is restored with; None without a VM."""

    def start(self) -> None:
        """Open the socket; NetError where that cannot be done."""

    def restore(self) -> bool:
        """In place of `start`: go on with the socket and the VM of the process before. False: there is nothing to go
        on with, or it was refused, and nothing is open."""

    def drop_vm(self) -> None:
        """The device model refused its record after `restore`: disconnect the VM."""

    def go_on(self) -> None:
        """All is restored: serve the VM again."""

    def close(self, done: Callable[[], None] | None = None) -> None:
        """End in order and call `done`, now or later; the link was announced down before."""

    def check_memory(self) -> None:
        """Cut the VM off if memory that it shares is gone."""

    def guest_memory(self) -> GuestMemory | None:
        """The memory of the attached VM."""


@dataclass(slots=True)
class PluggedNic:
    """A NIC of the machine and the socket that serves it."""

    nic: Nic
    attachment: ServedAttachment
    attach: VhostUserAttach | VfioUserAttach
    """Where that is, as the options said."""
    function: PciDevice | None = None
    """The PCI function that it is, over vfio-user."""
    served: bool = False
    """The socket is open: not before `cont` where the machine was started paused."""
    slot: int | None = None
    """Where `addr=` puts it."""

    def attachment_node(self) -> AttachmentNode:
        """Its entry in query-topology."""
        attach = self.attach
        kind: Literal["vhost-user", "vfio-user"] = "vhost-user"
        if isinstance(attach, VfioUserAttach):
            kind = "vfio-user"
        attached = self.nic.guest.attached
        return AttachmentNode(self.nic.name, kind, attach.path, attach.server, self.served, attached)

    def serve(self) -> None:
        """Open the socket, once. Raises NetError."""
        if not self.served:
            self.attachment.start()
            self.served = True
            if isinstance(self.nic.item, Item):
                self.nic.item.serves()


@dataclass(frozen=True, slots=True)
class Before:
    """What is known of a NIC of the process before."""

    item: ItemRecord
    client: NetClientRecord | None


@dataclass(slots=True)
class Builder:
    """What the build functions share, for one NIC: where it goes, and the properties that all have."""

    network: Network
    loop: asyncio.AbstractEventLoop
    by: str
    """Who asked for it."""
    items: Items
    before: Before | None = None
    """The NIC was in the process before."""
    nic: Nic | None = None
    """The NIC, once it is in the network: it has to go again if a later step fails."""

    def pairs(self, options: VirtioNetBase) -> int:
        """With mq=on, as many queue pairs as the netdev has queues (virtio_net_device_realize)."""
        if self.before is not None and self.before.client is not None:
            return len(self.before.client.incoming)
        if not options.mq or options.netdev is None:
            return 1
        netdev = self.network.find_netdev(options.netdev)
        return netdev.queues if netdev is not None else 1

    def plug(
        self,
        name: str,
        endpoint: Endpoint,
        options: NicOptions,
        model: Model,
        attach: Callable[[Nic], ServedAttachment],
        where: VhostUserAttach | VfioUserAttach,
        *,
        driver: str,
        pairs: int = 1,
        function: PciDevice | None = None,
    ) -> PluggedNic:
        """Make the Nic of the model `name`; `driver` is the property owner that QEMU's error texts name."""
        keep, before = self.items.keep, self.before
        plugged: PluggedNic | None = None

        def start() -> None:
            nonlocal plugged
            nic = endpoint.client
            assert isinstance(nic, Nic)
            plugged = PluggedNic(nic, attach(nic), where, function)
            endpoint.start()
            if before is None or not self._restore(plugged, model, before):
                model.begin(keep, f"nic/{nic.name}")

        if before is not None:
            mac = before.item.mac
            assert mac is not None
        elif options.mac is not None:
            mac = parse_mac(options.mac, driver)
        else:
            mac = self.network.clients.free_mac()
        self.nic = self.network.add_nic(
            options.id,
            name,
            endpoint,
            mac=mac,
            queues=pairs,
            netdev_id=options.netdev,
            link=options.link,
            driver=driver,
            by=self.by,
            start=start,
            restored_as=None if before is None else before.item.name,
        )
        assert plugged is not None
        self.items.added_client(Kind.DEVICE, self.nic, options, self.by, mac=self.nic.mac)
        if keep.active:
            model.keep_as(keep.unit(f"nic/{self.nic.name}", model))
        if plugged.served and isinstance(self.nic.item, Item):
            self.nic.item.serves()
        return plugged

    def _restore(self, plugged: PluggedNic, model: Model, before: Before) -> bool:
        """Bring the parts into the state that they had. False: the device is new, without a VM."""
        nic, keep, key = plugged.nic, self.items.keep, f"nic/{plugged.nic.name}"
        if before.client is None:
            return False
        found = keep.inherited(key, model.record, NoHandles)
        if found is not None:
            plugged.served = before.item.served and plugged.attachment.restore()
        has_vm = plugged.served and plugged.attachment.guest_memory() is not None
        had_vm = before.client.nic is not None and before.client.nic.report.attached
        anew = found is None or (had_vm and not has_vm)
        try:
            nic.restore(_without_guest(before.client) if anew else before.client, same_boot=True)
        except RecordError as error:
            keep.refused(f"client/device/{nic.name}", error)
            anew = True
        if found is None or anew:
            if has_vm:
                plugged.attachment.drop_vm()
            return False
        handles = plugged.attachment.device_handles if has_vm else None
        try:
            model.restore(found[0], handles, keep, key, self._rings_back(nic))
        except RecordError as error:
            keep.refused(key, error)
            if has_vm:
                plugged.attachment.drop_vm()
            return False
        return True

    def _rings_back(self, nic: Nic) -> Callable[[VirtioHandles], None]:
        def rings_back(handles: VirtioHandles) -> None:
            peer = nic.peer
            if peer is not None and isinstance(peer.endpoint, RingBackend):
                take_rings_back(peer, handles)

        return rings_back

    def undo(self) -> None:
        """Remove all parts of a NIC that could not be completed."""
        if self.nic is not None:
            self.network.delete_nic(self.nic.name)


def take_rings_back(netdev: NetClient, handles: VirtioHandles | None) -> None:
    """Restore a netdev that may have the rings of the guest with these handles, or start it anew. Raises NetError."""
    endpoint = netdev.endpoint
    assert isinstance(endpoint, Backend)
    if not endpoint.restore_kept(handles):
        endpoint.start_kept()


def _without_guest(record: NetClientRecord) -> NetClientRecord:
    """The record of a NIC whose VM is gone."""
    assert record.nic is not None
    report = msgspec.structs.replace(
        record.nic.report,
        attached=False,
        driver_ok=False,
        admin_down=False,
        seen="unknown",
        seen_latency_us=None,
        shown_by=None,
        notice_owed=False,
        interrupt_owed=False,
    )
    return msgspec.structs.replace(record, nic=msgspec.structs.replace(record.nic, report=report))
