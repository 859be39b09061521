"""Waits until a guest saw its link: the verbs, the Python API and the MCP server all ask here.

"Accepted" is not "seen": only a read of the guest's driver after the change counts, which the device model tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from qemu.qmp import Message

from vnic.cli.client import Entry, Refused, Session
from vnic.cli.show import cause_text
from vnic.printable import one_line

EVENTS: Final = ("LINK_SEEN", "LINK_CHANGED")
LOOK_AGAIN_S: Final = 0.1
"""How often a wait looks without an event: a new guest's first read of a link that did not change makes none."""


class NotSeen(Refused):
    """The guest did not see its link in time; `str()` says what is in the way."""

    def __init__(self, text: str, nic: Entry) -> None:
        super().__init__(text)
        self.nic = nic
        """The NIC's entry of query-links at that moment."""


def follows_socket(nic: Entry) -> bool:
    """Whether the guest sees its link only by its socket: what it saw is then unknown."""
    return bool(nic["guest"].get("link-shown-by") == "socket")


def shows_nothing(nic: Entry) -> bool:
    """Whether the NIC has nothing by which a guest could see its link."""
    return bool(nic["guest"].get("link-shown-by") == "nothing")


def is_unprovable(nic: Entry) -> bool:
    """Whether the NIC is in an adopted VM that has no guest agent to ask: what its guest saw stays unknown."""
    shown_by = nic["guest"].get("link-shown-by")
    return bool(shown_by == "hypervisor" and "agent" not in nic.get("vm", {}))


def hold_text(hold: Entry, name: str) -> str:
    """`operator: set_link nic0 off (by …)`, with the other end's name before it where the hold is there."""
    where = "" if hold["client"] == name else f"{hold['client']} "
    return f"{where}{hold['kind']}: {cause_text(hold)}"


async def nic_of(qmp: Session, name: str) -> Entry | None:
    """The NIC whose wire `name` is an end of; None for a netdev without one."""
    found = await qmp.links(name)
    for link in found:
        if link["type"] == "nic":
            return link
    for link in found:
        for peer in await qmp.links(link["peer"]) if "peer" in link else ():
            if peer["type"] == "nic":
                return peer
    return None


async def nic_named(qmp: Session, name: str) -> Entry:
    """The NIC of that name; a netdev may have the same. Refused once the NIC is gone."""
    for link in await qmp.links(name):
        if link["type"] == "nic":
            return link
    raise Refused(f"{name} was deleted meanwhile")


def has_seen(nic: Entry, state: str) -> bool:
    """Whether the guest has read `state` after the link's last change, which set it."""
    return bool(
        nic["link"] == state and nic["guest"]["seen"] == state and "seen-us" in nic.get("last-change", {})
    )


def _name(event: Message) -> object:
    """The link that an event is about."""
    data = event.get("data")
    return data.get("name") if isinstance(data, dict) else None


async def wait_seen(qmp: Session, nic: Entry, state: str, seconds: float, started: float) -> Entry:
    """The NIC's entry once its guest saw `state`; NotSeen, with what is in the way, `seconds` after `started` (by the
    monotonic clock)."""
    name = nic["name"]
    with qmp.client.listener(EVENTS, lambda event: _name(event) == name) as listener:
        nic = await nic_named(qmp, name)
        while not has_seen(nic, state):
            cannot_tell = follows_socket(nic) or is_unprovable(nic) or shows_nothing(nic)
            if cannot_tell and nic["link"] == state:
                raise NotSeen(why_not_seen(nic, state, seconds), nic)
            left = started + seconds - time.monotonic()
            if left > 0:
                # Any event may matter; the query after it shows the present state, even if an event was missed.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_AGAIN_S)):
                        if await qmp.next_event(listener) is None:
                            raise Refused(f"vnic ended before the guest of {name} saw its link {state}")
            nic = await nic_named(qmp, name)
            if left <= 0 and not has_seen(nic, state):
                raise NotSeen(why_not_seen(nic, state, seconds), nic)
    return nic


def vm_text(nic: Entry) -> str:
    """What is wrong with an adopted VM, in brackets; "" if nothing is known to be."""
    vm = nic.get("vm", {})
    known = [vm["text"]] if "text" in vm and not nic["guest"]["attached"] else []
    known += [vm[key] for key in ("trouble", "agent") if key in vm]
    return f" ({one_line('; '.join(known))})" if known else ""


def why_not_seen(nic: Entry, state: str, seconds: float) -> str:
    """Why the guest has not seen `state`: the wire is in the other state, or there is no guest, driver or read."""
    name = nic["name"]
    if nic["link"] != state:
        holds = "; ".join(hold_text(hold, name) for hold in nic["holds"])
        return f"{name} is still {nic['link']} after {seconds:g} s, held by {one_line(holds) or 'nothing'}"
    guest = nic["guest"]
    if follows_socket(nic):
        how = "closed" if state == "down" else "there again"
        return f"{name} is {state}; its guest sees that by its socket, which is {how}, and cannot confirm it"
    if is_unprovable(nic):
        return f"{name} is {state}; no guest agent was named (qga=) that could say whether its guest saw it"
    if shows_nothing(nic):
        return f"{name} is {state}; a {nic['model']} shows no link, so that its guest cannot see it"
    done = f"{name} is {state}, but after {seconds:g} s "
    if not guest["attached"]:
        return done + "no guest is attached to see it" + vm_text(nic)
    if "vm" in nic:
        return done + "no guest agent has proven that its guest saw it" + vm_text(nic)
    if not guest["driver-ok"]:
        return done + "the guest's driver has not started"
    seen = (
        "has not read its link at all" if guest["seen"] == "unknown" else f"has last read '{guest['seen']}'"
    )
    return done + f"the guest {seen}"
