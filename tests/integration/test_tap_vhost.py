"""A tap with vhost=on: a real interface, a played driver of a guest, and a played kernel behind the ioctls.

The kernel of this machine may lack the module; `tests/guests/test_vhost_net.py` has the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import ClassVar

import pytest
from tests.fakes.loops import open_fds
from tests.integration.namespace import frame, in_namespace, ip, packet_socket, receive, up
from tests.unit.backend.helpers import MAC, Lab, until

from vnic.backend.options import TapOptions
from vnic.backend.tap import vhost_net, vhost_tap
from vnic.backend.tap.vhost_net import MemoryRange, RingPlace, VhostNet
from vnic.backend.tap.vhost_tap import VhostTap
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.client import NetClient, Nic
from vnic.net.errors import NetError
from vnic.net.records import HoldKind
from vnic.nic.virtio_net import VirtioNet
from vnic.virtio.features import EVENT_IDX, INDIRECT_DESC, VERSION_1

KERNEL_FEATURES = VERSION_1 | INDIRECT_DESC | EVENT_IDX | 1 << 15 | vhost_net.NET_F_VIRTIO_NET_HDR


class PlayedKernel(VhostNet):
    """What the kernel was told by one descriptor."""

    all: ClassVar[list[PlayedKernel]] = []
    refuses: ClassVar[str] = ""
    """The call that fails."""
    may_stop: ClassVar[threading.Event] = threading.Event()

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.calls: list[str] = []
        self.memory: list[MemoryRange] = []
        self.errors: list[int] = []
        self.running: dict[int, int] = {}
        self.bases = [0, 0]
        PlayedKernel.all.append(self)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == PlayedKernel.refuses:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def features(self) -> int:
        return KERNEL_FEATURES

    def own(self) -> None:
        self._called("own")

    def set_features(self, features: int) -> None:
        self._called("features")
        assert not features & ~KERNEL_FEATURES

    def set_memory(self, ranges: Iterable[MemoryRange]) -> None:
        self._called("memory")
        self.memory = list(ranges)

    def set_ring(self, ring: int, size: int, base: int) -> None:
        self._called(f"ring {ring} from {base}")
        self.bases[ring] = base

    def set_addresses(self, ring: int, place: RingPlace) -> None:
        self._called(f"addresses {ring}")
        for at in place:
            assert any(each.address <= at < each.address + each.size for each in self.memory)

    def set_eventfds(self, ring: int, kick: int, call: int, err: int) -> None:
        self._called(f"eventfds {ring}")
        assert min(kick, call, err) >= 0
        self.errors.append(err)

    def run(self, ring: int, tap: int) -> None:
        self._called(f"run {ring}")
        self.running[ring] = tap

    def stop(self) -> list[int | None]:
        assert PlayedKernel.may_stop.wait(60)
        self._called("stop")
        self.running.clear()
        return list(self.bases)


@contextlib.contextmanager
def played_kernel() -> Iterator[list[PlayedKernel]]:
    """In a process of its own: what is replaced here goes with it."""
    PlayedKernel.may_stop.set()
    vars(vhost_tap)["VhostNet"] = PlayedKernel
    vars(vhost_tap)["open_vhost_net"] = lambda: os.eventfd(0, os.EFD_CLOEXEC)
    yield PlayedKernel.all


class Rig:
    """A virtio NIC on a tap with vhost=on, and a driver that runs."""

    def __init__(self, lab: Lab, **options: object) -> None:
        self.netdev: NetClient = lab.add(TapOptions(id="net0", ifname="vt0", vhost=True, **options))  # type: ignore[arg-type]
        self.device = VirtioNet(self.netdev.queues)
        self.nic: Nic = lab.network.add_nic(
            "nic0", "virtio-net", self.device, mac=MAC, netdev_id="net0", queues=self.netdev.queues
        )
        self.memory = FakeGuestMemory(1 << 20)
        self.driver = NetDriver(self.memory, pairs=self.netdev.queues, size=64)
        self.plug()
        up("vt0")

    def plug(self) -> None:
        """A VM comes."""
        self.nic.report.guest_attached()
        self.driver.plug(self.device)

    def unplug(self) -> None:
        self.driver.unplug()
        self.nic.report.guest_detached()

    @property
    def path(self) -> str:
        return self.device.datapath_word()

    def close(self) -> None:
        self.driver.close()
        self.memory.close()


@contextlib.asynccontextmanager
async def _rig(**options: object) -> AsyncIterator[tuple[Lab, Rig]]:
    async with Lab() as lab:
        with contextlib.closing(Rig(lab, **options)) as rig:
            yield lab, rig


async def _link_down_and_up() -> None:
    with played_kernel() as kernels:
        async with _rig() as (_, rig):
            (kernel,) = kernels
            await until(lambda: rig.path == "vhost")
            assert set(kernel.running) == {0, 1}
            assert kernel.calls[:3] == ["own", "features", "memory"]
            assert rig.driver.handed_over == {0, 1}
            rig.driver.fill_rx(8)
            rig.driver.send(*[frame(b"of the kernel")] * 3)
            kernel.bases[:] = [7, 3]
            PlayedKernel.may_stop.clear()
            rig.nic.hold(HoldKind.OPERATOR, "test", "down")
            assert rig.driver.handed_over == {0, 1}, "the kernel has not stopped yet"
            await asyncio.sleep(0)  # and the loop does not wait for it
            PlayedKernel.may_stop.set()
            await until(lambda: not rig.driver.handed_over)
            assert not kernel.running
            rig.nic.release(HoldKind.OPERATOR, "test", "up")
            await until(lambda: rig.path == "vhost")
            assert "ring 0 from 7" in kernel.calls
            assert "ring 1 from 3" in kernel.calls


def test_link_down_stops_the_kernel_and_up_starts_it_where_it_stood() -> None:
    in_namespace(_link_down_and_up)


async def _refusal(call: str) -> None:
    with played_kernel():
        PlayedKernel.refuses = call
        async with _rig() as (_, rig):
            await until(lambda: rig.path == "python")
            with packet_socket("vt0") as host:
                rig.driver.fill_rx(8)
                rig.driver.send(frame(b"through vnic" * 5))
                assert await receive(host) == frame(b"through vnic" * 5)
                host.send(frame(b"and back" * 8))
                await until(lambda: rig.driver.received() == [frame(b"and back" * 8)])
            PlayedKernel.refuses = ""
            rig.unplug()
            rig.plug()
            await until(lambda: rig.path == "vhost")


@pytest.mark.parametrize("call", ["memory", "ring 0 from 0", "eventfds 1", "run 0", "run 1"])
def test_packets_pass_through_vnic_where_the_kernel_refuses_and_the_next_vm_may_try(call: str) -> None:
    in_namespace(_refusal, call)


async def _error() -> None:
    with played_kernel() as kernels:
        async with _rig() as (_, rig):
            await until(lambda: rig.path == "vhost")
            os.eventfd_write(kernels[0].errors[-1], 1)
            await until(lambda: rig.path == "python")


def test_a_ring_in_which_the_kernel_found_an_error_comes_back() -> None:
    in_namespace(_error)


async def _deleted() -> None:
    before = open_fds()
    with played_kernel():
        async with _rig() as (lab, rig):
            await until(lambda: rig.path == "vhost")
            lab.network.delete_netdev("net0", "test")
            await until(lambda: not rig.driver.handed_over)
            await until(lambda: "vt0" not in ip("link"))
    await until(lambda: open_fds() == before)


def test_deleted_netdev_returns_the_rings_and_keeps_nothing_open() -> None:
    in_namespace(_deleted)


async def _interface_deleted() -> None:
    with played_kernel():
        async with _rig() as (_, rig):
            await until(lambda: rig.path == "vhost")
            ip("link", "del", "vt0")
            await until(lambda: rig.path == "none" and not rig.driver.handed_over)
            assert not rig.nic.link_up


def test_deleted_interface_is_noticed_though_the_kernel_reads_it() -> None:
    in_namespace(_interface_deleted)


async def _without() -> None:
    vars(vhost_net)["PATH"] = "/dev/no-vhost-net"
    async with Lab() as lab:
        netdev = lab.add(TapOptions(id="net0", ifname="vt0", vhost=True))
        assert isinstance(netdev.endpoint, VhostTap)
        assert not netdev.endpoint.takes
        with pytest.raises(NetError, match="Could not open '/dev/no-vhost-net': No such file or directory"):
            lab.add(TapOptions(id="net1", ifname="vt1", vhost=True, vhostforce=True))
        assert lab.network.find_netdev("net1") is None
        assert "vt1" not in ip("link")


def test_a_kernel_without_it_is_an_error_only_with_vhostforce() -> None:
    in_namespace(_without)


async def _queues() -> None:
    with played_kernel() as kernels:
        async with _rig(queues=2) as (_, rig):
            await until(lambda: rig.path == "vhost")
            assert [set(kernel.running) for kernel in kernels] == [{0, 1}, {0, 1}]
            assert rig.driver.handed_over == {0, 1, 2, 3}


def test_each_queue_pair_has_a_descriptor() -> None:
    in_namespace(_queues)
