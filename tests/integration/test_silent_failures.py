"""A thousand runs in which a guest silently does not see its link: nobody may say that it did.

Each run changes a link and has its guest do, or leave out, something; what the guest's driver really read is the truth.
The API and the MCP server are asked by turns, while it happens and afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

import pytest
from tests.integration.process import Running, new_place

import vnic
from vnic import aio
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient

pytest.importorskip("mcp")
from mcp.client.client import Client

from vnic.mcp.server import make_server

pytestmark = pytest.mark.needs("mcp")

NICS = 10
RUNS = 1000
SEED = 12
PATIENCE_S = 120.0
SHORT_S = 0.01
"""How long a guest that will not read is waited for."""

State = Literal["up", "down"]


class Guest:
    """A guest that does what it is told, and remembers which states its driver read."""

    def __init__(self, path: str) -> None:
        self._memory = FakeGuestMemory()
        self._driver = NetDriver(self._memory)
        self._client = VhostUserClient(SocketWire.connect(path), self._memory, self._driver)
        self._client.start()
        self.reads: list[State] = []

    def read(self) -> None:
        """The driver reads the status."""
        self.reads.append("up" if self._client.link_up() else "down")

    def read_address(self) -> None:
        """The driver reads its MAC address, and not the status behind it."""
        self._client.read_config(0, 6)

    def interrupted(self) -> bool:
        """Whether an interrupt came; it is taken."""
        return self._client.config_changes() > 0

    async def interrupt(self) -> None:
        """Wait for the interrupt."""
        for _ in range(round(PATIENCE_S / 0.001)):
            if self.interrupted():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("no interrupt came")

    def close(self) -> None:
        self._client.close()
        self._driver.close()
        self._memory.close()


class Port:
    """One NIC, its guest, and both ways to ask whether the guest saw."""

    def __init__(self, nic: aio.Nic, path: str, agent: Client) -> None:
        self.nic = nic
        self.path = path
        self.agent = agent
        self.guest = Guest(path)
        self.guest.read()
        self.state: State = "up"

    def flip(self) -> State:
        self.state = "down" if self.state == "up" else "up"
        self.guest.reads.clear()
        return self.state

    async def says_seen(self, seconds: float) -> bool:
        """What the API says of the present state."""
        try:
            change = await self.nic.wait_seen(self.state, timeout=seconds)
        except vnic.NotSeen:
            return False
        assert change.seen_us is not None
        return True

    async def set_by_agent(self, seconds: float) -> bool:
        """Have the agent set the state; what it says."""
        given = {"name": self.nic.name, "state": self.state, "wait_seen": seconds}
        result = await self.agent.call_tool("set_link", given)
        assert not result.is_error, result.content
        done = result.structured_content
        assert done is not None
        assert done["change"]["seen"] or not done["seen"]
        return bool(done["seen"])

    async def set(self, by_agent: bool, seconds: float) -> bool:
        """Set the state in one of the two ways; whether it is said to be seen."""
        if by_agent:
            return await self.set_by_agent(seconds)
        await self.nic.set(self.state)
        return await self.says_seen(seconds)

    def renew(self) -> None:
        """Another guest comes, whose driver runs and has read nothing."""
        self.guest.close()
        while True:  # the NIC is free a moment later
            with contextlib.suppress(OSError, AssertionError):
                self.guest = Guest(self.path)
                return


# -- what a guest does: each run returns what was said, and whether its driver had read the state by then ------------

Said = tuple[bool, bool]
Run = Callable[[Port, bool], Awaitable[list[Said]]]


async def reads(port: Port, by_agent: bool) -> list[Said]:
    """All is well."""
    state = port.flip()
    said = asyncio.create_task(port.set(by_agent, PATIENCE_S))
    await port.guest.interrupt()
    port.guest.read()
    return [(await said, state in port.guest.reads)]


async def never_reads(port: Port, by_agent: bool) -> list[Said]:
    """The interrupt comes, and the driver does not look."""
    state = port.flip()
    said = await port.set(by_agent, SHORT_S)
    await port.guest.interrupt()
    return [(said, False), (await port.says_seen(0), state in port.guest.reads)]


async def interrupt_lost(port: Port, by_agent: bool) -> list[Said]:
    """The interrupt is taken on its way to the driver, while it is waited for."""
    port.flip()
    said = asyncio.create_task(port.set(by_agent, 5 * SHORT_S))
    await port.guest.interrupt()
    return [(await said, False), (await port.says_seen(0), False)]


async def reads_too_early(port: Port, by_agent: bool) -> list[Said]:
    """The driver looks just before, and has the old state."""
    state = port.flip()
    port.guest.read()
    assert port.guest.reads != [state]
    return [(await port.set(by_agent, SHORT_S), False)]


async def reads_too_late(port: Port, by_agent: bool) -> list[Said]:
    """The driver looks when the wait is over."""
    state = port.flip()
    early = await port.set(by_agent, SHORT_S)
    port.guest.read()
    return [(early, False), (await port.says_seen(PATIENCE_S), state in port.guest.reads)]


async def reads_something_else(port: Port, by_agent: bool) -> list[Said]:
    """The driver is interrupted, and reads its address only."""
    port.flip()
    said = await port.set(by_agent, SHORT_S)
    port.guest.read_address()
    return [(said, False), (await port.says_seen(SHORT_S), False)]


async def leaves(port: Port, by_agent: bool) -> list[Said]:
    """The guest is killed before it looks, and the next one has not looked."""
    port.flip()
    said = await port.set(by_agent, 0)
    await asyncio.to_thread(port.renew)
    return [(said, False), (await port.says_seen(SHORT_S), False)]


async def leaves_after_it_read(port: Port, by_agent: bool) -> list[Said]:
    """The guest saw it and is killed; the guest that is there now has not looked."""
    state = port.flip()
    said = asyncio.create_task(port.set(by_agent, PATIENCE_S))
    await port.guest.interrupt()
    port.guest.read()
    told = (await said, state in port.guest.reads)
    await asyncio.to_thread(port.renew)
    return [told, (await port.says_seen(SHORT_S), False)]


async def is_overtaken(port: Port, by_agent: bool) -> list[Said]:
    """The driver looks at the state before the last change, and not again."""
    port.flip()
    await port.set(by_agent, 0)
    port.guest.read()
    port.flip()
    await port.set(by_agent, 0)
    state = port.flip()
    said = await port.set(not by_agent, SHORT_S)
    return [(said, False), (await port.says_seen(0), state in port.guest.reads)]


KINDS: tuple[Run, ...] = (
    reads,
    never_reads,
    interrupt_lost,
    reads_too_early,
    reads_too_late,
    reads_something_else,
    leaves,
    leaves_after_it_read,
    is_overtaken,
)


async def one_run(port: Port, kind: Run, by_agent: bool) -> list[Said]:
    """A run from a state that the guest knows."""
    port.guest.read()
    assert await port.says_seen(PATIENCE_S)
    port.guest.interrupted()
    return await kind(port, by_agent)


@pytest.fixture
def running() -> Iterator[Running]:
    nics = [
        word
        for number in range(NICS)
        for word in (
            *("-netdev", f"echo,id=net{number}"),
            "-device",
            f"virtio-net,id=nic{number},netdev=net{number},attach.type=vhost-user,attach.path=nic{number}.sock",
        )
    ]
    with new_place() as place, place.run(*nics) as made:
        yield made


def test_nobody_says_seen_wrongly(running: Running) -> None:
    draws = random.Random(SEED)
    plan = [(KINDS[number % len(KINDS)], draws.random() < 0.5) for number in range(RUNS)]
    draws.shuffle(plan)
    wrong: list[str] = []
    count: Counter[str] = Counter()

    async def serve(port: Port) -> None:
        while plan:
            kind, by_agent = plan.pop()
            for said, truth in await one_run(port, kind, by_agent):
                count["seen" if truth else "not seen"] += 1
                if said is not truth:
                    wrong.append(f"{kind.__name__}, by the {'agent' if by_agent else 'API'}: said {said}")
            count["runs"] += 1

    async def main() -> None:
        server = make_server(None, running.qmp_path, allow_write=True)
        async with aio.Vnic(qmp=running.qmp_path) as found, Client(server) as agent:
            nics = await found.nics()
            ports = [Port(nic, running.place.path(f"{nic.name}.sock"), agent) for nic in nics]
            try:
                await asyncio.gather(*map(serve, ports))
            finally:
                for port in ports:
                    port.guest.close()

    asyncio.run(main())
    assert not wrong
    assert count["runs"] == RUNS
    assert count["not seen"] > RUNS
    assert count["seen"] > RUNS // 10
