"""SIGKILL of control while a VM uses a card over vfio-user: it goes on, and no frame is lost, repeated or reordered."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, cast

import pytest
from tests.fakes.e1000_driver import E1000Driver
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import Place, wait_for

from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import VERSION_1, VirtioPciDriver
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000
from vnic.protocol.vfio_user import messages as m

HEADER = bytes(12)
RX, TX = 0, 1
BUFFER_BYTES = 2048
OFFERED = 32


def frame(number: int) -> bytes:
    return struct.pack(">6s6sHI", b"\xff" * 6, b"\x52" * 6, 0x88B5, number).ljust(60, b"\0")


def number_of(data: bytes) -> int:
    number: int = struct.unpack_from(">I", data, 14)[0]
    assert data == frame(number)
    return number


class Guest(Protocol):
    """A VM with a driver."""

    def send(self, data: bytes) -> None: ...

    def received(self) -> list[bytes]: ...


class VirtioGuest:
    """virtio-net on PCI."""

    def __init__(self, path: str, stack: ExitStack, *, shared: bool) -> None:
        self._ram = stack.enter_context(FakeGuestMemory(8 << 20))
        self._client = stack.enter_context(VfioUserClient(path))
        self._client.attach(self._ram, shared=shared)
        self._client.set_eventfds(m.IRQ_MSIX, 0, 4)
        self._driver = VirtioPciDriver(self._client)
        self._rings = [DriverRing(self._ram, index, 64) for index in range(3)]
        for ring in self._rings:
            stack.callback(ring.close)
        self._driver.start(VERSION_1, self._rings, msix=True)
        self._buffers: dict[int, int] = {}
        for _ in range(OFFERED):
            self._offer(self._ram.alloc(BUFFER_BYTES))
        self._publish(RX)

    def _offer(self, address: int) -> None:
        self._buffers[self._rings[RX].add([], [(address, BUFFER_BYTES)])] = address

    def _publish(self, ring: int) -> None:
        self._rings[ring].publish(kick=False)
        self._driver.kick(ring)

    def send(self, data: bytes) -> None:
        where = self._ram.alloc(len(HEADER) + len(data))
        self._ram.write(where, HEADER + data)
        self._rings[TX].add([(where, len(HEADER) + len(data))])
        self._publish(TX)

    def received(self) -> list[bytes]:
        self._client.serve_waiting(0.001)
        self._rings[TX].take_used()
        frames = []
        for head, length in self._rings[RX].take_used():
            address = self._buffers.pop(head)
            frames.append(self._ram.read(address, length)[len(HEADER) :])
            self._offer(address)
        if frames:
            self._publish(RX)
        return frames


class E1000Guest:
    """An e1000 with interrupts by INTx."""

    def __init__(self, path: str, stack: ExitStack, *, shared: bool) -> None:
        self._client = client = stack.enter_context(VfioUserClient(path))
        vars(client).update(plug=lambda irq, memory: None, unplug=lambda done: done())
        self._driver = E1000Driver(cast(E1000, client))
        stack.callback(self._driver.close)
        client.attach(self._driver.memory, shared=shared)
        client.set_eventfds(m.IRQ_INTX, 0, 1)
        client.set_eventfds(m.IRQ_INTX, 0, 1, action=m.IRQ_ACTION_UNMASK)
        self._driver.start()
        wait_for(lambda: self._driver.read(regs.STATUS) & regs.STATUS_LU)

    def sees(self, up: bool) -> bool:
        return bool(self._driver.read(regs.STATUS) & regs.STATUS_LU) is up

    def send(self, data: bytes) -> None:
        self._driver.send(data)

    def received(self) -> list[bytes]:
        """What came with an interrupt; a guest does not look otherwise."""
        self._client.serve_waiting(0.001)
        if not self._client.interrupts(m.IRQ_INTX):
            return []
        self._driver.read(regs.ICR)
        frames = self._driver.received()
        os.eventfd_write(self._client.eventfds[-1, 0], 1)
        return frames


MODELS: dict[str, Callable[..., Guest]] = {"virtio-net-pci": VirtioGuest, "e1000": E1000Guest}


class Far:
    """The other end of the wire: it returns every frame."""

    def __init__(self, place: Place, stack: ExitStack) -> None:
        self._sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._sock.setblocking(False)
        self._sock.bind(place.path("far.sock"))
        self._near = place.path("near.sock")
        self.numbers: list[int] = []

    def turn(self) -> None:
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return
        self.numbers.append(number_of(data))
        self._sock.sendto(data, self._near)


@pytest.fixture(params=["virtio-net-pci", "e1000"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def options(place: Place, model: str) -> tuple[str, ...]:
    near, far = place.path("near.sock"), place.path("far.sock")
    return (
        *("-netdev", f"dgram,id=net0,local.type=unix,local.path={near},remote.type=unix,remote.path={far}"),
        *("-device", f"{model},id=nic0,netdev=net0,attach.type=vfio-user,attach.path=nic0.sock"),
    )


def echo(guest: Guest, far: Far, number: int) -> list[int]:
    """Send a frame, and wait until it comes back."""
    guest.send(frame(number))
    return come_back(guest, far, number)


def come_back(guest: Guest, far: Far, number: int) -> list[int]:
    back: list[int] = []

    def came() -> bool:
        far.turn()
        back.extend(number_of(each) for each in guest.received())
        return number in back

    wait_for(came)
    return back


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "unshared memory"])
def test_frames_go_on_after_each_kill(place: Place, model: str, stack: ExitStack, shared: bool) -> None:
    """Sent while control is dead, they are late and not lost."""
    far = Far(place, stack)
    with kept_vnic(place, *options(place, model)) as vnic:
        guest = MODELS[model](place.path("nic0.sock"), stack, shared=shared)
        back: list[int] = []
        for number in range(40):
            if number % 20 == 10:
                vnic.kill()
            elif number % 20 == 15:
                vnic.kill_only()
            back += echo(guest, far, number)
        vnic.reconnect()
        assert back == far.numbers == list(range(40))
        assert status(vnic)["guest"]["attached"]
        stack.close()


def status(vnic: KeptVnic) -> Any:
    return vnic.qmp.run("query-links", name="nic0")[0]


def test_link_changes_arrive_after_a_kill(place: Place, stack: ExitStack) -> None:
    far = Far(place, stack)
    with kept_vnic(place, *options(place, "e1000")) as vnic:
        guest = E1000Guest(place.path("nic0.sock"), stack, shared=True)
        for up in (False, True, False, True):
            vnic.qmp.run("set_link", name="nic0", up=up)
            vnic.kill()
            wait_for(partial(guest.sees, up))
        assert echo(guest, far, 1) == [1]
        stack.close()


def test_a_removed_card_disconnects_its_vm_after_a_kill(place: Place, stack: ExitStack) -> None:
    Far(place, stack)
    with kept_vnic(place, *options(place, "e1000")) as vnic:
        guest = E1000Guest(place.path("nic0.sock"), stack, shared=True)
        vnic.kill()
        vnic.qmp.run("device_del", id="nic0")
        wait_for(guest._client.at_end)
        guest._client.close()
        wait_for(lambda: not vnic.qmp.run("query-links", name="net0")[0].get("peer"))
        stack.close()
