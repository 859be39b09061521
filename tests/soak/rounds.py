"""A round of the soak: pings on every cable while processes are killed, then a link that goes down and up.

The judge knows what was ordered. A guest that saw anything else, a ping that was lost without a reason, or an answer
out of order, is a fault.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.soak.lab import PINGER, End, SoakLab, Wire
from tests.soak.pings import Pings

PINGS = 60
"""Of a round, on each cable: as many as may wait at once while control is away. See ECHO_REPLIES."""
INTERVAL_S = 0.025
"""Between two pings."""
ECHO_REPLIES = 137
"""How many replies to pings a Linux processor holds, for all its NICs, until they are sent. It drops what is above, and
a guest whose processor stood still answers all that have waited at once. The room is 2 * SKB_TRUESIZE(64 KiB)
(net/ipv4/icmp.c), a reply being counted as 960 bytes at most."""
REPLY_S = 10
"""How late an answer may be: after that, the ping counts as lost."""
WIRE_LOSS = 10 + 1
"""Pings that the death of vnic-wire may cost: those in flight for 250 ms."""
ARRIVAL_S = 15

WIRE_REST_S = 5.0
"""Between two deaths of vnic-wire: after 8 within 30 s it is not started again."""

VICTIMS = {"control": 4, "wire": 1, "both": 1}
"""What is killed, with its weight."""


@dataclass
class Tally:
    """What happened in all rounds."""

    kills: Counter[str] = field(default_factory=Counter)
    back_ms: list[float] = field(default_factory=list)
    """From the death of control to an answer of the next one."""
    pings: int = 0
    lost: int = 0
    repeated: int = 0
    longest_ms: float = 0.0
    changes: int = 0
    """Ordered, and seen by guests."""
    rounds: int = 0
    faults: list[str] = field(default_factory=list)


class Rounds:
    """Runs rounds on a lab, and judges them."""

    def __init__(
        self, lab: SoakLab, seed: int, say: Callable[[str], None], victims: Sequence[str] = tuple(VICTIMS)
    ) -> None:
        """`victims`: some of VICTIMS; without any, nothing is killed."""
        self._lab = lab
        self._random = random.Random(seed)
        self._say = say
        self._wire_rests_until = 0.0
        self._victims = [name for name in victims for _ in range(VICTIMS[name])]
        self.tally = Tally()
        self._expected: dict[End, int] = {end: lab.carrier(end)[1] for end in lab.ends()}
        """How often each carrier has changed if only ordered changes arrived."""

    def fault(self, text: str) -> None:
        self.tally.faults.append(text)
        self._say(f"FAULT in round {self.tally.rounds}: {text}")

    def run(self) -> None:
        """One round."""
        self.tally.rounds += 1
        self._ping_and_kill()
        flapping = [wire for wire in self._lab.wires if wire.far in self._expected]
        if flapping:
            self._flap(self._random.choice(flapping))
        self._judge_carriers("after the round")

    # -- kills --------------------------------------------------------------------------------------------------

    def _kill(self, victim: str) -> None:
        self.tally.kills[victim] += 1
        {"control": self._lab.kill_control, "wire": self._lab.kill_wire, "both": self._lab.kill_both}[
            victim
        ]()

    def _await_control(self) -> None:
        """Measure how soon control answers again."""
        begun = time.monotonic()
        self._lab.monitor.execute("query-status")
        self.tally.back_ms.append((time.monotonic() - begun) * 1000)

    # -- pings --------------------------------------------------------------------------------------------------

    def _ping_and_kill(self) -> None:
        guest = self._lab.guests["uml"]
        command = "; ".join(
            f"({PINGER} {wire.address} {PINGS} {INTERVAL_S * 1000:.0f} {REPLY_S} >/tmp/{wire.name} 2>&1;"
            f" echo end >>/tmp/{wire.name}) &"
            for wire in self._lab.wires
        ).replace("&;", "&")
        guest.run(command)
        killed = Counter[str]()
        end = time.monotonic() + PINGS * INTERVAL_S
        while (left := end - time.monotonic()) > 0:
            time.sleep(self._random.random() * left)
            if self._victims and end - time.monotonic() > 0.05:
                victim = self._random.choice(self._victims)
                if victim != "control":
                    if time.monotonic() < self._wire_rests_until:
                        continue
                    self._wire_rests_until = time.monotonic() + WIRE_REST_S
                killed[victim] += 1
                self._kill(victim)
                if victim != "wire":
                    self._await_control()
        for wire in self._lab.wires:
            self._judge_pings(wire, self._output(wire), killed)

    def _output(self, wire: Wire) -> str:
        """What the pinger said, once it has ended."""
        seconds = REPLY_S + 20
        wait = (
            f"for i in $(seq {seconds * 10}); do grep -q ^end$ /tmp/{wire.name} && break; usleep 100000; done"
        )
        return self._lab.guests["uml"].run(f"{wait}; cat /tmp/{wire.name}", seconds + 60)

    def _judge_pings(self, wire: Wire, text: str, killed: Counter[str]) -> None:
        try:
            pings = Pings.of(text)
        except ValueError as error:
            self.fault(f"{wire.name}: {error}")
            return
        self.tally.pings += pings.sent
        self.tally.lost += len(pings.lost)
        self.tally.longest_ms = max(self.tally.longest_ms, pings.longest_ms)
        allowed = WIRE_LOSS * (killed["wire"] + killed["both"])
        if len(pings.lost) > allowed:
            deaths = ", ".join(f"{count} of {victim}" for victim, count in killed.items()) or "none"
            self.fault(
                f"{wire.name}: of {pings.sent} pings these were lost: {ranges(pings.lost)} (deaths: {deaths})"
            )
        if pings.disordered:
            self.fault(f"{wire.name}: these answers came out of order: {ranges(pings.disordered)}")
        self.tally.repeated += len(pings.repeated)
        if pings.repeated and not may_repeat(wire, killed):
            self.fault(f"{wire.name}: these answers came twice: {ranges(pings.repeated)}")

    # -- links --------------------------------------------------------------------------------------------------

    def _flap(self, wire: Wire) -> None:
        """Down and up, but not where virtio-user is at one end: it sees the link by its socket, and ends with it. With
        a death before, within or after each order."""
        nic = self._random.choice([wire.near, wire.far]).nic
        for up in (False, True):
            mortal = "control" in self._victims
            when = self._random.choice(["before", "within", "after", "never"]) if mortal else "never"
            if when == "before":
                self._kill("control")
            within = self._kill_soon if when == "within" else None
            self._lab.monitor.execute("set_link", sent=within, name=nic, up=up)
            if when == "after":
                self._kill("control")
            self.tally.changes += 1
            for end in (wire.near, wire.far):
                self._judge_arrival(end, up, f"set_link {nic} {'on' if up else 'off'} (death: {when})")

    def _kill_soon(self) -> None:
        time.sleep(self._random.random() * 0.003)
        self._kill("control")

    def _judge_arrival(self, end: End, up: bool, order: str) -> None:
        self._expected[end] += 1
        if not self._lab.wait_carrier(end, up, ARRIVAL_S):
            self.fault(f"{order} did not arrive at {end.nic}")

    def _judge_carriers(self, when: str) -> None:
        for end, expected in self._expected.items():
            up, changes = self._lab.carrier(end)
            if changes != expected or not up:
                state = "up" if up else "down"
                self.fault(
                    f"{end.nic} {when}: {changes - expected:+d} carrier changes that were not ordered; it is {state}"
                )
                self._expected[end] = changes
        testpmd = self._lab.testpmd
        if testpmd is not None and not testpmd.link_up():
            self.fault(f"virtio-user {when}: its link is down")


def may_repeat(wire: Wire, killed: Counter[str]) -> bool:
    """Whether an answer may come twice: who moves packets and is killed before the driver is told that they were taken
    has its successor take them again, for otherwise they might be lost."""
    mover = "control" if wire.by_python else "wire"
    return killed[mover] + killed["both"] > 0


def ranges(numbers: Sequence[int]) -> str:
    """As 1-3, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, each)) for each in found)
