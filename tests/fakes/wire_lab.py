"""NICs with played drivers and netdevs around a WireEngine, in a loop of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.fakes.loops import fresh_loop, turn, until
from tests.needs import need

from vnic.backend import BackendContext, netdev_add, netdev_structs
from vnic.backend.items import Items
from vnic.backend.registry import netdev_type
from vnic.dataplane.wire.engine import WireEngine
from vnic.dataplane.wire.process import find_program
from vnic.keep import NO_KEEP, Keep
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.monitor.schema import convert_to_shape, netdev_options
from vnic.net.client import NetClient
from vnic.net.network import Network
from vnic.nic.virtio_net import VirtioNet


def real_program() -> list[str]:
    """The command of vnic-wire; the test skips where it is not built."""
    need("vnic-wire")
    program = find_program()
    return [str(program)]


class Guest:
    """A NIC with a VM and a driver, which rests with `unplug`."""

    def __init__(
        self,
        lab: WireLab,
        name: str,
        netdev: str | None,
        pairs: int = 1,
        number: int = 0,
        played: tuple[FakeGuestMemory, NetDriver] | None = None,
    ) -> None:
        """`played`: memory and driver that another process has as well."""
        self.device = VirtioNet(pairs)
        mac = bytes((2, 0, 0, 0, 0, number))
        self.nic = lab.network.add_nic(
            name, "virtio-net", self.device, mac=mac, queues=pairs, netdev_id=netdev
        )
        self.memory = FakeGuestMemory(16 << 20) if played is None else played[0]
        self.driver = NetDriver(self.memory, pairs=pairs) if played is None else played[1]
        self.name = name
        self.lab = lab

    def plug(self, room: int = 64) -> None:
        self.driver.plug(self.device)
        self.driver.fill_rx(room)

    @property
    def path(self) -> str:
        return self.lab.network.wires.path(self.nic).path

    @property
    def reason(self) -> str | None:
        return self.lab.network.wires.path(self.nic).reason

    @property
    def on_wire(self) -> bool:
        """Its packets are moved by vnic-wire, and the wire is complete there, too."""
        engine = self.lab.engine
        if self.path != "wire" or self.nic not in engine._members or self.device.datapath.value != "taken":
            return False
        return not engine.program.channel._awaited

    def close(self) -> None:
        self.driver.close()


class WireLab:
    """One network and its engine."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, command: Sequence[str], *, keep: Keep = NO_KEEP
    ) -> None:
        self.loop = loop
        self.network = Network(loop)
        self.context = BackendContext(loop, self.network, items=Items(keep))
        self.engine = WireEngine(loop, self.network.wires, command, keep=keep)
        self.network.wires.use(self.engine)
        self.guests: list[Guest] = []
        self.sockets: list[socket.socket] = []

    def netdev(self, kind: str, name: str, **options: object) -> None:
        """Add a netdev, by the options of `-netdev` in their JSON form."""
        shape = netdev_options(netdev_structs())
        given = convert_to_shape(shape, {"type": kind, "id": name, **options}, strings=False)
        netdev_add(self.context, given)  # type: ignore[arg-type]  # of that shape

    def netdev_again(self, kind: str, name: str, **options: object) -> None:
        """The netdev of the process before goes on."""
        shape = netdev_options(netdev_structs())
        given = convert_to_shape(shape, {"type": kind, "id": name, **options}, strings=False)
        endpoint = netdev_type(kind).create(self.context, given)

        def restore() -> None:
            assert endpoint.restore_kept()

        self.network.add_netdev(name, kind, endpoint, start=restore)

    def guest(self, name: str, netdev: str | None, pairs: int = 1) -> Guest:
        guest = Guest(self, name, netdev, pairs, number=len(self.guests) + 1)
        self.guests.append(guest)
        return guest

    def hub(self, count: int) -> list[Guest]:
        """Guests on the ports of one hub."""
        guests = []
        for number in range(count):
            self.netdev("hubport", f"port{number}", hubid=1)
            guests.append(self.guest(f"nic{number}", f"port{number}"))
        for guest in guests:
            guest.plug()
        return guests

    def netdev_client(self, name: str) -> NetClient:
        found = self.network.find_netdev(name)
        assert found is not None
        return found

    def until(self, condition: Callable[[], object]) -> None:
        until(self.loop, condition)

    def turn(self) -> None:
        turn(self.loop)

    def settle(self) -> None:
        """Let the program process all requests."""
        self.turn()
        answers: list[object] = []
        self.engine.stats(answers.append)
        self.until(lambda: answers)

    def kick(self) -> None:
        """Deliver kicks of rings that are here, as an attachment does."""
        for guest in self.guests:
            if guest.driver.device is not None:
                guest.driver.kick()

    def exchange(self, sender: Guest, receivers: Sequence[Guest], frames: Sequence[bytes]) -> None:
        """Send frames, and check that each receiver gets them in order."""
        sender.driver.send(*frames)
        for receiver in receivers:
            found: list[bytes] = []
            self.until(lambda found=found, receiver=receiver: self._took(found, receiver) >= len(frames))  # type: ignore[misc]  # bound
            assert found == list(frames)

    def _took(self, found: list[bytes], receiver: Guest) -> int:
        self.kick()
        found += receiver.driver.received()
        return len(found)

    def close(self) -> None:
        self.network.close()
        for guest in self.guests:
            guest.close()
        self.engine.close()
        self.turn()
        for guest in self.guests:
            guest.memory.close()
        for sock in self.sockets:
            sock.close()
        self.until(lambda: self.engine.program.has_ended)


@contextmanager
def wire_lab(command: Sequence[str]) -> Iterator[WireLab]:
    """A lab in a loop of its own."""
    with fresh_loop() as loop:
        lab = WireLab(loop, command)
        try:
            yield lab
        finally:
            lab.close()


def frame(number: int = 0, size: int = 60) -> bytes:
    """A broadcast frame that differs from others of another number."""
    head = b"\xff" * 6 + bytes.fromhex("020000000099") + b"\x88\xb5" + number.to_bytes(4, "big")
    return head + bytes((number + at) & 0xFF for at in range(size - len(head)))
