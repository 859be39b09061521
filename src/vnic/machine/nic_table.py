"""NicTable: the NICs of a machine, from device_add to DEVICE_DELETED.

`Machine` has one, and `Restart` enters the NICs that it makes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vnic.backend.base import BackendContext
from vnic.machine import place
from vnic.machine.builder import Before, Builder, PluggedNic
from vnic.machine.garbage import LongLived
from vnic.machine.nics import DEVICES
from vnic.machine.virtio_features import NicOptions
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.names import is_identifier
from vnic.net.records import HoldKind, LinkChanged, LinkSeen

GRACE_S = 0.2
"""How long a guest has to see its link down before its VM is let go; it takes 1 ms."""


class NicTable:
    """The NICs by name."""

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._network = context.network
        self._loop = context.loop
        self._all: dict[str, PluggedNic] = {}
        self._long_lived = LongLived()

    def __iter__(self) -> Iterator[PluggedNic]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def add(self, options: NicOptions, by: str, *, serve: bool) -> None:
        """Create a NIC and open its socket, if `serve` says so. Raises NetError, and leaves nothing behind then."""
        if options.id is not None:
            if not is_identifier(options.id):
                raise NetError(f"Invalid qdev ID '{options.id}'")
            if self._network.find_nic(options.id) is not None:
                raise NetError(f"Duplicate device ID '{options.id}'")
        builder = Builder(self._network, self._loop, by, self._context.items)
        try:
            plugged = self._built(builder, options)
            if serve:
                plugged.serve()
        except BaseException:
            builder.undo()
            raise
        self._enter(plugged, options)
        place.note(plugged.nic.name, options)

    def restore(self, before: Before, options: NicOptions) -> PluggedNic:
        """Make a NIC of the process before again. Raises NetError."""
        builder = Builder(self._network, self._loop, before.item.by, self._context.items, before)
        try:
            plugged = self._built(builder, options)
        except BaseException:
            builder.undo()
            raise
        self._enter(plugged, options)
        return plugged

    def _built(self, builder: Builder, options: NicOptions) -> PluggedNic:
        plugged = DEVICES[str(options.__struct_config__.tag)].build(builder, options)
        plugged.slot = place.slot(options)
        return plugged

    def _enter(self, plugged: PluggedNic, options: NicOptions) -> None:
        self._all[plugged.nic.name] = plugged
        self._long_lived.added()

    def find(self, device_id: str) -> PluggedNic:
        """The NIC of that id, name or QOM path. Raises DeviceNotFound."""
        plugged = self._all.get(device_id) or self._all.get(device_id.rpartition("/")[2])
        if plugged is None or device_id not in (plugged.nic.name, plugged.nic.path):
            adopted = self._network.find_nic(device_id)
            if adopted is not None and adopted.endpoint.elsewhere:
                raise NetError(f"'{device_id}' is a NIC of an adopted VM: the VM itself has to remove it")
            raise DeviceNotFound(device_id)
        return plugged

    def delete(self, device_id: str, by: str) -> None:
        """Show the link down, disconnect the VM, then remove the NIC and emit DEVICE_DELETED. Raises NetError."""
        plugged = self.find(device_id)
        nic = plugged.nic
        if nic.leaving:
            raise NetError(f"Device {device_id} is already in the process of unplug")
        nic.leaving = True
        nic.hold(HoldKind.OPERATOR, by, f"device_del {nic.name}")
        self.leave(plugged)

    def leave(self, plugged: PluggedNic) -> None:
        """The NIC is `leaving`: disconnect its VM and remove it."""

        def gone() -> None:
            # The reply to device_del comes before the event, as it does with a slow guest.
            self._loop.call_soon(self._remove, plugged.nic.name)

        self.part(plugged, gone)

    def part(self, plugged: PluggedNic, done: Callable[[], None]) -> None:
        """Disconnect the VM of a NIC whose link was put down before: the guest has GRACE_S to see that."""
        guest = plugged.nic.guest
        if not guest.driver_ok or guest.seen == "down":
            plugged.attachment.close(done)
            return
        waiting = True

        def leave() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                timer.cancel()
                unsubscribe()
                plugged.attachment.close(done)

        def heard(event: LinkChanged | LinkSeen) -> None:
            if isinstance(event, LinkSeen):
                self._loop.call_soon(leave)  # the reply to the guest's read has to leave first

        timer = self._loop.call_later(GRACE_S, leave)
        unsubscribe = plugged.nic.watch(heard)

    def _remove(self, name: str) -> None:
        plugged = self._all.pop(name, None)
        if plugged is None:
            return  # the whole machine was closed meanwhile
        path, netdev = plugged.nic.path, plugged.nic.peer
        self._network.delete_nic(name)
        if netdev is not None and any(each.type == "netem" for each in netdev.filters):
            from vnic.filter.fault import nic_deleted

            nic_deleted(self._context, name, netdev)
        self._network.emit("DEVICE_DELETED", {"device": name, "path": path})
        self._long_lived.removed()

    def clear(self) -> None:
        """All are parted: the network closes them."""
        self._all.clear()
