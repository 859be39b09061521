"""A running vnic, over one QMP connection that is opened when it is first needed, and again after a restart of vnic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from qemu.qmp import QMPClient

from vnic.api.nic import Nic, is_up
from vnic.api.put_back import Baseline
from vnic.api.records import LinkChange, LinkInfo, as_change, as_link
from vnic.api.vm import Vm
from vnic.cli.client import Entry, Refused, Session, close_client, open_client
from vnic.lab.file.names import nic_id
from vnic.lab.file.types import End
from vnic.monitor.commands.history import JournalEntry
from vnic.net.journal import LIMIT_MAX


class Vnic:
    """A running vnic; an async context manager that closes the connection."""

    def __init__(self, name: str | None = None, *, qmp: str | None = None) -> None:
        """The instance of `-name NAME`, or with its QMP socket at the path `qmp`; with neither, the only one that
        runs. Nothing is connected yet."""
        self._name, self._qmp = name, qmp
        self._session: Session | None = None
        self._finalizer: weakref.finalize[..., Vnic] | None = None
        self._opening = asyncio.Lock()
        self.wanted: dict[str, str] = {}
        """By the name of a NIC, the state that was asked for last."""
        self.vms: list[Vm] = []
        """Those that `adopt` made and that were not released."""

    async def __aenter__(self) -> Self:
        await self.session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the next call opens another."""
        session, self._session = self._session, None
        if session is not None and self._finalizer is not None:
            self._finalizer.detach()
            await close_client(session.client)

    async def session(self) -> Session:
        """The connection, as the verbs have it."""
        async with self._opening:
            if self._session is not None and self._session.client.runstate.name != "RUNNING":
                await self.close()
            if self._session is None:
                client = await open_client(self._name, self._qmp)
                client.events.event_filter = lambda _: (
                    False
                )  # each wait has a listener; this one would fill up
                self._finalizer = weakref.finalize(self, _abandoned, asyncio.get_running_loop(), client)
                self._finalizer.atexit = False
                self._session = Session(client)
            return self._session

    async def execute(self, command: str, arguments: Entry | None = None) -> Any:
        """Run any QMP command with these arguments and return its `return`. Refused with the error's text."""
        return await (await self.session()).execute_with(command, arguments or {})

    async def links(self) -> list[LinkInfo]:
        """All NICs and netdevs."""
        return [as_link(entry) for entry in await (await self.session()).links()]

    async def nics(self) -> list[Nic]:
        """All NICs, in the order in which they were made."""
        return [Nic(self, link.name) for link in await self.links() if link.type == "nic"]

    async def nic(self, name: str) -> Nic:
        """A NIC by its name, its MAC address, or its end of a lab's link (`a:eth1`). Refused if there is none."""
        links = await self.links()
        node, _, interface = name.partition(":")
        wanted = (name, nic_id(End(node, interface)) if node and interface else name)
        mac = name.lower().replace("-", ":")
        for link in links:
            if link.type == "nic" and (link.name in wanted or link.mac == mac):
                return Nic(self, link.name)
        there = ", ".join(link.name for link in links if link.type == "nic") or "none"
        raise Refused(f"there is no NIC '{name}'; there are: {there}")

    async def set_link(self, name: str, state: str) -> None:
        """QMP's set_link with `up` or `down`: the name of a netdev holds, or lets go, both ends of its wire."""
        await self.execute("set_link", {"name": name, "up": is_up(state)})

    async def log(self, name: str | None = None, *, after_id: int = 0) -> list[LinkChange]:
        """The link changes, of one link or of all, after that id, the oldest first."""
        session = await self.session()
        found: list[LinkChange] = []
        while more := await session.link_log(name, after_id=found[-1].id if found else after_id):
            found += map(as_change, more)
        return found

    async def journal(self, *, since: float) -> list[JournalEntry]:
        """All records of the journal since that time, in seconds since 1970: link changes, guests, starts and ends."""
        found = await self.execute("query-journal", {"since": since, "limit": LIMIT_MAX})
        return msgspec.convert(found, list[JournalEntry])

    async def adopt(
        self,
        *,
        qmp: str | os.PathLike[str] | None = None,
        qga: str | os.PathLike[str] | None = None,
        uri: str | None = None,
        domain: str | None = None,
        id: str | None = None,
        wait: float = 10.0,
    ) -> Vm:
        """Have a VM that runs be part of this vnic until it is released: QEMU's with the QMP socket `qmp` (which is
        then vnic's alone) and its guest agent's, `qga`; or libvirt's `domain` at `uri`. `id` names it and, before a
        slash, its NICs; by default it is made of the path or the domain. Refused if it does not answer in `wait`
        seconds."""
        if (qmp is None) is (domain is None):
            raise ValueError(
                "give either qmp, the path of a QMP socket, or domain, the name of a libvirt domain"
            )
        name = id or _id_of(domain or Path(qmp or "").name)
        await (await self.session()).execute(
            "object-add",
            qom_type="qemu" if domain is None else "libvirt",
            id=name,
            qmp=_absolute(qmp),
            qga=_absolute(qga),
            uri=uri,
            domain=domain,
        )
        vm = Vm(self, name)
        try:
            await vm.wait_there(wait)
        except BaseException:
            with contextlib.suppress(Refused):
                await self.execute("object-del", {"id": name})
            raise
        self.vms.append(vm)
        return vm

    async def baseline(self) -> Baseline:
        """How all links are now: who holds them, flaps, impairments and faults; `put_back()` has them so again."""
        return await Baseline.of(self)


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    """vnic may have another working folder."""
    return None if path is None else str(Path(path).absolute())


def _id_of(text: str) -> str:
    """A name as an id of QEMU's: it begins with a letter."""
    made = re.sub(r"[^A-Za-z0-9._-]", "_", text.removesuffix(".sock").removesuffix(".qmp"))
    return made if made[:1].isalpha() else f"vm{made}"


_closing: set[asyncio.Task[None]] = set()


def _abandoned(loop: asyncio.AbstractEventLoop, client: QMPClient) -> None:
    """Close the connection of a Vnic that nobody closed; until then it may not be collected, for it has tasks."""

    def close() -> None:
        task = loop.create_task(close_client(client))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    if not loop.is_closed():
        loop.call_soon_threadsafe(close)


async def connect(name: str | None = None, *, qmp: str | None = None) -> Vnic:
    """A running vnic, connected. Refused where none answers."""
    vnic = Vnic(name, qmp=qmp)
    await vnic.session()
    return vnic
