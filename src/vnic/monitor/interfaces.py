"""What the monitor needs from the machine, as a Protocol.

`vnic.machine.core.Machine` implements it; the monitor's tests use a fake. All calls are made in the control thread,
must not wait for a guest or a peer, and raise `NetError` to refuse a request.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

from vnic.monitor.keeper import KeeperInfo, MachineKeeper
from vnic.net.errors import NetError

if TYPE_CHECKING:
    from vnic.backend.tunnel.info import TunnelInfo
    from vnic.chardev.qapi import ChardevInfo
    from vnic.keep import Keep
    from vnic.monitor.passed_fds import FdRegistry
    from vnic.net.fault_info import FaultInfo, FaultShape, FaultWords
    from vnic.net.filters import Direction
    from vnic.net.journal import Entry, JournalQuery
    from vnic.net.netem.info import NetemInfo
    from vnic.net.netem.words import NetemWords
    from vnic.net.network import Network
    from vnic.net.topology import Topology
    from vnic.sandbox.paths import PathRule


class RunState(enum.StrEnum):
    """The run states of vnic, with QEMU's names (qapi/run-state.json)."""

    PRELAUNCH = "prelaunch"  # started with -S: attachments refuse guests until `cont`
    RUNNING = "running"
    PAUSED = "paused"  # after `stop`
    SHUTDOWN = "shutdown"  # after `quit`, while everything is being closed


class ShutdownCause(enum.StrEnum):
    """Why the machine shuts down: the `reason` of the SHUTDOWN event."""

    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_SIGNAL = "host-signal"


Later: TypeAlias = asyncio.Future[None] | None
"""The result of a command that may have to wait: the client gets its reply when that is done, and other clients are
served meanwhile. None: it is done."""


def finished(future: asyncio.Future[Any]) -> Any:
    """The result of a future that is done, or its exception."""
    if future.cancelled():
        raise NetError("vnic is shutting down")
    return future.result()


class LoopLag(msgspec.Struct, rename="kebab", frozen=True):
    """The duration of the event loop's turns in the last minute, during which all other events waited."""

    turns: int
    p50_us: int
    p99_us: int
    max_us: int


class SharedMemory(msgspec.Struct, rename="kebab", frozen=True):
    """The memory that the VM of a NIC shares with vnic."""

    name: str
    mapped_bytes: int
    unsealed_bytes: int
    """The part that the VM could truncate."""


class Memory(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    rss_bytes: int
    """The resident memory of the process, `touched_bytes` included."""
    touched_bytes: int
    """The part of the VMs' shared memory that this process has accessed."""
    mapped_bytes: int
    """The memory that all VMs share, and the copies of unshared memory: -guest-memory limits the sum."""
    guests: list[SharedMemory]
    charged_shared_bytes: int | None = None
    """The shared memory that the kernel charges to the control group of this process. A page of a VM is charged to the
    process that accessed it first. None: it is unknown."""


class GuestDescriptors(msgspec.Struct, rename="kebab", frozen=True):
    """The number of descriptors that are held for the guest of a NIC."""

    name: str
    open: int


class Descriptors(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    open: int
    guests: list[GuestDescriptors]
    limit: int | None = None
    """None: there is no limit."""


class Restarted(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """That this process took the place of one that ended without an end, with all that it had."""

    times: int
    """How often that happened since the start."""
    how: str
    """How the process before ended."""
    time: float
    """When this one took its place, in seconds of wall-clock time."""
    pid: int
    """The process before."""
    version: str
    """Its vnic."""
    away_ms: int | None = None
    """From its end to this process's first answer; absent if the keeper does not tell."""


class VnicInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """query-vnic: the state of the process."""

    version: str
    pid: int
    uptime: float
    """Seconds."""
    restarts: int
    """How often this process, vnic-wire, or a helper program of a netdev (passt) was restarted."""
    loop_lag: LoopLag
    memory: Memory
    descriptors: Descriptors
    keeper: KeeperInfo | None = None
    restarted: Restarted | None = None


class WireDrops(msgspec.Struct, rename="kebab", frozen=True):
    """The frames that vnic-wire dropped at one end, by cause."""

    no_peer: int
    """There was no other end."""
    no_room: int
    """The end had no room, and others were not to wait for it."""
    filtered: int
    """The driver's receive filter."""
    too_long: int
    too_short: int
    bad_offload: int
    """The header asked for a checksum or segmentation that the frame does not allow."""
    broken: int
    """A ring broke."""
    refused: int
    """The kernel did not take it."""


class WireStats(msgspec.Struct, rename="kebab", frozen=True):
    """What vnic-wire moved at one end. Frames `in` came from the guest or the far end."""

    name: str
    type: Literal["nic", "netdev"]
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    drops: WireDrops


class TrafficInfo(msgspec.Struct, rename="kebab", frozen=True):
    """What passed at one end of a wire since it was created, whoever moved it. Frames `in` came from the guest or the
    far end. What a vhost-user back-end moves is not counted."""

    name: str
    type: Literal["nic", "netdev"]
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    dropped: int


class AttachmentNode(msgspec.Struct, frozen=True):
    """The socket through which a VM connects to a NIC."""

    nic: str
    type: Literal["vhost-user", "vfio-user"]
    path: str
    server: bool
    """vnic listens there; otherwise it connects."""
    open: bool
    """It is open; if the machine started paused, not before `cont`."""
    attached: bool
    """A VM is connected."""


class UserNetwork(Protocol):
    """A user netdev, as HMP's commands for host forwarding need it."""

    def info_usernet(self) -> str:
        """The table of `info usernet`."""

    def add_forward(self, rule: str) -> None:
        """Add `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. Raises NetError with QEMU's text."""

    def remove_forward(self, source: str) -> bool | None:
        """Remove the rule for `[tcp|udp]:[hostaddr]:hostport`. False: it does not exist; None: malformed."""


class PciRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A BAR, as in qapi/pci.json (as are the next types); `address` is -1 while the guest has disabled it."""

    bar: int
    type: str
    address: int
    size: int
    prefetch: bool | None = None
    mem_type_64: bool | None = None


class PciClass(msgspec.Struct, frozen=True):
    class_: int = msgspec.field(name="class")
    desc: str


class PciDeviceId(msgspec.Struct, rename="kebab", frozen=True):
    device: int
    vendor: int
    subsystem: int
    subsystem_vendor: int


class PciDeviceInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    bus: int
    slot: int
    function: int
    class_info: PciClass
    id: PciDeviceId
    irq: int | None = None
    irq_pin: int
    qdev_id: str
    regions: list[PciRegion]


class PciInfo(msgspec.Struct, frozen=True):
    bus: int
    devices: list[PciDeviceInfo]


class MonitoredMachine(Protocol):
    """The machine as its monitor needs it.

    The `*_types` mappings list the types that can be created: from the discriminator's value to a msgspec Struct whose
    fields are the options (`rename="kebab"` if QEMU's names have dashes). Argument checking and query-qmp-schema derive
    from them; the monitor passes `*_add` an instance of such a Struct.
    """

    @property
    def name(self) -> str | None:
        """The guest's name as given by -name."""

    @property
    def network(self) -> Network: ...

    @property
    def keep(self) -> Keep:
        """What outlives the process."""

    @property
    def fds(self) -> FdRegistry:
        """The descriptors that the options' `fd=` can name."""

    @property
    def paths(self) -> PathRule:
        """Which paths clients may name."""

    @property
    def runstate(self) -> RunState: ...

    def vnic_info(self) -> VnicInfo: ...

    @property
    def keeper(self) -> MachineKeeper: ...

    def pci_info(self) -> list[PciInfo]:
        """The NICs that are PCI functions."""

    @property
    def netdev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By netdev type ("stream"); each Struct has an `id` field and the tag field `type`."""

    @property
    def device_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By device model ("virtio-net"); each Struct has an optional `id` and the tag field `driver`."""

    @property
    def devices_not_built(self) -> Mapping[str, str]:
        """Device models of QEMU that are refused by name rather than as unknown, with a reason or none."""

    @property
    def chardev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By chardev back-end ("socket"): the Struct of the `data` member of ChardevBackend."""

    @property
    def object_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By QOM type ("filter-dump"); each Struct has an `id` field and the tag field `qom-type`."""

    def netdev_add(self, options: msgspec.Struct, by: str) -> Later:
        """`by`, here and below, names the client for the journal."""

    def netdev_del(self, netdev_id: str, by: str) -> Later: ...

    def device_add(self, options: msgspec.Struct, by: str) -> None: ...

    def device_del(self, device_id: str, by: str) -> None:
        """Remove a NIC; emits DEVICE_DELETED through the network when it is removed."""

    def chardevs(self) -> Sequence[ChardevInfo]: ...

    def chardev_add(self, chardev_id: str, options: msgspec.Struct) -> None: ...

    def chardev_add_flat(self, tree: dict[str, object]) -> None:
        """Create a chardev from the flat form of -chardev (`backend`, `id`, `path`, …), all leaves being strings."""

    def chardev_remove(self, chardev_id: str) -> None: ...

    def object_add(self, options: msgspec.Struct, by: str) -> None: ...

    def object_del(self, object_id: str, by: str) -> None: ...

    def link_impair(self, name: str, queue: Direction, words: NetemWords, by: str, *, clear: bool) -> None:
        """Change or clear the impairments of a link; see `filter.impair`."""

    def impairments(self, name: str | None) -> list[NetemInfo] | asyncio.Future[list[NetemInfo]]:
        """Those of a link, or of all."""

    def link_fault(self, name: str, shape: FaultShape, words: FaultWords, by: str) -> None:
        """Begin a fault of a link; see `filter.fault`."""

    def clear_fault(self, name: str, shape: FaultShape | None, by: str) -> None:
        """End the faults of a link, or that of a shape."""

    def faults(self, name: str | None) -> list[FaultInfo]:
        """Those of a link, or of all."""

    def user_networks(self) -> Mapping[str, UserNetwork]:
        """The user netdevs by id, the oldest first."""

    def history(self, query: JournalQuery) -> list[Entry] | asyncio.Future[list[Entry]]:
        """The journal's records that `query` wants, the oldest first; a future where the database is read for them."""

    def topology(self) -> Topology:
        """The network as one document: `network.topology` given the hubs."""

    def wire_stats(self) -> list[WireStats] | asyncio.Future[list[WireStats]]:
        """What vnic-wire moved, by NIC and netdev that it carries."""

    def traffic(self) -> Iterator[TrafficInfo] | asyncio.Future[Iterator[TrafficInfo]]:
        """What passed at each NIC and netdev, in their order."""

    def tunnels(self) -> list[TunnelInfo] | asyncio.Future[list[TunnelInfo]]:
        """The tunnel netdevs."""

    def attachments(self) -> Iterable[AttachmentNode]:
        """The attachments, NIC by NIC."""

    def stop(self) -> None:
        """Pause: emits STOP if the machine was running."""

    def cont(self) -> None:
        """Run (also from prelaunch): emits RESUME if the machine was not running."""

    def quit(self, cause: ShutdownCause) -> None:
        """Request an orderly shutdown: emits SHUTDOWN {guest: false, reason} and returns. The shutdown follows in a
        later turn of the loop, after the monitor has written its reply."""
