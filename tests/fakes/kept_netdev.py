"""A vnic's network whose process is killed and followed by another one: netdevs, filters and chardevs with a keeper.

    lab = stack.enter_context(KeptLab())
    lab.add(StreamOptions(...))
    ...
    lab.kill()  # the next process has taken everything up
    lab.end_turn()

Each process has a loop of its own, and those that were killed never run again. Their descriptors stay open until the
end of the test, as those of a keeper do; a test that minds uses a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from tests.fakes.keeper import FakeKeeper
from tests.fakes.loops import turn, until

from vnic.backend import netdev_add, netdev_type, restore_network
from vnic.backend.base import Backend, BackendContext
from vnic.backend.items import Items, Kind
from vnic.backend.options import NetdevOptions
from vnic.chardev.options import ChardevOptions
from vnic.chardev.table import Chardevs
from vnic.filter.registry import OBJECTS, object_add
from vnic.keep import NoHandles
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.client_record import NetClientRecord
from vnic.net.filter_set import add_filter
from vnic.net.filters import Filter
from vnic.net.network import Network
from vnic.net.objects import ObjectOptions
from vnic.net.queue import Frame
from vnic.state.keep import StoredKeep


class Guest(Endpoint):
    """The device model of a NIC: notes frames, and how its link changes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.links: list[bool] = []
        self.room = True

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.room:
            self.frames.append(bytes(frame))
        return self.room

    def link_status_changed(self) -> None:
        self.links.append(self.client.link_up)


class Process:
    """One process: its loop, network and netdevs."""

    def __init__(self, keeper: FakeKeeper, keep: Callable[[Any], StoredKeep]) -> None:
        self.loop = asyncio.new_event_loop()
        self.escaped: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.escaped.append(context))
        self.keep = keep(self.loop.call_soon)
        self.network = Network(self.loop)
        self.events: list[str] = []
        self.network.subscribe(lambda name, _: self.events.append(name))
        self.chardevs = Chardevs(keep=self.keep)
        self.context = BackendContext(self.loop, self.network, self.chardevs, items=Items(self.keep))
        self.guests: dict[str, Guest] = {}

    def close(self) -> None:
        self.network.close()
        self.chardevs.close()
        turn(self.loop, 3)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        turn(self.loop, 3)
        self.loop.close()
        assert not self.escaped, self.escaped


class KeptLab:
    """The processes, one after the other. What was added is added again in the same order."""

    guest_type = Guest

    def __init__(self, keep: Callable[[Any], StoredKeep] | None = None, *, first: bool = True) -> None:
        """`keep`: makes the keep of the only process, where the keeper is another one's. `first`: no process was
        before."""
        self._stack = ExitStack()
        self.keeper = FakeKeeper()
        self._stack.callback(self.keeper.close)
        self._chardevs: list[ChardevOptions] = []
        self._netdevs: list[NetdevOptions] = []
        self._objects: list[ObjectOptions] = []
        self._nics: list[tuple[str, str]] = []
        self.anew: list[str] = []
        """The netdevs and filters that the present process could not take up."""
        self._start(keep or self.keeper.start)
        if first:
            restore_network(self.process.network, self.process.keep)
            self.process.keep.settle()

    def _start(self, keep: Callable[[Any], StoredKeep]) -> None:
        self.process = Process(self.keeper, keep)
        self._stack.callback(self.process.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- the present process ------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.process.loop

    @property
    def network(self) -> Network:
        return self.process.network

    def chardev(self, options: ChardevOptions) -> None:
        self._chardevs.append(options)
        self.process.chardevs.add(options, listens=True)

    def add(self, options: NetdevOptions) -> Any:
        """A netdev, which exists when this returns; its endpoint."""
        self._netdevs.append(options)
        later = netdev_add(self.process.context, options)
        if later is not None:
            self.loop.run_until_complete(later)
        return self.netdev(options.id)

    def add_object(self, options: ObjectOptions) -> None:
        self._objects.append(options)
        object_add(self.process.context, options)

    def nic(self, name: str, netdev: str) -> Guest:
        self._nics.append((name, netdev))
        return self._add_nic(name, netdev)

    def _add_nic(self, name: str, netdev: str) -> Guest:
        guest = self.process.guests[name] = self.guest_type()

        def start() -> None:
            assert isinstance(guest.client, Nic)
            guest.client.report.guest_attached()

        self.network.add_nic(name, "virtio-net", guest, mac=b"\2\0\0\0\0\1", netdev_id=netdev, start=start)
        return guest

    def netdev(self, name: str) -> Any:
        client = self.network.find_netdev(name)
        assert client is not None
        return client.endpoint

    def client(self, name: str) -> NetClient:
        return self.network.find_all(name)[0]

    def guest(self, name: str = "nic0") -> Guest:
        return self.process.guests[name]

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        until(self.loop, condition, seconds)

    def turn(self, count: int = 3) -> None:
        turn(self.loop, count)

    # -- the next one -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL after a commit; the next process takes up what is kept, as the machine does."""
        before = self.process.keep
        before.commit()
        self._start(lambda schedule: self.keeper.restart(before, schedule))
        self.take_up()

    def plan(self, netdevs: list[NetdevOptions], nics: list[tuple[str, str]]) -> None:
        """What `take_up` takes up, where another process has added it."""
        self._netdevs, self._nics = netdevs, nics

    def take_up(self) -> None:
        """As the machine does."""
        self.anew = []
        keep, network = self.process.keep, self.network
        network.links.suspend()
        for chardev in self._chardevs:
            self.process.chardevs.restore(chardev, listens=True)
        for options in self._netdevs:
            self._restore_netdev(options)
        for each in self._objects:
            self._restore_object(each)
        for name, netdev in self._nics:
            self._add_nic(name, netdev)
        restore_network(network, keep)
        keep.settle()
        network.links.resume(network.nics)
        keep.commit()
        for client in list(network.clients):
            for queue in range(client.queues):
                client.endpoint.sent(queue)

    def _restore_netdev(self, options: NetdevOptions) -> None:
        context = self.process.context
        row = netdev_type(str(options.__struct_config__.tag))
        endpoint: Backend = row.create(context, options)
        key = f"client/netdev/{options.id}"
        saved = self.process.keep.inherited(key, NetClientRecord, NoHandles)

        def start() -> None:
            if not endpoint.restore_kept():
                self.anew.append(options.id)
                endpoint.start_kept()
            elif saved is not None:
                endpoint.client.restore(saved[0])

        client = self.network.add_netdev(options.id, row.name, endpoint, queues=endpoint.queues, start=start)
        context.items.added_client(Kind.NETDEV, client, options, "test")

    def _restore_object(self, options: ObjectOptions) -> None:
        new = OBJECTS[str(options.__struct_config__.tag)].create(self.process.context, options)
        if not isinstance(new, Filter):
            self.network.objects.add(new)
            return
        filter_ = new

        def setup() -> None:
            if not filter_.restore_kept():
                self.anew.append(options.id)
                filter_.setup_kept()

        add_filter(self.network, filter_, setup)


def nic_of(lab: KeptLab, name: str = "nic0") -> Nic:
    nic = lab.network.find_nic(name)
    assert nic is not None
    return nic
