"""A machine for the monitor's tests: a real Network, and lists instead of real NICs, chardevs and sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias, cast

import msgspec

from vnic.backend.base import BackendContext
from vnic.backend.tunnel.info import TunnelInfo
from vnic.chardev.qapi import ChardevInfo
from vnic.filter import fault, impair
from vnic.keep import NO_KEEP
from vnic.monitor.interfaces import (
    AttachmentNode,
    Descriptors,
    LoopLag,
    Memory,
    PciInfo,
    RunState,
    SharedMemory,
    ShutdownCause,
    TrafficInfo,
    UserNetwork,
    VnicInfo,
    WireStats,
)
from vnic.monitor.keeper import NO_KEEPER, MachineKeeper
from vnic.monitor.passed_fds import FdRegistry
from vnic.net.client import Endpoint, Nic
from vnic.net.clock import Scheduler
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import FaultInfo, FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.journal import Entry, JournalQuery
from vnic.net.names import check_identifier, parse_mac
from vnic.net.netem.info import NetemInfo
from vnic.net.netem.words import NetemWords
from vnic.net.network import Network
from vnic.net.topology import Topology
from vnic.sandbox.paths import AnyPath, PathRule

from .scheduler import FakeScheduler

Types: TypeAlias = dict[str, type[msgspec.Struct]]


class UnixAddress(msgspec.Struct, tag_field="type", tag="unix"):
    path: str
    abstract: bool | None = None


class InetAddress(msgspec.Struct, tag_field="type", tag="inet"):
    host: str
    port: str


class StreamOptions(msgspec.Struct, tag_field="type", tag="stream", rename="kebab"):
    id: str
    addr: UnixAddress | InetAddress
    server: bool = False
    reconnect_ms: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 0


class Text(msgspec.Struct):
    text: str = msgspec.field(name="str")


class HubportOptions(msgspec.Struct, tag_field="type", tag="hubport"):
    id: str
    hubid: Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
    queues: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] | None = None
    sndbuf: Annotated[int, msgspec.Meta(extra={"qapi": "size"})] | None = None
    hostfwd: list[Text] = []
    mode: Literal["native", "skb"] = "native"


class NicOptions(msgspec.Struct, tag_field="driver", tag="virtio-net", kw_only=True):
    id: str | None = None
    netdev: str | None = None
    mac: str | None = None
    mq: bool = False
    host_mtu: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0


class NullChardev(msgspec.Struct):
    pass


class DumpOptions(msgspec.Struct, tag_field="qom-type", tag="filter-dump"):
    id: str
    netdev: str
    file: str = "-"


class FakeEndpoint(Endpoint):
    """Counts the calls of a device model."""

    def __init__(self) -> None:
        self.links: list[bool] = []

    def link_status_changed(self) -> None:
        self.links.append(self.client.link_up)

    def info_text(self, queue: int) -> str:
        if isinstance(self.client, Nic):
            return f"model={self.client.model},macaddr={self.client.mac_text()}"
        return "listening"

    def rx_filter(self) -> dict[str, object] | None:
        return None


class FakeMachine:
    """Satisfies MonitoredMachine."""

    def __init__(self, scheduler: Scheduler | None = None, name: str | None = "lab") -> None:
        self.name = name
        self.network = Network(scheduler or FakeScheduler())
        self.keep = NO_KEEP
        self.fds = FdRegistry()
        self.paths: PathRule = AnyPath()
        self.runstate = RunState.RUNNING
        self.netdev_types: Types = {"stream": StreamOptions, "hubport": HubportOptions}
        self.device_types: Types = {"virtio-net": NicOptions}
        self.devices_not_built = {"usb-net": ""}
        self.chardev_types: Types = {"null": NullChardev}
        self.object_types: Types = {"filter-dump": DumpOptions}
        self.keeper: MachineKeeper = NO_KEEPER
        self.added: list[msgspec.Struct] = []
        self._chardevs: dict[str, object] = {}
        self._objects: dict[str, msgspec.Struct] = {}

    def vnic_info(self) -> VnicInfo:
        guests = [SharedMemory("nic0", 1 << 30, 1 << 30)]
        memory = Memory(1 << 20, 1 << 12, 1 << 30, guests, charged_shared_bytes=1 << 12)
        return VnicInfo("0.2.0", 4711, 3.5, 0, LoopLag(7, 12, 400, 900), memory, Descriptors(12, [], 1024))

    def netdev_add(self, options: msgspec.Struct, by: str = "test") -> None:
        assert isinstance(options, StreamOptions | HubportOptions)
        self.added.append(options)
        self.network.add_netdev(options.id, str(options.__struct_config__.tag), FakeEndpoint(), by=by)

    def netdev_del(self, netdev_id: str, by: str) -> None:
        self.network.delete_netdev(netdev_id, by)

    def device_add(self, options: msgspec.Struct, by: str = "test") -> None:
        assert isinstance(options, NicOptions)
        self.added.append(options)
        mac = parse_mac(options.mac or "52:54:00:12:34:56", "virtio-net-device")
        self.network.add_nic(
            options.id,
            "virtio-net",
            FakeEndpoint(),
            mac=mac,
            netdev_id=options.netdev,
            driver="virtio-net-device",
            by=by,
        )

    def device_del(self, device_id: str, by: str) -> None:
        if self.network.find_nic(device_id) is None:
            raise DeviceNotFound(device_id)
        self.network.delete_nic(device_id)
        self.network.emit("DEVICE_DELETED", {"device": device_id, "path": f"/machine/peripheral/{device_id}"})

    def chardevs(self) -> Sequence[ChardevInfo]:
        return [ChardevInfo(label, "null", True) for label in self._chardevs]

    def chardev_add(self, chardev_id: str, options: msgspec.Struct) -> None:
        check_identifier(chardev_id)
        if chardev_id in self._chardevs:
            raise NetError(f"Chardev with id '{chardev_id}' already exists")
        self._chardevs[chardev_id] = options

    def chardev_add_flat(self, tree: dict[str, object]) -> None:
        self._chardevs[str(tree["id"])] = tree

    def chardev_remove(self, chardev_id: str) -> None:
        if self._chardevs.pop(chardev_id, None) is None:
            raise NetError(f"Chardev '{chardev_id}' not found")

    def object_add(self, options: msgspec.Struct, by: str) -> None:
        assert isinstance(options, DumpOptions)
        check_identifier(options.id)
        self._objects[options.id] = options

    def object_del(self, object_id: str, by: str) -> None:
        if self._objects.pop(object_id, None) is None:
            raise NetError(f"object '{object_id}' not found")

    def link_impair(self, name: str, queue: Direction, words: NetemWords, by: str, *, clear: bool) -> None:
        impair.impair(self._context, name, queue, words, by, clear=clear)

    def impairments(self, name: str | None) -> list[NetemInfo]:
        return list(impair.query(self.network, name))

    def link_fault(self, name: str, shape: FaultShape, words: FaultWords, by: str) -> None:
        fault.start(self._context, name, shape, words, by)

    def clear_fault(self, name: str, shape: FaultShape | None, by: str) -> None:
        fault.clear(self._context, name, shape, by)

    def faults(self, name: str | None) -> list[FaultInfo]:
        return fault.query(self.network, name)

    @property
    def _context(self) -> BackendContext:
        """An object netem needs no loop."""
        return BackendContext(cast(asyncio.AbstractEventLoop, None), self.network)

    def user_networks(self) -> dict[str, UserNetwork]:
        return {}

    def history(self, query: JournalQuery) -> list[Entry]:
        query.check()
        return self.network.journal.query(query)

    def topology(self) -> Topology:
        return self.network.topology()

    def wire_stats(self) -> list[WireStats]:
        return []

    def traffic(self) -> Iterator[TrafficInfo]:
        return iter(())

    def tunnels(self) -> list[TunnelInfo]:
        return []

    def attachments(self) -> list[AttachmentNode]:
        return []

    def pci_info(self) -> list[PciInfo]:
        return []

    def stop(self) -> None:
        if self.runstate is RunState.RUNNING:
            self.runstate = RunState.PAUSED
            self.network.emit("STOP", {})

    def cont(self) -> None:
        if self.runstate is not RunState.RUNNING:
            self.runstate = RunState.RUNNING
            self.network.emit("RESUME", {})

    def quit(self, cause: ShutdownCause) -> None:
        self.runstate = RunState.SHUTDOWN
        self.network.emit("SHUTDOWN", {"guest": False, "reason": str(cause)})
