"""What fails: the ends that `--fail` names, the commands that fail and mend them, and what the journal has of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from vnic.cli.client import Entry, Refused, Session
from vnic.lab.file.names import netdev_id, nic_id
from vnic.lab.file.problems import meant
from vnic.lab.file.types import VMS, Lab
from vnic.lab.rehearse.records import EventWord, How, NicSteps

CHANGE_TIMEOUT_S: Final = 30.0
"""For the change to be in the journal, as after a fault that puts it off."""
_LOOK_S: Final = 0.02


def ends_of(lab: Lab, words: Sequence[str]) -> list[str]:
    """The names to vnic of `NODE:INTERFACE`, or of all of `NODE`: NICs, or the netdevs that other ends are. Refused if
    the lab has none."""
    ends = [(end, link.a) for link in lab.links for end in (link.a, link.b)]
    known = {str(end) for end, _ in ends} | set(lab.nodes)
    names: list[str] = []
    for word in words:
        found = [
            nic_id(end) if lab.nodes[end.node].kind in VMS else netdev_id(a)
            for end, a in ends
            if word in (str(end), end.node)
        ]
        if not found:
            raise Refused(f"--fail: lab '{lab.name}' has no link at '{word}'{meant(word, known)}")
        names += found
    return list(dict.fromkeys(names))


class Target:
    """The links that fail together."""

    def __init__(self, names: Sequence[str], how: How) -> None:
        self.names = list(names)
        self._how = how

    async def check(self, qmp: Session) -> None:
        """Refused if one of them is down or faulty before anything was done."""
        links = {str(link["name"]): link for link in await qmp.links()}
        for name in self.names:
            if links[name]["link"] != "up":
                held = "; ".join(str(hold["text"]) for hold in links[name]["holds"])
                raise Refused(f"{name} is down before it is pulled: {held}")
        if self._how == "dead":
            for fault in await qmp.execute("query-faults"):
                if fault["name"] in self.names:
                    raise Refused(f"{fault['name']} has a fault already: {fault['text']}")

    async def set(self, qmp: Session, event: EventWord) -> Change:
        """Fail or mend the links. Refused if the first of them does not change in time."""
        before = await qmp.execute("query-journal", limit=1)
        after = int(before[-1]["id"]) if before else 0
        for name in self.names:
            await qmp.execute_with(*self._command(name, event))
        until = time.monotonic() + CHANGE_TIMEOUT_S
        while True:
            for entry in await qmp.execute("query-journal", after_id=after):
                if entry.get("name") in self.names and self._is_change(entry, event):
                    return Change(after, entry)
            if time.monotonic() > until:
                raise Refused(f"{self.names[0]} did not go {event} in {CHANGE_TIMEOUT_S:g} s")
            await asyncio.sleep(_LOOK_S)

    async def mend(self, qmp: Session) -> None:
        """Take back whatever was done, also half of it."""
        for name in self.names:
            await qmp.execute_with(*self._command(name, "up"))

    def _is_change(self, entry: Entry, event: EventWord) -> bool:
        if self._how == "dead":
            return bool(entry["kind"] == "impaired")
        return bool(entry["kind"] == "link" and entry["link"] == event)

    def _command(self, name: str, event: EventWord) -> tuple[str, Entry]:
        if self._how == "pull":
            return "set_link", {"name": name, "up": event == "up"}
        return "link-fault", {"name": name, "shape": "dead", **({"clear": True} if event == "up" else {})}


class Change:
    """One change of the target, as the journal has it."""

    def __init__(self, after: int, entry: Entry) -> None:
        self._after = after
        self._entry = entry
        self.id = int(entry["id"])
        self.time = float(entry["time"])
        self.cause = str(entry["cause"]["text"] if "cause" in entry else entry["text"])

    @property
    def time_us(self) -> int:
        """Of this host's wall clock, as captures have it."""
        return round(self.time * 1_000_000)

    async def steps(self, qmp: Session, event: EventWord) -> list[NicSteps]:
        """How the guests learned of it, and of what followed from it."""
        own = {self.id}
        found: list[NicSteps] = []
        for each in await qmp.link_log(after_id=self._after):
            if each["id"] < self.id or (each["id"] != self.id and each.get("caused-by") not in own):
                continue
            own.add(each["id"])
            if each["type"] == "nic" and each["link"] == event:
                found.append(self._steps(each, event))
        return found

    def _steps(self, change: dict[str, Any], event: EventWord) -> NicSteps:
        at = change["monotonic-us"] - self._entry["monotonic-us"]

        def step(name: str) -> float | None:
            return (at + change[name]) / 1000 if name in change else None

        return NicSteps(
            nic=change["name"],
            link=event,
            change_ms=at / 1000,
            interrupt_ms=step("interrupt-us"),
            seen_ms=step("seen-us"),
        )
