"""What the monitor needs of the machine it watches, as a Protocol.

`vnic.machine.core.Machine` (the composition root) satisfies it; the monitor's tests give a fake. All calls are made
from the control thread, must not wait for a guest or a peer, and report a refusal by raising `NetError`.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

from vnic.net.errors import NetError

if TYPE_CHECKING:
    from vnic.chardev.qapi import ChardevInfo
    from vnic.monitor.passed_fds import FdRegistry
    from vnic.net.network import Network
    from vnic.net.topology import Topology


class RunState(enum.StrEnum):
    """The run states that vnic can be in, by QEMU's names (qapi/run-state.json)."""

    PRELAUNCH = "prelaunch"  # started with -S: attachments refuse guests until `cont`
    RUNNING = "running"
    PAUSED = "paused"  # after `stop`
    SHUTDOWN = "shutdown"  # after `quit`, while everything is being closed


class ShutdownCause(enum.StrEnum):
    """Why the machine ends: the `reason` of the SHUTDOWN event."""

    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_SIGNAL = "host-signal"


Later: TypeAlias = asyncio.Future[None] | None
"""What a command returns that may have to wait for something: the client gets its reply when that is done, and every
other one is served meanwhile. None: it is done."""


def finished(future: asyncio.Future[Any]) -> Any:
    """The result of a future that is done, or its exception."""
    if future.cancelled():
        raise NetError("vnic is shutting down")
    return future.result()


class LoopLag(msgspec.Struct, rename="kebab", frozen=True):
    """How long the turns of the event loop took, that is how long everybody waited for one, in the last minute."""

    turns: int
    p50_us: int
    p99_us: int
    max_us: int


class SharedMemory(msgspec.Struct, rename="kebab", frozen=True):
    """What of its memory the VM of a NIC shares with vnic."""

    name: str
    mapped_bytes: int
    unsealed_bytes: int
    """What of it the VM could take away by truncating its file."""


class Memory(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    rss_bytes: int
    """What the process has in RAM, `touched_bytes` included."""
    touched_bytes: int
    """Of the memory that VMs share, what this process touched."""
    mapped_bytes: int
    """What all VMs share, and the copies of memory that one does not share: what -guest-memory limits."""
    guests: list[SharedMemory]
    charged_shared_bytes: int | None = None
    """The shared memory that the kernel charges to the control group of this process, which for a page of a VM's is
    that of the process that touched it first. None: it cannot be known here."""


class GuestDescriptors(msgspec.Struct, rename="kebab", frozen=True):
    """How many descriptors are held for the guest of a NIC."""

    name: str
    open: int


class Descriptors(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    open: int
    guests: list[GuestDescriptors]
    limit: int | None = None
    """None: there is none."""


class VnicInfo(msgspec.Struct, rename="kebab", frozen=True):
    """query-vnic: how the process fares."""

    version: str
    pid: int
    uptime: float
    """Seconds."""
    restarts: int
    """How often a helper program that belongs to a netdev (passt) was started again."""
    loop_lag: LoopLag
    memory: Memory
    descriptors: Descriptors


class AttachmentNode(msgspec.Struct, frozen=True):
    """The socket by which a VM reaches a NIC."""

    nic: str
    type: Literal["vhost-user", "vfio-user"]
    path: str
    server: bool
    """vnic listens there; else it connects."""
    open: bool
    """It was opened: not before `cont` where the machine was started paused."""
    attached: bool
    """A VM is there."""


class UserNetwork(Protocol):
    """A user netdev, as HMP's commands for host forwarding see it."""

    def info_usernet(self) -> str:
        """The table of `info usernet`."""

    def add_forward(self, rule: str) -> None:
        """Add `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. Raises NetError with QEMU's text."""

    def remove_forward(self, source: str) -> bool | None:
        """Remove the rule for `[tcp|udp]:[hostaddr]:hostport`. False: there is none; None: malformed."""


class PciRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A window, as qapi/pci.json has it (and what follows); `address` is -1 while the guest has it closed."""

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
    """The machine as its monitor sees it.

    The `*_types` mappings name what can be created: from the discriminator's value to a msgspec Struct whose
    fields are the options (`rename="kebab"` where QEMU's names have dashes). They are the single source of
    argument checking and of query-qmp-schema; the monitor passes `*_add` an instance of exactly such a Struct.
    """

    @property
    def name(self) -> str | None:
        """The guest's name as given by -name."""

    @property
    def network(self) -> Network: ...

    @property
    def fds(self) -> FdRegistry:
        """What the options' `fd=` may name."""

    @property
    def runstate(self) -> RunState: ...

    def vnic_info(self) -> VnicInfo: ...

    def pci_info(self) -> list[PciInfo]:
        """The NICs that are PCI functions."""

    @property
    def netdev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By netdev type ("stream"); each Struct has an `id` field and the tag field `type`."""

    @property
    def device_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By device model ("virtio-net"); each Struct has an optional `id` and the tag field `driver`."""

    @property
    def devices_not_built(self) -> Collection[str]:
        """Device models of QEMU that are refused by name rather than as unknown."""

    @property
    def chardev_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By chardev back-end ("socket"): the Struct of the `data` member of ChardevBackend."""

    @property
    def object_types(self) -> Mapping[str, type[msgspec.Struct]]:
        """By QOM type ("filter-dump"); each Struct has an `id` field and the tag field `qom-type`."""

    def netdev_add(self, options: msgspec.Struct, by: str) -> Later:
        """`by`, here and below, names who asked, for the journal."""

    def netdev_del(self, netdev_id: str, by: str) -> Later: ...

    def device_add(self, options: msgspec.Struct, by: str) -> None: ...

    def device_del(self, device_id: str, by: str) -> None:
        """Remove a NIC; emits DEVICE_DELETED through the network when it is gone."""

    def chardevs(self) -> Sequence[ChardevInfo]: ...

    def chardev_add(self, chardev_id: str, options: msgspec.Struct) -> None: ...

    def chardev_add_flat(self, tree: dict[str, object]) -> None:
        """Create a chardev from the flat form of -chardev (`backend`, `id`, `path`, …), all leaves being strings."""

    def chardev_remove(self, chardev_id: str) -> None: ...

    def object_add(self, options: msgspec.Struct) -> None: ...

    def object_del(self, object_id: str) -> None: ...

    def user_networks(self) -> Mapping[str, UserNetwork]:
        """The user netdevs by id, the oldest first."""

    def topology(self) -> Topology:
        """The network as one document: `network.topology` given the hubs."""

    def attachments(self) -> Iterable[AttachmentNode]:
        """Where VMs plug in, NIC by NIC."""

    def stop(self) -> None:
        """Pause: emits STOP if the machine was running."""

    def cont(self) -> None:
        """Run (also from prelaunch): emits RESUME if the machine was not running."""

    def quit(self, cause: ShutdownCause) -> None:
        """Ask for an orderly end: emits SHUTDOWN {guest: false, reason} and returns; the end comes on a later
        turn of the loop, after the monitor has written its reply."""
