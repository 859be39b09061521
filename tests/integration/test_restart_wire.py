"""SIGKILL of control under traffic: vnic-wire goes on, and no guest loses a frame."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from tests.fakes.wire_ends import framed
from tests.fakes.wire_program import Flow, Sink, frame
from tests.integration.kept_vnic import KeptVnic, kept_vnic
from tests.integration.process import PATIENCE_S, Place, wait_for

from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

pytestmark = pytest.mark.needs("vnic-wire")

KILLS = 4


class Guest:
    """A guest that sends numbered frames all the time, and keeps those that it gets."""

    def __init__(self, path: str) -> None:
        self.memory = FakeGuestMemory(16 << 20)
        self.driver = NetDriver(self.memory)
        self.client = VhostUserClient(SocketWire.connect(path), self.memory, self.driver)
        self.client.start()
        self.flow = Flow(self)
        self.sink = Sink(self, 128)

    def close(self) -> None:
        self.client.close()
        self.driver.close()
        self.memory.close()


@contextmanager
def guests(place: Place, *names: str) -> Iterator[list[Guest]]:
    made = [Guest(place.path(f"{name}.sock")) for name in names]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def nic(name: str, netdev: str) -> tuple[str, str]:
    device = f"virtio-net,id={name},netdev={netdev},attach.type=vhost-user,attach.path={name}.sock"
    return "-device", device


def pump(guests: list[Guest], seconds: float = 0.0, until: Callable[[], object] = lambda: False) -> None:
    end = time.monotonic() + (seconds or PATIENCE_S)
    while time.monotonic() < end and not until():
        for each in guests:
            each.flow.push(random.randrange(16))
            each.sink.take()
        time.sleep(0.0002)


def numbers(guest: Guest) -> list[int]:
    return [int.from_bytes(each[14:18], "big") for each in guest.sink.take()]


def gaps(found: list[int], sent: int) -> list[str]:
    """Where numbers are missing, doubled or out of order."""
    wrong = [
        f"{number} follows {before}" for before, number in pairwise((-1, *found)) if number != before + 1
    ]
    return wrong + ([f"the last {sent - 1 - found[-1]} of {sent}"] if found and found[-1] != sent - 1 else [])


def paths(vnic: KeptVnic) -> dict[str, Any]:
    return {each["name"]: each["datapath"] for each in vnic.qmp.run("query-links")}


def kill_under_traffic(vnic: KeptVnic, made: list[Guest]) -> int:
    """Kill control again and again. Returns how many frames arrived while there was none."""
    while_dead = 0
    for _ in range(KILLS):
        pump(made, 0.15 * random.random())
        before = sum(len(each.sink.frames) for each in made)
        vnic.kill_only()
        pump(made, 0.01)
        while_dead += sum(len(each.sink.frames) for each in made) - before
        vnic.reconnect()
    return while_dead


def test_two_guests_lose_no_frame(place: Place) -> None:
    options = []
    for number in range(2):
        options += ["-netdev", f"hubport,id=port{number},hubid=1", *nic(f"nic{number}", f"port{number}")]
    with kept_vnic(place, *options) as vnic, guests(place, "nic0", "nic1") as made:
        wait_for(lambda: paths(vnic)["nic0"] == paths(vnic)["nic1"] == "wire")
        (program,) = vnic.wires
        assert kill_under_traffic(vnic, made) > 0
        pump(made, until=lambda: paths(vnic)["nic0"] == "wire")
        first, second = made
        end = time.monotonic() + 20
        while len(numbers(second)) < first.flow.sent or len(numbers(first)) < second.flow.sent:
            if time.monotonic() > end:
                break  # what follows says what is missing
        assert gaps(numbers(second), first.flow.sent) == gaps(numbers(first), second.flow.sent) == []
        assert vnic.wires == [program]


def test_a_stream_loses_no_byte(place: Place) -> None:
    options = ("-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock", *nic("nic0", "net0"))
    with (
        kept_vnic(place, *options) as vnic,
        guests(place, "nic0") as made,
        socket.socket(socket.AF_UNIX) as far,
    ):
        far.connect(place.path("net0.sock"))
        far.setblocking(False)
        got = bytearray()
        data = framed(*(frame(number, 60 + number % 1000) for number in range(3000)))
        sent = 0

        def step() -> bool:
            nonlocal sent
            try:
                got.extend(far.recv(1 << 16))
            except BlockingIOError:
                pass
            try:
                sent += far.send(data[sent : sent + 700])
            except BlockingIOError:
                pass
            return sent == len(data)

        wait_for(lambda: paths(vnic)["nic0"] == "wire")
        for _ in range(KILLS):
            end = time.monotonic() + 0.1 * random.random()
            pump(made, until=lambda end=end: (step() and False) or time.monotonic() > end)  # type: ignore[misc]  # bound
            vnic.kill_only()
            end = time.monotonic() + 0.01
            pump(made, until=lambda end=end: (step() and False) or time.monotonic() > end)  # type: ignore[misc]  # bound
            vnic.reconnect()
        pump(made, until=step)
        (guest,) = made
        total = framed(*(frame(number) for number in range(guest.flow.sent)))
        end = time.monotonic() + 20
        while (len(numbers(guest)) < 3000 or len(got) < len(total)) and time.monotonic() < end:
            step()
        assert gaps(numbers(guest), 3000) == []
        assert got == total
