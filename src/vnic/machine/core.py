"""Machine: what a monitor's commands and the command line's options act on, and the order in which it all ends.

It satisfies `monitor.interfaces.MonitoredMachine`. NICs, netdevs, chardevs and objects come from the tables `DEVICES`,
`NETDEVS`, `CHARDEVS` and `OBJECTS`; all calls are made from the control thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from vnic.backend import (
    BackendContext,
    NetdevOptions,
    netdev_add,
    netdev_structs,
)
from vnic.chardev.qapi import CHARDEVS, ChardevInfo, NullChardev, SocketChardev, StdioChardev
from vnic.chardev.table import Chardevs
from vnic.filter import (
    object_add,
    object_del,
    object_structs,
)
from vnic.machine import place
from vnic.machine.datapath import DataPaths, WireCommand
from vnic.machine.garbage import LongLived
from vnic.machine.health import Health
from vnic.machine.journal import MachineJournal
from vnic.machine.linklog import log_event
from vnic.machine.nics import (
    DEVICES,
    NOT_BUILT,
    Builder,
    PluggedNic,
    device_structs,
)
from vnic.machine.pci_info import pci_info
from vnic.machine.virtio_features import NicOptions
from vnic.monitor.interfaces import (
    AttachmentNode,
    Later,
    PciInfo,
    RunState,
    ShutdownCause,
    UserNetwork,
    VnicInfo,
    WireStats,
)
from vnic.monitor.keeper import NO_KEEPER, MachineKeeper
from vnic.monitor.passed_fds import FdRegistry
from vnic.monitor.schema import parse_flat_chardev
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import FaultInfo, FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.journal import Entry, JournalQuery
from vnic.net.names import is_identifier
from vnic.net.netem.info import NetemInfo
from vnic.net.netem.words import NetemWords
from vnic.net.network import Network
from vnic.net.objects import ObjectOptions
from vnic.net.records import VNIC, HoldKind, LinkChanged, LinkSeen
from vnic.net.topology import Topology
from vnic.observe.lag import Lag
from vnic.sandbox.paths import AnyPath, PathRule

if TYPE_CHECKING:
    from vnic.backend.tunnel.backend import TunnelBackend
    from vnic.backend.tunnel.info import TunnelInfo
    from vnic.dataplane.wire.replies import PortStats
    from vnic.net.client import NetClient

log = logging.getLogger(__name__)

GRACE_S = 0.2
"""How long a guest has to see its link down before its VM is let go; it takes 1 ms."""

CLOSE_TIMEOUT_S = 3.0
"""How long the end waits for attachments that part from their VMs; each bounds itself well below this."""


class Machine:
    """Everything that one `vnic run` holds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str | None = None,
        *,
        paused: bool = False,
        lag: Lag | None = None,
        inherited: Collection[int] = (),
        wire: WireCommand | str = "vnic-wire is not used here",
    ) -> None:
        """`paused`: no NIC opens its socket before `cont` (QEMU's -S). `lag`: that of the loop, where it knows it.
        `inherited`: the descriptors that the options may name (see `inherited_fds`). `wire`: how vnic-wire is
        started, or why it is not (see `datapath.wire_command`)."""
        self._loop = loop
        self._name = name
        self.network = Network(loop)
        self.network.subscribe(log_event)
        self.journal = MachineJournal(loop, self.network.journal)
        self._datapath = DataPaths(loop, self.network, wire)
        self._runstate = RunState.PRELAUNCH if paused else RunState.RUNNING
        self.fds = FdRegistry(inherited)
        self.paths: PathRule = AnyPath()
        self.chardev_set = Chardevs(self.fds.take_socket)
        self._backends = BackendContext(loop, self.network, self.chardev_set, fds=self.fds)
        self._nics: dict[str, PluggedNic] = {}
        self._long_lived = LongLived()
        self._health = Health(lag)
        self.keeper: MachineKeeper = NO_KEEPER
        """The process that starts this one again; `vnic run` sets it."""
        self.ends_by: ShutdownCause | None = None
        """What asked for the end; None: nothing yet."""
        self._ended = asyncio.Event()

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def runstate(self) -> RunState:
        return self._runstate

    def vnic_info(self) -> VnicInfo:
        """How the process itself fares (query-vnic)."""
        info = self._health.info(self._nics.values(), self._backends.restarts + self._datapath.restarts)
        return msgspec.structs.replace(info, keeper=self.keeper.info())

    @property
    def netdev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return netdev_structs()

    @property
    def device_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return device_structs()

    @property
    def devices_not_built(self) -> Collection[str]:
        return NOT_BUILT

    @property
    def chardev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return CHARDEVS

    @property
    def object_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return object_structs()

    # -- netdevs ------------------------------------------------------------------------------------------------

    def netdev_add(self, options: msgspec.Struct, by: str = VNIC) -> Later:
        """Create a back-end; a NIC that waits for its id is plugged in."""
        assert isinstance(options, NetdevOptions)
        return netdev_add(self._backends, options, by)

    def netdev_del(self, netdev_id: str, by: str) -> Later:
        """Delete a back-end; the client is answered when its cleanup is done, as by QEMU."""
        self.network.delete_netdev(netdev_id, by)
        return self._datapath.when_returned(self._backends.leaving_of(netdev_id))

    def user_networks(self) -> dict[str, UserNetwork]:
        return {
            client.name: cast(UserNetwork, client.endpoint)
            for client in self.network.clients
            if client.model == "user"
        }

    def history(self, query: JournalQuery) -> list[Entry] | asyncio.Future[list[Entry]]:
        """query-link-log, query-journal."""
        return self.journal.query(query)

    def topology(self) -> Topology:
        return self.network.topology(self._backends.hubs.listing())

    def wire_stats(self) -> list[WireStats] | asyncio.Future[list[WireStats]]:
        """query-wire-stats."""
        return self._datapath.stats()

    def port_stats(self) -> dict[NetClient, PortStats] | asyncio.Future[dict[NetClient, PortStats]]:
        """The counters of the ports that vnic-wire has now."""
        return self._datapath.port_stats()

    def restarts(self) -> dict[str, int]:
        """How often each part died and was started again."""
        return {"vnic-wire": self._datapath.restarts, "backend": self._backends.restarts}

    def tunnels(self) -> list[TunnelInfo] | asyncio.Future[list[TunnelInfo]]:
        """query-tunnels."""
        return self._datapath.when_refreshed(
            lambda: [
                cast("TunnelBackend", client.endpoint).tunnel_info()
                for client in self.network.clients
                if client.model == "tunnel"
            ]
        )

    def attachments(self) -> Iterator[AttachmentNode]:
        return (each.attachment_node() for each in list(self._nics.values()))

    # -- NICs ---------------------------------------------------------------------------------------------------

    def device_add(self, options: msgspec.Struct, by: str = VNIC) -> None:
        """Create a NIC and, unless the machine is paused, open its socket. A failure leaves nothing behind."""
        assert isinstance(options, NicOptions)
        if options.id is not None:
            if not is_identifier(options.id):
                raise NetError(f"Invalid qdev ID '{options.id}'")
            if self.network.find_nic(options.id) is not None:
                raise NetError(f"Duplicate device ID '{options.id}'")
        builder = Builder(self.network, self._loop, by)
        try:
            plugged = DEVICES[str(options.__struct_config__.tag)].build(builder, options)
            plugged.slot = place.slot(options)
            if self._runstate is RunState.RUNNING:
                plugged.serve()
        except BaseException:
            builder.undo()
            raise
        self._nics[plugged.nic.name] = plugged
        place.note(plugged.nic.name, options)
        self._long_lived.added()

    def plugged(self, device_id: str) -> PluggedNic:
        """The NIC of that id, name or QOM path, with its socket."""
        plugged = self._nics.get(device_id) or self._nics.get(device_id.rpartition("/")[2])
        if plugged is None or device_id not in (plugged.nic.name, plugged.nic.path):
            raise DeviceNotFound(device_id)
        return plugged

    def device_del(self, device_id: str, by: str) -> None:
        """Show the link down, disconnect the VM, then remove the NIC and emit DEVICE_DELETED."""
        plugged = self.plugged(device_id)
        nic, name = plugged.nic, plugged.nic.name
        if nic.leaving:
            raise NetError(f"Device {device_id} is already in the process of unplug")
        nic.leaving = True
        nic.hold(HoldKind.OPERATOR, by, f"device_del {name}")

        def gone() -> None:
            # The reply to device_del comes before the event, as it does with a slow guest.
            self._loop.call_soon(self._delete_nic, name)

        self._part(plugged, gone)

    def _part(self, plugged: PluggedNic, done: Callable[[], None]) -> None:
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

    def _delete_nic(self, name: str) -> None:
        plugged = self._nics.pop(name, None)
        if plugged is None:
            return  # the whole machine was closed meanwhile
        path, netdev = plugged.nic.path, plugged.nic.peer
        self.network.delete_nic(name)
        if netdev is not None and any(each.type == "netem" for each in netdev.filters):
            from vnic.filter.fault import nic_deleted

            nic_deleted(self._backends, name, netdev)
        self.network.emit("DEVICE_DELETED", {"device": name, "path": path})
        self._long_lived.removed()

    def memory_lost(self) -> None:
        """Memory that a VM shares is gone: cut that VM off."""
        for plugged in self._nics.values():
            plugged.attachment.check_memory()

    def pci_info(self) -> list[PciInfo]:
        return pci_info(self._nics.values())

    # -- chardevs and objects -----------------------------------------------------------------------------------

    def chardevs(self) -> Sequence[ChardevInfo]:
        return self.chardev_set.info()

    def chardev_add(self, chardev_id: str, options: msgspec.Struct) -> None:
        assert isinstance(options, SocketChardev | StdioChardev | NullChardev)
        self.chardev_set.add_qapi(chardev_id, options)

    def chardev_add_flat(self, tree: dict[str, object], *, listens: bool = True) -> None:
        """`listens`: see Chardevs.add."""
        self.chardev_set.add(parse_flat_chardev(tree), listens=listens)

    def chardev_remove(self, chardev_id: str) -> None:
        self.chardev_set.remove(chardev_id)

    def object_add(self, options: msgspec.Struct, by: str = VNIC) -> None:
        """Create a filter, or another object of `-object`."""
        assert isinstance(options, ObjectOptions)
        object_add(self._backends, options, by)

    def object_del(self, object_id: str, by: str) -> None:
        object_del(self._backends, object_id, by)

    def link_impair(self, name: str, queue: Direction, words: NetemWords, by: str, *, clear: bool) -> None:
        from vnic.filter.impair import impair  # here, since most runs have no impairments

        impair(self._backends, name, queue, words, by, clear=clear)

    def impairments(self, name: str | None) -> list[NetemInfo] | asyncio.Future[list[NetemInfo]]:
        from vnic.filter.impair import query

        return self._datapath.when_counted(lambda: list(query(self.network, name)))

    def link_fault(self, name: str, shape: FaultShape, words: FaultWords, by: str) -> None:
        from vnic.filter import fault

        fault.start(self._backends, name, shape, words, by)

    def clear_fault(self, name: str, shape: FaultShape | None, by: str) -> None:
        from vnic.filter import fault

        fault.clear(self._backends, name, shape, by)

    def faults(self, name: str | None) -> list[FaultInfo]:
        from vnic.filter import fault

        return fault.query(self.network, name)

    # -- run state ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Guests that are attached keep their NICs; a NIC added now opens its socket at `cont`."""
        if self._runstate is RunState.RUNNING:
            self._runstate = RunState.PAUSED
            self.network.emit("STOP", {})

    def cont(self) -> None:
        """Open the sockets that wait for it. One that cannot be opened is reported after the others are open."""
        if self._runstate in (RunState.RUNNING, RunState.SHUTDOWN):
            return
        self._runstate = RunState.RUNNING
        self.network.emit("RESUME", {})
        refusals = []
        for plugged in self._nics.values():
            try:
                plugged.serve()
            except NetError as error:
                refusals.append(f"{plugged.nic.name}: {error.desc}")
        if refusals:
            raise NetError("; ".join(refusals))

    def quit(self, cause: ShutdownCause) -> None:
        if self._runstate is not RunState.SHUTDOWN:
            self._runstate = RunState.SHUTDOWN
            self.ends_by = cause
            self.network.emit("SHUTDOWN", {"guest": False, "reason": str(cause)})
            self._loop.call_soon(self._ended.set)

    async def wait_quit(self) -> None:
        """Return when a client or a signal has asked for the end."""
        await self._ended.wait()

    async def close(self) -> None:
        """End in QEMU's order: the back-ends first, so that each guest sees its link go down; then, when the VMs are
        disconnected, the NICs. The monitors are the caller's and stay until after this."""
        for task in self._backends.coming.values():
            task.cancel()
        self.network.close_netdevs()
        waiting = {name: asyncio.Event() for name in self._nics}
        for name, plugged in list(self._nics.items()):
            self._part(plugged, waiting[name].set)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for closed in waiting.values():
                    await closed.wait()
                if self._backends.leaving:
                    await asyncio.wait(self._backends.leaving)
        except TimeoutError:
            stuck = [f"the VM of {name}" for name, closed in waiting.items() if not closed.is_set()]
            stuck += [f"the downscript of {name}" for name in self._backends.leaving.values()]
            log.error("ending without waiting for %s", ", ".join(stuck))
        self._nics.clear()
        self.network.close()
        await self._datapath.close()
        self.chardev_set.close()
        self.fds.close()
