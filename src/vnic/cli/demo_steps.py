"""The steps of `vnic demo` as a table: what is done, what the guest must see then, and what `vnic why` must name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vnic.guest.base import Guest

from .client import Entry
from .demo_lab import NETDEV, NIC, PING_ADDRESS, Lab
from .show import one_line

CARRIER_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One row to be: `kind` is the cause or hold that has to be named; a guest whose link is up pings."""

    title: str
    action: Callable[[Lab], Awaitable[None]]
    up: bool
    kind: str
    changes: bool = True
    """False: the guest must see nothing new."""


async def _peer_restarts_held(lab: Lab) -> None:
    await lab.kill_peer()
    await lab.start_peer()


async def _plug_into_stream(lab: Lab) -> None:
    await lab.netdev_del()
    await lab.add_stream()


STEPS = (
    Step(f"set_link {NIC} off", lambda lab: lab.set_link(NIC, False), False, "operator"),
    Step(f"set_link {NIC} on", lambda lab: lab.set_link(NIC, True), True, "operator"),
    Step(f"set_link {NETDEV} off", lambda lab: lab.set_link(NETDEV, False), False, "operator"),
    Step(f"set_link {NETDEV} on", lambda lab: lab.set_link(NETDEV, True), True, "operator"),
    Step(f"netdev_del {NETDEV}", lambda lab: lab.netdev_del(), False, "no-peer"),
    Step(
        f"netdev_add echo,id={NETDEV}",
        lambda lab: lab.netdev_add(type="echo", ip=PING_ADDRESS),
        True,
        "no-peer",
    ),
    Step("net0 is a stream, without a peer", _plug_into_stream, False, "disconnected"),
    Step("the peer starts", lambda lab: lab.start_peer(), True, "disconnected"),
    Step("kill -9 of the peer", lambda lab: lab.kill_peer(), False, "disconnected"),
    Step("the peer is back", lambda lab: lab.start_peer(), True, "disconnected"),
    Step(f"set_link {NIC} off", lambda lab: lab.set_link(NIC, False), False, "operator"),
    Step("kill -9 of the peer, and it is back", _peer_restarts_held, False, "operator", changes=False),
    Step(f"set_link {NIC} on", lambda lab: lab.set_link(NIC, True), True, "operator"),
)


@dataclass(slots=True)
class Row:
    """What became of a step; `wrong` is empty where all is as it should be."""

    title: str
    carrier: bool | None
    latency_us: int | None
    pings: bool
    ping_ms: float | None
    why: str
    wrong: str

    @classmethod
    def failed(cls, step: Step, text: str) -> Row:
        return cls(step.title, None, None, False, None, "", text or "no answer in time")

    @property
    def right(self) -> bool:
        return not self.wrong

    def ping_text(self) -> str:
        if not self.pings:
            return "-"
        return "no answer" if self.ping_ms is None else f"{self.ping_ms:.2f} ms"

    def to_dict(self) -> dict[str, object]:
        return {
            "done": self.title,
            "carrier": None if self.carrier is None else int(self.carrier),
            "seen-latency-us": self.latency_us,
            "ping-ms": self.ping_ms,
            "why": self.why,
            "right": self.right,
            **({} if self.right else {"wrong": self.wrong}),
        }


async def first_row(lab: Lab, guest: Guest) -> Row:
    """How it is after boot."""
    return await _look("boot", True, "created", lab, guest, seen=True)


async def run_step(step: Step, lab: Lab, guest: Guest) -> Row:
    """Do it, wait for the guest's carrier, and compare."""
    await step.action(lab)
    return await _look(step.title, step.up, step.kind, lab, guest, seen=step.changes)


async def _look(title: str, up: bool, kind: str, lab: Lab, guest: Guest, *, seen: bool) -> Row:
    arrived = await asyncio.to_thread(guest.wait_carrier, up, timeout=CARRIER_TIMEOUT_S)
    carrier = await asyncio.to_thread(guest.carrier)
    ping_ms = await asyncio.to_thread(guest.ping, PING_ADDRESS) if up else None
    nic = await lab.nic()
    latency = nic["guest"].get("seen-latency-us") if seen else None
    kinds, why = _reasons(nic)
    word = "up" if up else "down"
    faults = []
    if not arrived or carrier != up:
        faults.append(f"carrier is not {int(up)}")
    if nic["link"] != word or nic["guest"]["seen"] != word:
        faults.append(f"vnic has it {nic['link']}, seen {nic['guest']['seen']}")
    if kind not in kinds:
        faults.append(f"why names {', '.join(kinds) or 'nothing'} instead of {kind}")
    if up and ping_ms is None:
        faults.append("no ping")
    if seen and latency is None:
        faults.append("vnic did not see the guest look")
    return Row(title, carrier, latency, up, ping_ms, why, ", ".join(faults))


def _reasons(nic: Entry) -> tuple[list[str], str]:
    """What holds the link down, or what brought it up: the kinds, and the words of `vnic why`."""
    causes = nic["holds"] or [nic["last-change"]["cause"]]
    return [cause["kind"] for cause in causes], one_line("; ".join(map(_reason, causes)))


def _reason(cause: Entry) -> str:
    """One hold or cause; `vnic why` says also who did it."""
    where = "" if cause.get("client", NIC) == NIC else f"on {cause['client']}: "
    return f"{cause['kind']}: {where}{cause['text']}"
