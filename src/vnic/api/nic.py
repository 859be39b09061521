"""A NIC of a running vnic: pull its cable, wait until the guest saw it, ask why, flap it, impair it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol, TypeAlias, Unpack

from vnic.api.records import LinkChange, LinkInfo, Why, as_change, as_link, as_why
from vnic.api.words import Fault, Netem
from vnic.cli.client import Entry, Refused, Session
from vnic.cli.seen import LOOK_AGAIN_S, NotSeen, follows_socket, nic_named, wait_seen
from vnic.cli.why import DEFAULT_CHANGES, look

State: TypeAlias = Literal["up", "down"]
Direction: TypeAlias = Literal["all", "rx", "tx"]
Time: TypeAlias = float | str
"""Seconds, or a text with its unit: `200ms`, `5s`, `1.5m`."""

SEEN_S = 10.0
"""How long a guest that can tell what it saw is waited for, unless told otherwise."""
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class Host(Protocol):
    """What a NIC needs of its vnic."""

    wanted: dict[str, str]

    async def session(self) -> Session: ...

    async def execute(self, command: str, arguments: Entry | None = None) -> Any: ...


def as_ms(time_: Time) -> int:
    """A time in milliseconds, rounded. ValueError if it is none."""
    if isinstance(time_, str):
        found = _TIME.fullmatch(time_)
        if found is None:
            raise ValueError(f"'{time_}' is no time: give seconds, or a text with its unit, as '200ms'")
        return round(float(found[1]) * _MS[found[2]])
    return round(time_ * 1000)


def can_tell(nic: Entry) -> bool:
    """Whether its guest's driver runs and reads the link from the device, so that a read is to be expected."""
    guest = nic["guest"]
    runs = guest["attached"] and guest["driver-ok"] and not guest.get("admin-down", False)
    return bool(runs) and "vm" not in nic and not follows_socket(nic)


def is_set(nic: Entry) -> bool:
    """Whether the hypervisor of an adopted VM, if it is there, has set the link as it is."""
    return "vm" not in nic or not nic["guest"]["attached"] or "notified-us" in nic["last-change"]


def is_held(link: Entry) -> bool:
    """Whether the operator holds this very end."""
    return any(hold["kind"] == "operator" and hold["client"] == link["name"] for hold in link["holds"])


def is_up(state: str) -> bool:
    """ValueError for a state that is none."""
    if state not in ("up", "down"):
        raise ValueError(f"'{state}' is neither 'up' nor 'down'")
    return state == "up"


async def set_link(host: Host, name: str, nic: str, state: State) -> LinkChange:
    """QMP's set_link of `name`, the NIC itself or the netdev on its wire. Returns the change of the NIC, or its last
    one if there was none."""
    up = is_up(state)
    qmp = await host.session()
    newest = await qmp.link_log(limit=1)
    before = newest[-1]["id"] if newest else 0
    host.wanted[nic] = state
    await qmp.execute("set_link", name=name, up=up)
    changes = await qmp.link_log(nic, after_id=before)
    mine = [change for change in changes if change["type"] == "nic" and change["link"] == state]
    return as_change(mine[-1] if mine else (await nic_named(qmp, nic))["last-change"])


class Flap:
    """A schedule by which a link goes down and up. vnic keeps it, also when this program has ended."""

    def __init__(self, host: Host, id_: str, seed: int) -> None:
        self._host = host
        self.id = id_
        self.seed = seed
        """The same seed gives the same times."""

    async def active(self) -> bool:
        """Whether it has not ended."""
        return any(flap["id"] == self.id for flap in await self._host.execute("query-flaps"))

    async def stop(self) -> None:
        """End it; the link is up then, unless something else holds it. A flap that has ended is none to end."""
        if await self.active():
            with contextlib.suppress(Refused):  # it ended meanwhile
                await self._host.execute("flap-stop", {"id": self.id})


class Nic:
    """A NIC of a running vnic, by its name; whether it still exists is found out by each call (Refused)."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self.name = name

    async def info(self) -> LinkInfo:
        """Its entry of query-links: link, holds, what the guest saw."""
        return as_link(await nic_named(await self._host.session(), self.name))

    async def down(self) -> LinkChange:
        """Pull the cable: place the operator's hold. Returns the change, or the last one if the link was down."""
        return await self.set("down")

    async def up(self) -> LinkChange:
        """Plug the cable in: release the operator's hold. Returns the change. If the link was up, or something else
        holds it, that is the last one: its `link` is how the link is, and `why()` tells the reason."""
        return await self.set("up")

    async def set(self, state: State) -> LinkChange:
        """`down` or `up`."""
        return await set_link(self._host, self.name, self.name, state)

    async def wait_seen(self, state: State | None = None, timeout: float = SEEN_S) -> LinkChange:
        """Wait until the guest's driver has read `state` (by default the one that was asked for last, else the
        present one) after the link's last change. Returns this change. NotSeen after `timeout` seconds, with what is
        in the way: that includes a link which is in the other state."""
        started = time.monotonic()
        qmp = await self._host.session()
        nic = await nic_named(qmp, self.name)
        wanted = state or self._host.wanted.get(self.name) or nic["link"]
        return as_change((await wait_seen(qmp, nic, wanted, timeout, started))["last-change"])

    async def why(self, changes: int = DEFAULT_CHANGES) -> Why:
        """Why the link is as it is, with its last `changes`."""
        qmp = await self._host.session()
        nic = await nic_named(qmp, self.name)
        return as_why(nic, await look(qmp, self.name, changes))

    async def log(self, *, after_id: int = 0) -> list[LinkChange]:
        """Its changes after that id, the oldest first, as far as the journal goes back."""
        found = await (await self._host.session()).link_log(self.name, after_id=after_id)
        return [as_change(change) for change in found if change["type"] == "nic"]

    @contextlib.asynccontextmanager
    async def unplugged(self, *, wait: float | None = SEEN_S) -> AsyncIterator[LinkChange]:
        """Pull the cable for a block, which gets the change, and plug it in again; a NIC that the operator had down
        before stays down. Both times a guest whose driver reads its link is waited for, `wait` seconds at most
        (NotSeen); a guest that cannot tell is not. With `wait=None`, none is."""
        qmp = await self._host.session()
        held = is_held(await nic_named(qmp, self.name))
        wanted = self._host.wanted.get(self.name)
        change = await self.down()
        try:
            yield change if wait is None else await self.settle(wait)
        except BaseException:
            if not held:
                with contextlib.suppress(Refused):  # the error of the block is the one to tell
                    await self.up()
            raise
        if not held:
            await self.up()
            if wait is not None:
                await self.settle(wait)
        elif wanted is not None:
            self._host.wanted[self.name] = wanted

    async def settle(self, wait: float = SEEN_S) -> LinkChange:
        """Wait until the guest saw the link as it is, if its driver runs and reads the link from the device; return
        the last change. NotSeen after `wait` seconds. A guest that cannot tell is not waited for; of an adopted VM, its
        hypervisor is, until it has set the link."""
        started = time.monotonic()
        qmp = await self._host.session()
        nic = await nic_named(qmp, self.name)
        while self.name in self._host.wanted and not is_set(nic):
            if time.monotonic() - started > wait:
                trouble = nic["vm"].get("trouble", "it has not answered")
                raise NotSeen(f"{self.name}: the link is not set in the VM after {wait:g} s: {trouble}", nic)
            await asyncio.sleep(LOOK_AGAIN_S / 10)
            nic = await nic_named(qmp, self.name)
        while can_tell(nic):
            state = nic["link"]
            left = wait - (time.monotonic() - started)
            try:
                return as_change(
                    (await wait_seen(qmp, nic, state, max(left, 0.0), time.monotonic()))["last-change"]
                )
            except NotSeen as unseen:
                # Its driver may have stopped, or the link may have changed by another cause meanwhile.
                if left <= 0 and can_tell(unseen.nic) and unseen.nic["link"] == state:
                    raise
                nic = unseen.nic
        return as_change(nic["last-change"])

    # -- schedules and what passes ------------------------------------------------------------------------------

    async def flap(
        self,
        down: Time,
        up: Time | None = None,
        *,
        count: int | None = None,
        jitter: int | None = None,
        seed: int | None = None,
    ) -> Flap:
        """Have the link go down and up by a schedule; `up` may be left out with `count=1`. `jitter` is in percent."""
        started = await (await self._host.session()).execute(
            "flap-start",
            name=self.name,
            down_ms=as_ms(down),
            up_ms=None if up is None else as_ms(up),
            count=count,
            jitter=jitter,
            seed=seed,
        )
        return Flap(self._host, started["id"], started["seed"])

    async def impair(
        self, *, direction: Direction = "all", clear: bool = False, **netem: Unpack[Netem]
    ) -> None:
        """Change what is done to the frames of its wire, in tc-netem's words: `delay="20ms", loss="1%"`, with `_` for
        `-`. `tx` are the frames to the guest. What is not given stays as it is, or ends with `clear`."""
        words = {key.replace("_", "-"): value for key, value in netem.items()}
        await self._host.execute(
            "link-impair", {"name": self.name, "direction": direction, "clear": clear, **words}
        )

    @contextlib.asynccontextmanager
    async def impaired(self, *, direction: Direction = "all", **netem: Unpack[Netem]) -> AsyncIterator[None]:
        """`impair` for a block. At its end, all impairments of these directions are cleared."""
        try:
            await self.impair(direction=direction, **netem)
            yield
        finally:
            await self.impair(direction=direction, clear=True)

    async def fault(self, shape: str, **words: Unpack[Fault]) -> None:
        """Have something be wrong with the link, as `vnic link fault` does, with the arguments of QMP's link-fault:
        `fault("one-way", direction="tx")`, `fault("black-hole", bytes=1400)`, `fault("slow-up", delay_ms=2000)`."""
        given = {key.replace("_", "-"): value for key, value in words.items()}
        await self._host.execute("link-fault", {"name": self.name, "shape": shape, **given})

    async def clear_fault(self, shape: str | None = None) -> None:
        """End one fault, or all of this link's."""
        given = {} if shape is None else {"shape": shape}
        await self._host.execute("link-fault", {"name": self.name, "clear": True, **given})

    def __repr__(self) -> str:
        return f"<Nic {self.name}>"
