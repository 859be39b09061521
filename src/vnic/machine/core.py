"""Machine: what a monitor's commands and the command line's options act on, and the order in which it all ends.

It satisfies `monitor.interfaces.MonitoredMachine`. NICs, netdevs, chardevs and objects come from the tables `DEVICES`,
`NETDEVS`, `CHARDEVS` and `OBJECTS`; all calls are made from the control thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from vnic import __version__
from vnic.backend import (
    BackendContext,
    NetdevOptions,
    netdev_add,
    netdev_structs,
)
from vnic.backend.items import Items, Kind
from vnic.backend.kept_network import restore_network
from vnic.chardev.qapi import CHARDEVS, ChardevInfo, NullChardev, SocketChardev, StdioChardev
from vnic.chardev.table import Chardev, Chardevs
from vnic.filter import (
    object_add,
    object_del,
    object_structs,
)
from vnic.keep import NO_HANDLES, NO_KEEP, NO_KEPT, Keep, NoHandles
from vnic.machine.builder import PluggedNic
from vnic.machine.datapath import DataPaths, WireCommand
from vnic.machine.health import Health
from vnic.machine.journal import MachineJournal
from vnic.machine.linklog import log_event
from vnic.machine.nic_table import NicTable
from vnic.machine.nics import NOT_BUILT, device_structs
from vnic.machine.pci_info import pci_info
from vnic.machine.record import MachineRecord, chardev_type
from vnic.machine.virtio_features import NicOptions
from vnic.monitor.interfaces import (
    AttachmentNode,
    Later,
    PciInfo,
    Restarted,
    RunState,
    ShutdownCause,
    TrafficInfo,
    UserNetwork,
    VnicInfo,
    WireStats,
)
from vnic.monitor.keeper import NO_KEEPER, MachineKeeper
from vnic.monitor.passed_fds import FdRegistry
from vnic.monitor.schema import parse_flat_chardev
from vnic.net.errors import NetError
from vnic.net.fault_info import FaultInfo, FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.journal import Entry, JournalQuery
from vnic.net.netem.info import NetemInfo
from vnic.net.netem.words import NetemWords
from vnic.net.network import Network
from vnic.net.objects import ObjectOptions
from vnic.net.records import VNIC
from vnic.net.topology import Topology
from vnic.observe.lag import Lag
from vnic.sandbox.paths import AnyPath, PathRule

if TYPE_CHECKING:
    from vnic.backend.tunnel.backend import TunnelBackend
    from vnic.backend.tunnel.info import TunnelInfo
    from vnic.dataplane.wire.replies import PortStats
    from vnic.machine.restart import Restart
    from vnic.net.client import NetClient

log = logging.getLogger(__name__)

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
        keep: Keep = NO_KEEP,
    ) -> None:
        """`paused`: no NIC opens its socket before `cont` (QEMU's -S). `lag`: that of the loop, where it knows it.
        `inherited`: the descriptors that the options may name (see `inherited_fds`). `wire`: how vnic-wire is
        started, or why it is not (see `datapath.wire_command`). `keep`: what outlives the process; with what another
        one left, `restore` is called."""
        self._loop = loop
        self._name = name
        self.network = Network(loop)
        self.network.subscribe(log_event)
        self.journal = MachineJournal(loop, self.network.journal)
        self._datapath = DataPaths(loop, self.network, wire, keep)
        self._runstate = RunState.PRELAUNCH if paused else RunState.RUNNING
        self.fds = FdRegistry(inherited)
        self.keep = keep
        self._kept = NO_KEPT
        self.paths: PathRule = AnyPath()
        self.chardev_set = Chardevs(self.fds.take_socket, keep)
        self._backends = BackendContext(loop, self.network, self.chardev_set, fds=self.fds, items=Items(keep))
        self._nics = NicTable(self._backends)
        self._health = Health(lag)
        self.keeper: MachineKeeper = NO_KEEPER
        """The process that starts this one again; `vnic run` sets it."""
        self.settings: list[str] = []
        """The options of the command line that were carried out (`cli.set_up`)."""
        self.restarted: Restarted | None = None
        """Set where this process took another's place."""
        self._restart: Restart | None = None
        self.ends_by: ShutdownCause | None = None
        """What asked for the end; None: nothing yet."""
        self._ended = asyncio.Event()

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def items(self) -> Items:
        """What exists, and by which options."""
        return self._backends.items

    @property
    def runstate(self) -> RunState:
        return self._runstate

    def vnic_info(self) -> VnicInfo:
        """How the process itself fares (query-vnic)."""
        programs = self._backends.restarts + self._datapath.restarts
        info = self._health.info(self._nics, programs, self.restarted)
        return msgspec.structs.replace(info, keeper=self.keeper.info())

    # -- in place of another process ------------------------------------------------------------------------------

    def before(self) -> MachineRecord | None:
        """The record of the process before, if it left its state: `restore` may be called then."""
        keys = self.keep.keys()
        if not keys:
            self._datapath.settle()
            return None
        found = self.keep.inherited("machine", MachineRecord, NoHandles)
        if found is None:
            if "machine" not in keys:
                log.warning("the start of the process before was not complete: everything starts anew")
            self._datapath.settle()
            self.keep.settle()
        return None if found is None else found[0]

    def restore(self, before: MachineRecord) -> None:
        """Make everything again, and go on where that process was. The loop makes no turn before `go_on`, which
        follows when the monitors are open."""
        self._runstate = before.runstate
        self._backends.items.next_order = before.next_order
        from vnic.machine.restart import Restart  # here, since most starts restore nothing

        self._restart = Restart(self.keep, self._backends, self.chardev_set, self._datapath, self._nics)
        self._restart.run()

    def go_on(self, before: MachineRecord, how: str, ended_ns: int) -> None:
        """All is restored: serve guests, peers and monitors. `how` and when the process before ended, as far as the
        keeper tells (CLOCK_MONOTONIC; else 0)."""
        away_ms = (time.monotonic_ns() - ended_ns) // 1_000_000 if ended_ns else None
        self.restarted = Restarted(before.restarts + 1, how, time.time(), before.pid, before.vnic, away_ms)
        self.settings = before.settings
        self._kept = self.keep.unit("machine", self)
        self.journal.restarted(self.restarted)
        assert self._restart is not None
        self._datapath.settle()
        self._restart.go_on()

    async def start_anew(self) -> None:
        """After a restart: make anew what could not be restored."""
        assert self._restart is not None
        restart, self._restart = self._restart, None
        await restart.start_anew(serve=self._runstate is RunState.RUNNING)

    def stay(self, settings: list[str]) -> None:
        """The command line `settings` is carried out: from now on another process can take the place of this one."""
        self.settings = settings
        if self.restarted is None:
            restore_network(self.network, self.keep)
            self._datapath.settle()
        self._kept = self.keep.unit("machine", self)
        self.keep.settle()
        self.keep.commit()

    def save_kept(self) -> tuple[MachineRecord, NoHandles]:
        record = MachineRecord(
            vnic=__version__,
            pid=os.getpid(),
            runstate=self._runstate,
            restarts=0 if self.restarted is None else self.restarted.times,
            next_order=self._backends.items.next_order,
            settings=self.settings,
        )
        return record, NO_HANDLES

    @property
    def netdev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return netdev_structs()

    @property
    def device_types(self) -> Mapping[str, type[msgspec.Struct]]:
        return device_structs()

    @property
    def devices_not_built(self) -> Mapping[str, str]:
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

    def traffic(self) -> Iterator[TrafficInfo] | asyncio.Future[Iterator[TrafficInfo]]:
        """query-traffic."""
        return self._datapath.traffic()

    def port_stats(self) -> dict[NetClient, PortStats] | asyncio.Future[dict[NetClient, PortStats]]:
        """The counters of the ports that vnic-wire has now."""
        return self._datapath.port_stats()

    def restarts(self) -> dict[str, int]:
        """How often each part died and was started again."""
        control = 0 if self.restarted is None else self.restarted.times
        return {
            "control": control,
            "vnic-wire": self._datapath.restarts,
            "backend": self._backends.restarts,
        }

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
        return (each.attachment_node() for each in list(self._nics))

    # -- NICs ---------------------------------------------------------------------------------------------------

    def device_add(self, options: msgspec.Struct, by: str = VNIC) -> None:
        """Create a NIC and, unless the machine is paused, open its socket. A failure leaves nothing behind."""
        assert isinstance(options, NicOptions)
        self._nics.add(options, by, serve=self._runstate is RunState.RUNNING)

    def plugged(self, device_id: str) -> PluggedNic:
        """The NIC of that id, name or QOM path, with its socket."""
        return self._nics.find(device_id)

    def device_del(self, device_id: str, by: str) -> None:
        """Show the link down, disconnect the VM, then remove the NIC and emit DEVICE_DELETED."""
        self._nics.delete(device_id, by)

    def memory_lost(self) -> None:
        """Memory that a VM shares is gone: cut that VM off."""
        for plugged in self._nics:
            plugged.attachment.check_memory()

    def pci_info(self) -> list[PciInfo]:
        return pci_info(self._nics)

    # -- chardevs and objects -----------------------------------------------------------------------------------

    def chardevs(self) -> Sequence[ChardevInfo]:
        return self.chardev_set.info()

    def chardev_add(self, chardev_id: str, options: msgspec.Struct) -> None:
        assert isinstance(options, SocketChardev | StdioChardev | NullChardev)
        self._keep_chardev(self.chardev_set.add_qapi(chardev_id, options), listens=True)

    def chardev_add_flat(self, tree: dict[str, object], *, listens: bool = True) -> None:
        """`listens`: see Chardevs.add."""
        self._keep_chardev(self.chardev_set.add(parse_flat_chardev(tree), listens=listens), listens=listens)

    def _keep_chardev(self, chardev: Chardev, *, listens: bool) -> None:
        chardev.item = self._backends.items.added(
            Kind.CHARDEV,
            chardev.label,
            lambda: chardev.options,
            VNIC,
            type=chardev_type(chardev.options),
            served=listens,
        )

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
            self._kept.changed()
            self.network.emit("STOP", {})

    def cont(self) -> None:
        """Open the sockets that wait for it. One that cannot be opened is reported after the others are open."""
        if self._runstate in (RunState.RUNNING, RunState.SHUTDOWN):
            return
        self._runstate = RunState.RUNNING
        self._kept.changed()
        self.network.emit("RESUME", {})
        refusals = []
        for plugged in self._nics:
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
            self._kept.end()  # who starts after this starts anew, also if this process is killed before its end
            self.keep.commit()
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
        waiting = {}
        for plugged in list(self._nics):
            closed = waiting[plugged.nic.name] = asyncio.Event()
            self._nics.part(plugged, closed.set)
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
