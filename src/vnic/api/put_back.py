"""How the links of a vnic are, to be put back later: who holds them, flaps, impairments and faults.

The pytest plugin takes a `Baseline` before each test. What was deleted or added is not put back, but told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Self

from vnic.api.nic import Host, Nic, can_tell, is_held
from vnic.cli.client import Entry, Refused
from vnic.cli.seen import has_seen

_FAULT_KEYS: Final = ("direction", "bytes", "delay-ms", "half-life-ms", "suppress", "reuse", "max-ms")


class Baseline:
    """The state of a vnic at one moment. `put_back` may be called again."""

    def __init__(
        self,
        host: Host,
        links: list[Entry],
        flaps: list[Entry],
        netems: list[Entry],
        faults: list[Entry],
    ) -> None:
        self._host = host
        self._links = {_key(link): link for link in links}
        self._flaps = {flap["id"] for flap in flaps}
        self._netems = _objects(netems)
        self._faults = {(fault["name"], fault["shape"]): fault for fault in faults}

    @classmethod
    async def of(cls, host: Host) -> Self:
        """How it is now."""
        return cls(
            host,
            await host.execute("query-links"),
            await host.execute("query-flaps"),
            await host.execute("query-impairments"),
            await host.execute("query-faults"),
        )

    async def put_back(self, *, wait: float | None = None) -> list[str]:
        """Have all be as it was; returns what cannot be, in words. Guests that can tell what they see are waited for,
        `wait` seconds at most."""
        host = self._host
        for flap in await host.execute("query-flaps"):
            if flap["id"] not in self._flaps:
                await _try(host, "flap-stop", {"id": flap["id"]})  # it may end by itself
        await self._put_back_faults()
        await self._put_back_netems()
        await self._put_back_links()
        host.wanted.clear()
        left = self._differences(await host.execute("query-links"))
        return left if wait is None else left + await self._unseen(wait)

    async def _unseen(self, wait: float) -> list[str]:
        """The NICs whose guests do not see their links as they are."""
        nics = [
            Nic(self._host, link["name"])
            for link in await self._host.execute("query-links")
            if link["type"] == "nic" and can_tell(link) and not has_seen(link, link["link"])
        ]
        found = await asyncio.gather(*(nic.settle(wait) for nic in nics), return_exceptions=True)
        return [str(each) for each in found if isinstance(each, Refused)]

    def _differences(self, links: list[Entry]) -> list[str]:
        """What was deleted or added, and what the operator still holds, or does not."""
        now = {_key(link): link for link in links}
        gone = [f"{type_} {name} was deleted" for type_, name in self._links.keys() - now.keys()]
        new = [f"{type_} {name} was added" for type_, name in now.keys() - self._links.keys()]
        moved = [
            f"{name} is plugged into {now[key].get('peer', 'nothing')}, not {link.get('peer', 'nothing')}"
            for key, link in self._links.items()
            if key in now and now[key].get("peer") != link.get("peer")
            for _, name in [key]
        ]
        held = [
            f"the operator's hold of {name} is not as it was"
            for (type_, name), link in self._links.items()
            if (type_, name) in now and is_held(now[type_, name]) is not is_held(link)
        ]
        return sorted(gone + new + moved + held)

    async def _put_back_links(self) -> None:
        """Netdevs first: the name of a netdev holds both ends of its wire, or lets both go."""
        host = self._host
        for type_ in ("netdev", "nic"):
            for link in await host.execute("query-links"):
                before = self._links.get(_key(link))
                if link["type"] == type_ and before is not None and is_held(link) is not is_held(before):
                    await _try(host, "set_link", {"name": link["name"], "up": not is_held(before)})

    async def _put_back_faults(self) -> None:
        host = self._host
        now = {(fault["name"], fault["shape"]): fault for fault in await host.execute("query-faults")}
        for name, shape in now.keys() - self._faults.keys():
            await _try(host, "link-fault", {"name": name, "shape": shape, "clear": True})
        for (name, shape), fault in self._faults.items():
            wanted: Entry = {key: fault[key] for key in _FAULT_KEYS if key in fault}
            found = now.get((name, shape), {})
            if not found or any(found.get(key) != value for key, value in wanted.items()):
                await _try(host, "link-fault", {"name": name, "shape": shape, **wanted})

    async def _put_back_netems(self) -> None:
        """Those that are faults are put back as such."""
        host = self._host
        now = _objects(await host.execute("query-impairments"))
        for id_, made in now.items():
            if self._netems.get(id_) != made:
                await _try(host, "object-del", {"id": id_})
        for id_, made in self._netems.items():
            if now.get(id_) != made:
                await _try(host, "object-add", made)


def _objects(netems: list[Entry]) -> dict[str, Entry]:
    """By id, what object-add takes to make each anew."""
    return {
        netem["id"]: {
            "qom-type": "netem",
            "id": netem["id"],
            "netdev": netem["netdev"],
            "queue": netem["queue"],
            "status": "on" if netem["on"] else "off",
            **netem["parameters"],
        }
        for netem in netems
        if "fault" not in netem
    }


def _key(link: Entry) -> tuple[str, str]:
    """A NIC and a netdev may have one name."""
    return link["type"], link["name"]


async def _try(host: Host, command: str, arguments: dict[str, Any]) -> None:
    """What fails here is found by looking at the result."""
    with contextlib.suppress(Refused):
        await host.execute(command, arguments)
