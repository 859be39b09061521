"""A VM of the user's under QEMU or libvirt that a vnic has adopted: its NICs are held and explained like others."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Protocol, Self

from vnic.api.nic import Host, Nic, is_set
from vnic.cli.client import Entry, Refused

LOOK_S = 0.02


class Adopter(Host, Protocol):
    """What a VM needs of its vnic."""

    vms: list[Vm]


class Vm:
    """An adopted VM; an async context manager that lets it go, with its links up."""

    def __init__(self, host: Adopter, id_: str) -> None:
        self._host = host
        self.id = id_

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    async def _links(self) -> list[Entry]:
        """Its NICs, as entries of query-links."""
        links: list[Entry] = await self._host.execute("query-links")
        return [link for link in links if link.get("vm", {}).get("object") == self.id]

    async def nics(self) -> list[Nic]:
        """Its NICs, in QEMU's order."""
        return [Nic(self._host, link["name"]) for link in await self._links()]

    async def nic(self, name: str) -> Nic:
        """The NIC of that name in its VM (QEMU's `id` of the device), or with that MAC address."""
        links = await self._links()
        mac = name.lower().replace("-", ":")
        for link in links:
            if name in (link["name"], link["vm"]["device"]) or link.get("mac") == mac:
                return Nic(self._host, link["name"])
        there = ", ".join(link["vm"]["device"] for link in links) or "none"
        raise Refused(f"VM '{self.id}' has no NIC '{name}'; it has: {there}")

    async def wait_there(self, wait: float) -> None:
        """Wait until the VM answers and its NICs are known. Refused after `wait` seconds, with what is in the way."""
        end = time.monotonic() + wait
        path = f"/objects/{self.id}"
        while not await self._host.execute("qom-get", {"path": path, "property": "there"}):
            if time.monotonic() > end:
                status = await self._host.execute("qom-get", {"path": path, "property": "status"})
                raise Refused(f"the VM did not answer in {wait:g} s: {status}")
            await asyncio.sleep(LOOK_S)

    async def release(self, *, wait: float = 10.0) -> None:
        """Let it go. Links that the operator holds down come up before, for which the VM is waited for at most `wait`
        seconds."""
        links = [link for link in await self._links() if link["link"] == "down"]
        for link in links:
            await self._host.execute("set_link", {"name": link["name"], "up": True})
        if links:
            await self._told({link["name"] for link in links}, wait)
        await self._host.execute("object-del", {"id": self.id})
        self._host.vms = [vm for vm in self._host.vms if vm.id != self.id]

    async def _told(self, names: set[str], wait: float) -> None:
        """Wait until the hypervisor has set these links; those that something else holds down stay so."""
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if all(is_set(link) for link in await self._links() if link["name"] in names):
                return
            await asyncio.sleep(LOOK_S)

    def __repr__(self) -> str:
        return f"<Vm {self.id}>"
