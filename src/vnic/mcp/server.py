"""The tools of `vnic mcp`. Each call opens a QMP session of its own, so a vnic that was restarted is found again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from vnic import __version__
from vnic.api.instance import Vnic
from vnic.api.nic import set_link as set_link_of
from vnic.api.records import as_why
from vnic.cli.client import Entry, Refused, Session
from vnic.cli.log import iso
from vnic.cli.seen import NotSeen, nic_of
from vnic.cli.seen import wait_seen as wait_seen_of
from vnic.cli.why import look
from vnic.errors import VnicError
from vnic.mcp import answers

P = ParamSpec("P")
T = TypeVar("T")

WAIT_MAX_S: Final = 300.0
READ: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
INSTRUCTIONS: Final = """\
vnic gives virtual machines network cards whose cable it holds. A link is up exactly when nothing holds it down; `why`
names the holds and the chain of causes. That a link was set does not mean that the guest knows: trust `seen` only. It
is true if the guest's driver read the new state from its device after the change, else false."""

Name = Annotated[str, Field(description="a NIC or a netdev, or a NIC's MAC address")]


def make_server(name: str | None, qmp: str | None, *, allow_write: bool) -> MCPServer[Any]:
    """A server that asks the vnic of that name, or at that QMP socket, or the only one that runs."""
    tools = _Tools(name, qmp)
    server = _Server(allow_write)
    for function in (tools.links, tools.why, tools.log, tools.flaps):
        server.add_tool(_told(function), annotations=READ)
    if allow_write:
        for write in (tools.set_link, tools.impair, tools.flap, tools.stop_flap):
            server.add_tool(_told(write), annotations=WRITE)
    return server


WRITERS: Final = ("set_link", "impair", "flap", "stop_flap")


class _Server(MCPServer[Any]):
    """It says why a tool that changes links is not there."""

    def __init__(self, allow_write: bool) -> None:
        super().__init__("vnic", version=__version__, instructions=INSTRUCTIONS, log_level="ERROR")
        self._allow_write = allow_write

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> Any:
        if name in WRITERS and not self._allow_write:
            raise ToolError(
                f"{name}: this server only answers questions; `vnic mcp --allow-write` changes links"
            )
        return await super().call_tool(name, arguments, context)


def _told(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """What vnic refuses is an answer for the agent, and no crash."""

    @wraps(function)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except (VnicError, ValueError) as error:
            raise ToolError(str(error)) from None

    return told


class _Tools:
    def __init__(self, name: str | None, qmp: str | None) -> None:
        self._which = (name, qmp)

    @contextlib.asynccontextmanager
    async def _vnic(self) -> AsyncIterator[tuple[Vnic, Session]]:
        name, qmp = self._which
        async with Vnic(name, qmp=qmp) as vnic:
            yield vnic, await vnic.session()

    # -- questions ----------------------------------------------------------------------------------------------

    async def links(self, name: Name | None = None) -> answers.Links:
        """All NICs and netdevs, or those of one name: link, what holds it down, what the guest saw."""
        async with self._vnic() as (_, qmp):
            found = await qmp.links(None if name is None else await qmp.name_of(name))
        return answers.Links(links=[answers.link(entry) for entry in found])

    async def why(self, name: Name, changes: Annotated[int, Field(ge=0, le=1000)] = 8) -> answers.Why:
        """Why a link is as it is: holds, what the guest saw, its last changes and what they follow from."""
        async with self._vnic() as (_, qmp):
            found = await look(qmp, name, changes)
        if not found.links:
            raise Refused(f"'{found.name}' was deleted; `log` has what happened to it")
        return answers.Why(
            text=as_why(found.links[0], found).text,
            link=answers.link(found.links[0]),
            changes=[answers.change(entry) for entry in found.changes],
            causes=[answers.change(entry) for entry in found.causes.values()],
        )

    async def log(
        self,
        name: Name | None = None,
        cause: Annotated[
            str | None,
            Field(
                description="only changes by this kind of hold, or only records guest, start, end, restart, impaired"
            ),
        ] = None,
        last_seconds: Annotated[float | None, Field(gt=0, description="only of the last seconds")] = None,
        after_id: Annotated[int | None, Field(ge=0, description="only records after this one")] = None,
        limit: Annotated[int, Field(ge=1, le=1000)] = 50,
    ) -> answers.Log:
        """What happened to the links: changes with cause and what the guest saw, guests that came and went, starts and
        ends of vnic."""
        since = None if last_seconds is None else time.time() - last_seconds
        async with self._vnic() as (_, qmp):
            link = None if name is None else await qmp.name_of(name)
            found = await qmp.execute(
                "query-journal", name=link, cause=cause, since=since, after_id=after_id, limit=limit
            )
        return answers.Log(records=[answers.record(entry) for entry in found])

    async def flaps(self) -> answers.Flaps:
        """The schedules by which links go down and up now."""
        async with self._vnic() as (_, qmp):
            found = await qmp.execute("query-flaps")
        return answers.Flaps(flaps=[answers.flap(entry) for entry in found])

    # -- changes ------------------------------------------------------------------------------------------------

    async def set_link(
        self,
        name: Name,
        state: Literal["up", "down"],
        wait_seen: Annotated[
            float,
            Field(
                ge=0, le=WAIT_MAX_S, description="how many seconds the guest is waited for until it saw it"
            ),
        ] = 5.0,
    ) -> answers.Set:
        """Pull a cable (down) or plug it in (up), and wait until the guest saw it. The name of a netdev sets both ends
        of its wire. `seen` in the answer is true only if the guest's driver read the state after the change."""
        async with self._vnic() as (vnic, qmp):
            link = await qmp.name_of(name)
            nic = await nic_of(qmp, link)
            if nic is None:
                await qmp.execute("set_link", name=link, up=state == "up")
                [entry] = await qmp.links(link)
                return _answer(
                    entry["last-change"], entry, state, seen=False, text="no NIC is plugged into it"
                )
            started = time.monotonic()
            change = await set_link_of(vnic, link, nic["name"], state)
            try:
                entry = await wait_seen_of(qmp, nic, state, wait_seen, started)
            except NotSeen as unseen:
                mine = await qmp.link_log(nic["name"], limit=1, after_id=change.id - 1)
                entry = unseen.nic
                return _answer(
                    mine[0] if mine else entry["last-change"], entry, state, seen=False, text=str(unseen)
                )
            text = f"{nic['name']} is {state}, seen by the guest"
            return _answer(entry["last-change"], entry, state, seen=True, text=text)

    async def impair(
        self,
        name: Name,
        direction: Annotated[
            Literal["all", "rx", "tx"], Field(description="tx: frames to the guest, rx: frames from it")
        ] = "all",
        clear: Annotated[bool, Field(description="end all impairments that are not given")] = False,
        delay: Annotated[str | None, Field(description="20ms")] = None,
        jitter: Annotated[str | None, Field(description="2ms")] = None,
        loss: Annotated[str | None, Field(description="1%")] = None,
        duplicate: Annotated[str | None, Field(description="1%")] = None,
        corrupt: Annotated[str | None, Field(description="1%")] = None,
        reorder: Annotated[str | None, Field(description="1%")] = None,
        rate: Annotated[str | None, Field(description="10mbit")] = None,
        max_frame: Annotated[int | None, Field(ge=0, description="longer frames are lost; 0: none")] = None,
        seed: Annotated[
            int | None, Field(ge=0, description="the same seed and frames have the same fate")
        ] = None,
    ) -> answers.Impaired:
        """Delay, lose or change the frames of a link, while they pass. The link stays as it is."""
        words: Entry = {
            "delay": delay,
            "jitter": jitter,
            "loss": loss,
            "duplicate": duplicate,
            "corrupt": corrupt,
            "reorder": reorder,
            "rate": rate,
            "max_frame": max_frame,
            "seed": seed,
        }
        if not clear and all(value is None for value in words.values()):
            raise ValueError("give an impairment, or clear")
        async with self._vnic() as (_, qmp):
            link = await qmp.name_of(name)
            newest = await qmp.execute("query-journal", limit=1)
            await qmp.execute("link-impair", name=link, direction=direction, clear=clear, **words)
            notes = await qmp.execute(
                "query-journal", cause="impaired", after_id=newest[-1]["id"] if newest else 0, limit=1
            )
            entry = (await qmp.links(link))[0]
        return answers.Impaired(
            id=notes[0]["id"] if notes else None,
            at=iso(notes[0]["time"]) if notes else None,
            impairments=[each["text"] for each in entry.get("impairments", ())],
            link=answers.link(entry),
        )

    async def flap(
        self,
        name: Name,
        down_ms: Annotated[int, Field(ge=1, le=86_400_000)],
        up_ms: Annotated[
            int | None, Field(ge=1, le=86_400_000, description="not needed with count 1")
        ] = None,
        count: Annotated[int | None, Field(ge=1, description="how often; none: until stop_flap")] = None,
        jitter: Annotated[int, Field(ge=0, le=100, description="percent")] = 0,
        seed: Annotated[int | None, Field(ge=0, description="the same seed gives the same times")] = None,
    ) -> answers.Flapped:
        """Have a link go down and up by a schedule that vnic keeps. `log` shows each change and what the guest saw."""
        async with self._vnic() as (_, qmp):
            link = await qmp.name_of(name)
            started = await qmp.execute(
                "flap-start", name=link, down_ms=down_ms, up_ms=up_ms, count=count, jitter=jitter, seed=seed
            )
            return await self._flapped(qmp, link, started["id"])

    async def stop_flap(self, id: str) -> answers.Flapped:
        """End a flap. Its link is up then, unless something else holds it."""
        async with self._vnic() as (_, qmp):
            found = [each for each in await qmp.execute("query-flaps") if each["id"] == id]
            await qmp.execute("flap-stop", id=id)
            return await self._flapped(qmp, found[0]["name"], id)

    @staticmethod
    async def _flapped(qmp: Session, link: str, id_: str) -> answers.Flapped:
        running = [each for each in await qmp.execute("query-flaps") if each["id"] == id_]
        entry = (await qmp.links(link))[0]
        return answers.Flapped(
            flap=answers.flap(running[0]) if running else None,
            change=answers.change(entry["last-change"]),
            link=answers.link(entry),
        )


def _answer(change: Entry, link: Entry, state: str, *, seen: bool, text: str) -> answers.Set:
    return answers.Set(
        change=answers.change(change),
        link=answers.link(link),
        is_in_state=link["link"] == state,
        seen=seen,
        text=text,
    )
