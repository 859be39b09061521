"""Restart: makes everything again that the process before had, which was killed, and has it go on where it was.

`Machine.restore` runs it. No guest, peer or monitor notices anything before `go_on`, and nothing is stored: if this
process is killed meanwhile, the next one finds the same records. What has no valid record starts anew, after all else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from vnic.backend import netdev_add, netdev_type
from vnic.backend.base import BackendContext
from vnic.backend.items import CLIENT, ITEM, ItemRecord, Kind, key_of
from vnic.backend.kept_network import restore_network
from vnic.backend.options import NetdevOptions
from vnic.chardev.options import ChardevOptions
from vnic.chardev.table import Chardevs
from vnic.filter.registry import OBJECTS
from vnic.keep import Keep, NoHandles
from vnic.machine.builder import Before, PluggedNic, take_rings_back
from vnic.machine.datapath import DataPaths
from vnic.machine.nic_table import NicTable
from vnic.machine.nics import DEVICES
from vnic.machine.record import CHARDEVS
from vnic.machine.virtio_features import NicOptions
from vnic.net.client import Endpoint, NetClient
from vnic.net.client_record import NetClientRecord
from vnic.net.errors import NetError
from vnic.net.filter_set import add_filter
from vnic.net.filters import Filter
from vnic.net.objects import ObjectOptions
from vnic.net.records import VNIC, HoldKind
from vnic.record import RecordError
from vnic.virtio.device import RingBackend

log = logging.getLogger(__name__)

RETRIES_S = (0.1, 0.3, 1.0)
"""The pauses before an item that starts anew is tried again: the keeper may not have closed yet what the process before
had open, such as the port that it listens on."""


class _NotRestored(NetError):
    """A netdev has no state to go on with."""


class Restart:
    """One restoration."""

    def __init__(
        self,
        keep: Keep,
        context: BackendContext,
        chardevs: Chardevs,
        datapath: DataPaths,
        nics: NicTable,
    ) -> None:
        self._datapath = datapath
        self._nics = nics
        self._keep = keep
        self._context = context
        self._network = context.network
        self._chardevs = chardevs
        self._orders: dict[NetClient, int] = {}
        self._rings: list[NetClient] = []
        """Netdevs that may have a guest's rings, in front of their NICs."""
        self._anew: list[tuple[ItemRecord, msgspec.Struct]] = []
        """Netdevs that have to be made as if they were new."""
        self._objects_anew: list[ItemRecord] = []
        """Objects of a netdev that is not there yet."""
        self._restoring = False
        """Nothing is made anew yet."""
        self._filters: dict[str, list[str]] = {}
        """By netdev, the recorded order."""

    # -- while nothing else runs ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Make all again. What fails is one line in the log each."""
        self._network.links.suspend()
        self._restoring = True
        items = self._items()
        for kind, make in (
            (Kind.CHARDEV, self._chardev),
            (Kind.NETDEV, self._netdev),
            (Kind.OBJECT, self._object),
            (Kind.DEVICE, self._device),
        ):
            for item in items:
                if item.kind is kind:
                    self._make(item, make)
        for netdev in self._rings:
            if netdev.peer is None:
                take_rings_back(netdev, None)
        restore_network(self._network, self._keep)
        self._sort()
        self._restoring = False

    def _items(self) -> list[ItemRecord]:
        found = []
        keys = self._keep.keys()
        for key in keys:
            if key.startswith(f"{ITEM}/"):
                there = self._keep.inherited(key, ItemRecord, NoHandles)
                if there is not None:
                    found.append(there[0])
        found.sort(key=lambda item: item.order)
        items = self._context.items
        items.next_order = max(items.next_order, found[-1].order + 1 if found else 0)
        return found

    def _make(self, item: ItemRecord, make: Callable[[ItemRecord, Any], None]) -> None:
        items = self._context.items
        items.restoring = item
        try:
            make(item, self._options(item))
        except (NetError, RecordError) as error:
            why = error.desc if isinstance(error, NetError) else str(error)
            log.error("%s %s is lost in the restart: %s", item.kind, item.name, why)
        except Exception:  # a bug in one unit must not cost the others their guests
            log.exception("%s %s is lost in the restart", item.kind, item.name)
        finally:
            items.restoring = None

    def _options(self, item: ItemRecord) -> msgspec.Struct:
        """Raises NetError, RecordError."""
        kind: type[msgspec.Struct] | None
        if item.kind is Kind.CHARDEV:
            kind = CHARDEVS.get(item.type)
        elif item.kind is Kind.NETDEV:
            kind = netdev_type(item.type).options
        elif item.kind is Kind.OBJECT:
            kind = OBJECTS[item.type].options if item.type in OBJECTS else None
        else:
            kind = DEVICES[item.type].options if item.type in DEVICES else None
        if kind is None:
            raise RecordError("type", f"is {item.type!a}, which this vnic does not know")
        try:
            options: msgspec.Struct = msgspec.json.decode(item.options, type=kind)
        except msgspec.MsgspecError as error:
            raise RecordError("options", str(error)) from None
        return options

    def _chardev(self, item: ItemRecord, options: ChardevOptions) -> None:
        chardev = self._chardevs.restore(options, listens=item.served)
        chardev.item = self._context.items.added(
            item.kind, item.name, lambda: options, item.by, type=item.type
        )

    def _netdev(self, item: ItemRecord, options: NetdevOptions) -> None:
        client_key = key_of(CLIENT, Kind.NETDEV, item.name)
        saved = self._keep.inherited(client_key, NetClientRecord, NoHandles)
        row = netdev_type(item.type)
        endpoint = row.create(self._context, options)
        is_ring_backend = isinstance(endpoint, RingBackend)

        def start() -> None:
            if saved is None or not (is_ring_backend or endpoint.restore_kept()):
                raise _NotRestored("its state was refused")
            try:
                endpoint.client.restore(saved[0], same_boot=True)
            except RecordError as error:
                self._keep.refused(client_key, error)
                raise _NotRestored("its state was refused") from None

        try:
            client = self._network.add_netdev(
                item.name, row.name, endpoint, queues=endpoint.queues, by=item.by, start=start
            )
        except _NotRestored:
            self._anew.append((item, options))
            return
        self._context.items.added_client(Kind.NETDEV, client, options, item.by)
        self._orders[client] = item.order
        self._filters[item.name] = item.filters
        if is_ring_backend:
            self._rings.append(client)

    def _object(self, item: ItemRecord, options: ObjectOptions) -> None:
        netdev = getattr(options, "netdev", None)
        if self._restoring and netdev is not None and self._network.find_netdev(netdev) is None:
            self._objects_anew.append(item)
            return
        row = OBJECTS[item.type]
        if item.fault is not None:
            from vnic.filter.netem import Netem
            from vnic.net.fault_info import FaultShape

            new: Any = Netem(self._context, options, fault=FaultShape(item.fault))  # type: ignore[arg-type]
        else:
            new = row.create(self._context, options)
        if not isinstance(new, Filter):
            self._network.objects.add(new)
            self._orders.update(dict.fromkeys(new.made(), item.order))
        else:
            self._add_filter(new)
        new.item = self._context.items.added(
            item.kind, item.name, lambda: new.options, item.by, fault=item.fault
        )

    def _add_filter(self, new: Filter) -> None:
        """Behind the others: `_sort` brings it to its place, whatever it was put beside once."""
        options: Any = new.options

        def setup() -> None:
            if not new.restore_kept():
                new.setup_kept()

        new.options = msgspec.structs.replace(options, position="tail")
        try:
            add_filter(self._network, new, setup)
        finally:
            new.options = options

    def _device(self, item: ItemRecord, options: NicOptions) -> None:
        client_key = key_of(CLIENT, Kind.DEVICE, item.name)
        saved = self._keep.inherited(client_key, NetClientRecord, NoHandles)
        before = Before(item, None if saved is None else saved[0])
        plugged = self._nics.restore(before, options)
        self._orders[plugged.nic] = item.order

    def _sort(self) -> None:
        """Netdevs, NICs and filters in the order that they had."""
        self._network.clients.sort(lambda client: self._orders.get(client, 0))
        for client, recorded in self._filters.items():
            netdev = self._network.find_netdev(client)
            if netdev is not None:
                places = {name: at for at, name in enumerate(recorded)}
                netdev.filters.sort(key=lambda each: places.get(each.id, len(places)))

    def go_on(self) -> None:
        """Store all as this process's, in one piece, and then serve the guests and the peers again. Links that should
        have changed by now change first."""
        self._datapath.settle()
        self._keep.settle()
        self._network.links.resume(self._network.nics)
        for plugged in self._nics:
            nic = plugged.nic
            if nic.peer is None and HoldKind.NO_PEER not in nic.holds:
                nic.hold(HoldKind.NO_PEER, VNIC, f"netdev {nic.netdev_id} could not be restored")
        self._keep.commit()
        for plugged in list(self._nics):
            if plugged.served:
                plugged.attachment.go_on()
        _senders_go_on(self._network.clients)
        for plugged in list(self._nics):
            if plugged.nic.leaving:
                self._nics.leave(plugged)

    # -- afterwards -------------------------------------------------------------------------------------------------

    async def start_anew(self, *, serve: bool) -> None:
        """Make what could not be restored, as new. `serve`: so are the sockets of NICs."""
        waiting = [partial(self._add, item, options) for item, options in self._anew]
        waiting += [partial(self._serve, plugged) for plugged in self._nics if serve and not plugged.served]
        for pause in (*RETRIES_S, None):
            waiting = [each for each in waiting if await each(last=pause is None)]
            if not waiting or pause is None:
                break
            await asyncio.sleep(pause)
        for item in self._objects_anew:
            self._make(item, self._object)

    async def _add(self, item: ItemRecord, options: msgspec.Struct, *, last: bool) -> bool:
        """Make a netdev; whether to try again."""
        assert isinstance(options, NetdevOptions)
        items = self._context.items
        try:
            items.setting = item.setting
            try:
                later = netdev_add(self._context, options, item.by)
            finally:
                items.setting = None
            if later is not None:
                await later
        except NetError as error:
            if last:
                log.error("netdev %s is lost in the restart: %s", item.name, error.desc)
            return not last
        return False

    async def _serve(self, plugged: PluggedNic, *, last: bool) -> bool:
        """Open a NIC's socket; whether to try again."""
        try:
            plugged.serve()
        except NetError as error:
            if last:
                log.error("%s: its socket is lost in the restart: %s", plugged.nic.name, error.desc)
            return not last
        return False


def _senders_go_on(clients: Iterable[NetClient]) -> None:
    """Frames that waited for room are gone with the process before: whoever waits for them to be taken goes on."""
    for client in clients:
        endpoint: Endpoint = client.endpoint
        for queue in range(client.queues):
            endpoint.sent(queue)
