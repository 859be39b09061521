"""The steps of `vnic demo` as a table: what is done, what the guest must see then, and what `vnic why` must name.

`verb` runs them one after the other; the tests run them on other guests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from vnic.cli.client import Entry
from vnic.lab.demo.lab import (
    FAR_NIC,
    NETDEV,
    NIC,
    PING_ADDRESS,
    Lab,
)
from vnic.lab.guest.base import Guest
from vnic.printable import one_line

CARRIER_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One row to be: `kind` is the cause or hold that has to be named; a guest whose link is up pings."""

    title: str
    action: Callable[[Lab], Awaitable[None]]
    up: bool
    kind: str
    changes: bool = True
    """False: the guest must see nothing new."""
    virtio: bool = False
    """It needs a virtio NIC, whose rings another process can run."""


async def _plug_into_stream(lab: Lab) -> None:
    await lab.netdev_del()
    await lab.add_stream()


async def _plug_into_vhost_user(lab: Lab) -> None:
    await lab.netdev_del()
    await lab.end_peer()
    await lab.add_vhost_user()


async def _restart_vhost_user_peer(lab: Lab) -> None:
    await lab.kill_vhost_user_peer()
    await lab.start_vhost_user_peer()


async def _plug_into_cable(lab: Lab) -> None:
    await lab.netdev_del()
    await lab.end_peer()
    await lab.add_cable()


async def _plug_into_tunnel(lab: Lab) -> None:
    await lab.netdev_del()
    await lab.kill_far_guest()
    await lab.add_tunnel()


def _set_link(name: str, up: bool, kind: str = "operator", *, virtio: bool = False) -> Step:
    word = "on" if up else "off"
    return Step(f"set_link {name} {word}", lambda lab: lab.set_link(name, up), up, kind, virtio=virtio)


STEPS = (
    _set_link(NIC, False),
    _set_link(NIC, True),
    _set_link(NETDEV, False),
    _set_link(NETDEV, True),
    Step(f"netdev_del {NETDEV}", Lab.netdev_del, False, "no-peer"),
    Step(f"netdev_add echo,id={NETDEV}", Lab.add_echo, True, "no-peer"),
    Step(f"{NETDEV}: stream, no peer yet", _plug_into_stream, False, "disconnected"),
    Step("a second vnic is its peer", Lab.start_stream_peer, True, "disconnected"),
    Step("peer killed (SIGKILL)", Lab.kill_stream_peer, False, "disconnected"),
    Step("peer is back", Lab.start_stream_peer, True, "disconnected"),
    Step(f"{NETDEV}: vhost-user, no back-end", _plug_into_vhost_user, False, "disconnected", virtio=True),
    Step("a second vnic is its back-end", Lab.start_vhost_user_peer, True, "disconnected", virtio=True),
    Step("back-end killed (SIGKILL)", Lab.kill_vhost_user_peer, False, "disconnected", virtio=True),
    Step("back-end is back", Lab.start_vhost_user_peer, True, "disconnected", virtio=True),
    _set_link(NIC, False, virtio=True),
    Step(
        "back-end killed, and back", _restart_vhost_user_peer, False, "operator", changes=False, virtio=True
    ),
    _set_link(NIC, True, virtio=True),
    Step(f"{NETDEV}: cable, no VM at {FAR_NIC}", _plug_into_cable, False, "far-end"),
    Step(f"a VM starts at {FAR_NIC}", Lab.start_far_guest, True, "far-end"),
    _set_link(FAR_NIC, False, "far-end"),
    _set_link(FAR_NIC, True, "far-end"),
    Step(f"VM of {FAR_NIC} killed (SIGKILL)", Lab.kill_far_guest, False, "far-end"),
    Step(f"VM of {FAR_NIC} is back", Lab.start_far_guest, True, "far-end"),
    Step(f"{NETDEV}: tunnel, no far vnic yet", _plug_into_tunnel, False, "far-end"),
    Step("a second vnic is its far end", Lab.start_tunnel_peer, True, "far-end"),
    Step("set_link off at the far end", lambda lab: lab.set_far_link(False), False, "far-end"),
    Step("set_link on at the far end", lambda lab: lab.set_far_link(True), True, "far-end"),
    Step("far vnic killed (SIGKILL)", Lab.kill_tunnel_peer, False, "far-end"),
)


class RowShown(msgspec.Struct, rename="kebab", omit_defaults=True, kw_only=True):
    """A Row for programs: what was done to the cable, and what the guest saw of it."""

    done: str
    carrier: int | None
    """The guest's own /sys/class/net/eth0/carrier; null: unknown, as are the next two."""
    seen_latency_us: int | None
    ping_ms: float | None
    datapath: str
    """Who moves the packets: `datapath` of query-links."""
    why: str
    right: bool
    wrong: str = ""
    """What is wrong, where something is."""


@dataclass(slots=True)
class Row:
    """What became of a step; `wrong` is empty where all is as it should be."""

    title: str
    carrier: bool | None
    latency_us: int | None
    pings: bool
    ping_ms: float | None
    path: str
    """Who moves the packets: `datapath` of query-links."""
    why: str
    wrong: str

    @classmethod
    def failed(cls, step: Step, text: str) -> Row:
        return cls(step.title, None, None, False, None, "", "", text or "no answer in time")

    @property
    def right(self) -> bool:
        return not self.wrong

    def ping_text(self) -> str:
        if not self.pings:
            return "-"
        return "no answer" if self.ping_ms is None else f"{self.ping_ms:.2f} ms"

    def shown(self) -> RowShown:
        return RowShown(
            done=self.title,
            carrier=None if self.carrier is None else int(self.carrier),
            seen_latency_us=self.latency_us,
            ping_ms=self.ping_ms,
            datapath=self.path,
            why=self.why,
            right=self.right,
            wrong=self.wrong,
        )


async def first_row(lab: Lab, guest: Guest) -> Row:
    """How it is after boot."""
    return await _look("boot", True, "created", lab, guest, seen=True)


async def run_step(step: Step, lab: Lab, guest: Guest) -> Row:
    """Do it, wait for the guest's carrier, and compare."""
    await step.action(lab)
    return await _look(step.title, step.up, step.kind, lab, guest, seen=step.changes)


async def _look(title: str, up: bool, kind: str, lab: Lab, guest: Guest, *, seen: bool) -> Row:
    """Of a NIC that has no register for its link, only frames tell: the guest's carrier is always 1."""
    sees = lab.guest_sees
    arrived = not sees or await asyncio.to_thread(guest.wait_carrier, up, timeout=CARRIER_TIMEOUT_S)
    carrier = await asyncio.to_thread(guest.carrier) if sees else None
    ping_ms = await asyncio.to_thread(guest.ping, PING_ADDRESS) if up else None
    nic = await lab.nic()
    latency = nic["guest"].get("seen-latency-us") if seen and sees else None
    kinds, why = _reasons(nic)
    word = "up" if up else "down"
    faults = []
    if not arrived or (sees and carrier != up):
        faults.append(f"carrier is not {int(up)}")
    if nic["link"] != word or (sees and nic["guest"]["seen"] != word):
        faults.append(f"vnic has it {nic['link']}, seen {nic['guest']['seen']}")
    if kind not in kinds:
        faults.append(f"why names {', '.join(kinds) or 'nothing'} instead of {kind}")
    if up and ping_ms is None:
        faults.append("no ping")
    if seen and sees and latency is None:
        faults.append("vnic did not see the guest look")
    return Row(title, carrier, latency, up, ping_ms, nic["datapath"], why, ", ".join(faults))


def _reasons(nic: Entry) -> tuple[list[str], str]:
    """What holds the link down, or what brought it up: the kinds, and the words of `vnic why`."""
    causes = nic["holds"] or [nic["last-change"]["cause"]]
    # set_link of a netdev holds both ends of the wire for the same reason, which is told once.
    told = {(cause["kind"], cause["text"]): _reason(cause) for cause in reversed(causes)}
    return [cause["kind"] for cause in causes], one_line("; ".join(reversed(told.values())))


def _reason(cause: Entry) -> str:
    """One hold or cause; `vnic why` says also who did it."""
    where = "" if cause.get("client", NIC) == NIC else f"on {cause['client']}: "
    return f"{cause['kind']}: {where}{cause['text']}"
