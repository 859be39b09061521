"""AgentWatch: asks the agent in an adopted VM's guest what its driver has seen of the links. `vm.AdoptedVm` has one.

`evidence` says what an answer proves. A link is read when the hypervisor has set it, and again, ever more seldom, until
the guest shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from vnic.adopt.evidence import Evidence, NotProven
from vnic.adopt.hypervisor import HypervisorError
from vnic.adopt.nic import AdoptedNic
from vnic.adopt.sysfs import Ask, find_interface, is_admin_down, read_carrier, read_link

PAUSES_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Before each next reading of a link that the guest does not show yet; the last one is repeated."""
SEARCH_S: Final = 2.0
"""The pause after a search that found no interface, or after an error."""


class _Watched:
    """What is known of one NIC."""

    def __init__(self, adopted: AdoptedNic) -> None:
        self.adopted = adopted
        self.interface: str | None = None
        self.evidence = Evidence()
        self.tries = 0
        self.due = 0.0
        """When it is read next; 0: at once."""
        self.text = ""
        """Why nothing is known; "" while something is."""

    @property
    def pending(self) -> bool:
        """Whether the guest has not shown yet what the hypervisor shows."""
        change = self.adopted.nic.last_change
        if self.evidence.baseline is None:
            return True
        return (
            change is not None and change.seen_us is None and not self.evidence.given_up(self.adopted.count)
        )


class AgentWatch:
    """Of one VM. One task reads all of its NICs, one after another: an agent answers one question at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask, nics: Mapping[str, AdoptedNic]) -> None:
        """`nics` are the VM's, of each moment."""
        self._loop = loop
        self._ask = ask
        self._nics = nics
        self._watched: dict[str, _Watched] = {}
        self._there = False
        self._text = "its guest agent was not asked yet"
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    # -- called by the VM ---------------------------------------------------------------------------------------

    def vm_there(self) -> None:
        self._watched.clear()

    def vm_gone(self) -> None:
        self._stop()
        self._watched.clear()
        self._there, self._text = False, "its guest agent was not asked yet"

    close = vm_gone

    def guest_reset(self) -> None:
        """What was read is of an earlier boot."""
        for watched in self._watched.values():
            watched.interface = None
            watched.evidence.reset(watched.adopted.count)
        self._look_soon()

    def agent_changed(self, there: bool, text: str) -> None:
        self._there, self._text = there, text
        for watched in self._watched.values():
            watched.interface = None  # it may be another guest
        if not there:
            self._stop()
            return
        for adopted in self._nics.values():
            self._of(adopted)
        self._look_soon()

    def look(self, adopted: AdoptedNic) -> None:
        """The hypervisor has set its link."""
        self._of(adopted)
        self._look_soon()

    def forget(self, name: str) -> None:
        self._watched.pop(name, None)

    def text(self, name: str) -> str:
        """What is known of the agent, for people."""
        watched = self._watched.get(name)
        return watched.text if self._there and watched is not None and watched.text else self._text

    # -- the task -----------------------------------------------------------------------------------------------

    def _of(self, adopted: AdoptedNic) -> _Watched:
        watched = self._watched.get(adopted.found.name)
        if watched is None or watched.adopted is not adopted:
            watched = self._watched[adopted.found.name] = _Watched(adopted)
        return watched

    def _look_soon(self) -> None:
        for watched in self._watched.values():
            watched.tries, watched.due = 0, 0.0
        self._wake.set()
        if self._there and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._run())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            waiting = [each for each in self._watched.values() if each.pending]
            now = self._loop.time()
            for watched in [each for each in waiting if each.due <= now]:
                await self._read(watched)
            due = min((each.due for each in waiting if each.pending), default=None)
            if due is None:
                await self._wake.wait()
            elif (pause := due - self._loop.time()) > 0:
                try:
                    await asyncio.wait_for(self._wake.wait(), pause)
                except TimeoutError:
                    pass

    async def _read(self, watched: _Watched) -> None:
        pause = PAUSES_S[min(watched.tries, len(PAUSES_S) - 1)]
        watched.tries += 1
        try:
            await self._read_link(watched)
            watched.text = ""
        except HypervisorError as error:
            watched.text = f"its guest agent: {error}"
            watched.interface = None
            pause = max(pause, SEARCH_S)
        except NotProven as error:
            watched.text = f"its guest agent does not prove what the guest saw: {error}"
        watched.due = self._loop.time() + pause

    async def _read_link(self, watched: _Watched) -> None:
        """Raises HypervisorError where the agent does not answer, NotProven where its answer proves nothing."""
        adopted, ask = watched.adopted, self._ask
        report, evidence = adopted.nic.report, watched.evidence
        if watched.interface is None:
            watched.interface = await find_interface(ask, adopted.nic.mac)
        asked = adopted.settled, adopted.count
        carrier = await read_carrier(ask, watched.interface)
        if carrier is None:
            down = await is_admin_down(ask, watched.interface)
            report.driver_ok(True, admin_down=down)
            raise NotProven(f"{watched.interface} of the guest has no carrier to read: it is down there")
        if carrier is not adopted.settled and evidence.baseline is not None:
            return  # it does not show it yet
        reading = await read_link(ask, watched.interface, adopted.nic.mac)
        link = adopted.settled
        if (
            self._watched.get(adopted.found.name) is not watched
            or link is None
            or asked != (link, adopted.count)
        ):
            return  # the link has changed meanwhile
        report.driver_ok(True)
        if evidence.take(reading, link, adopted.count) or reading.carrier is not link:
            report.seen(reading.carrier, by="agent")
