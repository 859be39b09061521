"""Faults of a link's state: `slow-up`, a link that comes up late; `dampened`, one that is held after too many flaps.

`Network` has one `Faults`; QMP's link-fault uses it. A fault goes on without its client, and ends with its NIC or
netdev. Faults of frames (one-way, dead, black-hole) are objects netem (`filter.fault`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec

from vnic.keep import NO_HANDLES, NO_KEPT, NoHandles
from vnic.net import impaired
from vnic.net.client import NetClient, Surroundings, clients_of_wire
from vnic.net.clock import Timer
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.fault_info import (
    PENALTY,
    DampenedSettings,
    FaultInfo,
    FaultShape,
    SlowUpSettings,
    seconds_text,
)
from vnic.net.follow import Follower, Reason
from vnic.net.link import Links
from vnic.net.records import SOFT, HoldKind, LinkImpairment
from vnic.record import Record, RecordError, left_us, require

MAX_FAULTS: Final = 4096
THOUSAND: Final = 1000

Age = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]


class FaultHost(Surroundings, Protocol):
    """The part of Network that faults use."""

    @property
    def links(self) -> Links: ...

    def find_all(self, name: str) -> list[NetClient]: ...


class SlowUpRecord(Record, frozen=True):
    """The state of a SlowUp."""

    name: str
    by: str
    settings: SlowUpSettings
    waits: bool
    left_us: Age | None
    """Until it comes up; None: something else holds it."""

    def check_fields(self) -> None:
        require(self.waits or self.left_us is None, "left_us", "is of a link that does not wait")


class DampenedRecord(Record, frozen=True):
    """The state of a Dampened."""

    name: str
    by: str
    settings: DampenedSettings
    up: bool
    downs: Age
    penalty: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    """In thousandths, when the link went down last."""
    age_us: Age
    """The time since then."""
    suppressed: bool

    def check_fields(self) -> None:
        try:
            self.settings.check()
        except NetError as error:
            raise RecordError("settings", error.desc) from None
        high = self.penalty > self.settings.reuse * THOUSAND
        require(high or not self.suppressed, "penalty", "is too low for a link that is held")


class FaultsRecord(Record, frozen=True):
    """The state of Faults."""

    slow_up: list[SlowUpRecord]
    dampened: list[DampenedRecord]

    def check_fields(self) -> None:
        for field, records in (("slow_up", self.slow_up), ("dampened", self.dampened)):
            names = [each.name for each in records]
            require(len(set(names)) == len(names), field, "has a name twice")
            require(len(names) <= MAX_FAULTS, field, f"has more than {MAX_FAULTS}")


class LinkFault(Follower):
    """A fault that holds its client's end of the wire. It follows that wire's other holds."""

    shape: FaultShape

    def __init__(self, faults: Faults, host: FaultHost, client: NetClient, by: str) -> None:
        self.client = client
        self.by = by
        self._faults = faults
        self._host = host
        self._timer: Timer | None = None
        self._due = 0.0

    @property
    def id(self) -> str:
        return f"{self.client.name}-{self.shape}"

    @property
    def follower_name(self) -> str:
        return self.id

    def client_gone(self, client: NetClient) -> None:
        self._faults.remove(self)

    @property
    def others_hold(self) -> bool:
        """Whether the wire is held by something that is no such fault, nor follows from one."""
        ends = clients_of_wire(self.client)
        return any(hold.first_kind not in SOFT for end in ends for hold in end.holds.values())

    def begin(self) -> None:
        """Follow the wire."""
        self._host.links.followers.set(self, self.client, [self.client])

    def stop(self) -> None:
        """Follow it no more; the hold stays."""
        self.cancel()
        self._host.links.followers.remove(self)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def run_at(self, due: float) -> None:
        """Decide anew at that time."""
        if self._timer is not None:
            if self._due == due:
                return
            self._timer.cancel()
        self._due = due
        delay = max(0.0, due - self._host.scheduler.time())
        self._timer = self._host.scheduler.call_later(delay, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._faults.kept.changed()
        self.expired()
        self._host.links.follow(self)

    def left_ms(self) -> int | None:
        """Until its timer."""
        if self._timer is None:
            return None
        return max(0, round((self._due - self._host.scheduler.time()) * 1000))

    def expired(self) -> None:
        """The timer has run; `decide` follows."""


class SlowUp(LinkFault):
    """Holds the link for some time after nothing else does. It is a hold, too, while it waits for the end of others, so
    that the link does not come up in between."""

    kind = HoldKind.SLOW_UP
    shape = FaultShape.SLOW_UP

    def __init__(
        self, faults: Faults, host: FaultHost, client: NetClient, by: str, settings: SlowUpSettings
    ) -> None:
        super().__init__(faults, host, client, by)
        self.settings = settings
        self._waits = False
        """The link was down, and has not come up since."""

    def decide(self) -> Reason | None:
        self._faults.kept.changed()
        if self.others_hold:
            self._waits = True
            self.cancel()
            return Reason(self.id, f"it {self.text()}")
        if not self._waits:
            return None
        if self._timer is None:
            self.run_at(self._host.scheduler.time() + self.settings.delay_ms / 1000)
        return Reason(self.id, f"it is coming up, which takes {seconds_text(self.settings.delay_ms)}")

    def expired(self) -> None:
        self._waits = False

    def released_text(self) -> str:
        return f"it came up {seconds_text(self.settings.delay_ms)} late"

    def text(self) -> str:
        return self.settings.text()

    def info(self) -> FaultInfo:
        return FaultInfo(
            id=self.id,
            name=self.client.name,
            shape=self.shape,
            text=self.text(),
            by=self.by,
            delay_ms=self.settings.delay_ms,
            holds=self._waits,
            left_ms=self.left_ms(),
        )

    def save(self) -> SlowUpRecord:
        now = self._host.scheduler.time()
        return SlowUpRecord(
            name=self.client.name,
            by=self.by,
            settings=self.settings,
            waits=self._waits,
            left_us=None if self._timer is None else left_us(self._due, now),
        )

    def restore(self, record: SlowUpRecord, age_us: int) -> None:
        self._waits = record.waits
        if record.left_us is not None:
            self.run_at(self._host.scheduler.time() + (record.left_us - age_us) / 1e6)


class Dampened(LinkFault):
    """Holds the link while its penalty is high, as RFC 2439 has it for routes and routers' IP event dampening for
    interfaces: each time down adds to the penalty, which decays by half in each half-life."""

    kind = HoldKind.DAMPENED
    shape = FaultShape.DAMPENED

    def __init__(
        self, faults: Faults, host: FaultHost, client: NetClient, by: str, settings: DampenedSettings
    ) -> None:
        super().__init__(faults, host, client, by)
        self.settings = settings
        self._up = not self.others_hold
        self._downs = 0
        self._penalty = 0.0
        self._at = 0.0
        """When that was the penalty."""
        self._suppressed = False

    def penalty(self) -> float:
        """The present one."""
        age_ms = max(0.0, self._host.scheduler.time() - self._at) * 1000
        return float(self._penalty * 2 ** -(age_ms / self.settings.half_life_ms))

    def decide(self) -> Reason | None:
        self._faults.kept.changed()
        up = not self.others_hold
        if self._up and not up:
            # Rounded, so that it is the same after a restart.
            penalty = min(self.penalty() + PENALTY, self.settings.most)
            self._penalty = round(penalty * THOUSAND) / THOUSAND
            self._at = self._host.scheduler.time()
            self._downs += 1
            self._suppressed = self._suppressed or self._penalty > self.settings.suppress
        self._up = up
        if not self._suppressed:
            return None
        self.run_at(self._reuse_at())
        return Reason(self.id, f"it went down {self._downs} times; {self.text()}")

    def _reuse_at(self) -> float:
        """When the penalty has fallen to `reuse`."""
        half_lives = math.log2(self._penalty / self.settings.reuse)
        return self._at + half_lives * self.settings.half_life_ms / 1000

    def expired(self) -> None:
        self._suppressed = False

    def released_text(self) -> str:
        return f"its penalty is below {self.settings.reuse}"

    def text(self) -> str:
        return self.settings.text()

    def info(self) -> FaultInfo:
        settings = self.settings
        return FaultInfo(
            id=self.id,
            name=self.client.name,
            shape=self.shape,
            text=self.text(),
            by=self.by,
            half_life_ms=settings.half_life_ms,
            suppress=settings.suppress,
            reuse=settings.reuse,
            max_ms=settings.longest_ms,
            holds=self._suppressed,
            left_ms=self.left_ms(),
            penalty=round(self.penalty()),
            downs=self._downs,
        )

    def save(self) -> DampenedRecord:
        age = self._host.scheduler.time() - self._at if self._downs else 0.0
        return DampenedRecord(
            name=self.client.name,
            by=self.by,
            settings=self.settings,
            up=self._up,
            downs=self._downs,
            penalty=round(self._penalty * THOUSAND),
            age_us=left_us(age, 0.0),
            suppressed=self._suppressed,
        )

    def restore(self, record: DampenedRecord, age_us: int) -> None:
        self._up, self._downs = record.up, record.downs
        self._penalty = record.penalty / THOUSAND
        self._at = self._host.scheduler.time() - (record.age_us + age_us) / 1e6
        self._suppressed = record.suppressed
        if self._suppressed:
            self.run_at(self._reuse_at())


Settings: TypeAlias = SlowUpSettings | DampenedSettings


class Faults:
    """All faults of link states of a network: at most one of each shape for a name."""

    def __init__(self, host: FaultHost) -> None:
        self._host = host
        self._all: dict[tuple[str, FaultShape], SlowUp | Dampened] = {}
        self.kept = NO_KEPT
        """Its place among what outlives the process."""

    def start(self, name: str, settings: Settings, by: str) -> None:
        """Begin a fault; another of that shape and name ends. Raises DeviceNotFound, or NetError for settings that
        make no sense or too many faults."""
        found = self._host.find_all(name)
        if not found:
            raise DeviceNotFound(name)
        if isinstance(settings, DampenedSettings):
            settings.check()
        if len(self._all) >= MAX_FAULTS:
            raise NetError(f"there are {MAX_FAULTS} faults already")
        fault = self._make(found[0], settings, by)
        key = name, fault.shape
        before = self._all.get(key)
        if before is not None:
            self._end(before, by, "another one replaces it")
        self._all[key] = fault
        impaired.report(self._host, fault.client, "set", fault.id, by, f"{fault.shape}: {fault.text()}")
        fault.begin()
        self._host.links.follow(fault)

    def _make(self, client: NetClient, settings: Settings, by: str) -> SlowUp | Dampened:
        if isinstance(settings, SlowUpSettings):
            return SlowUp(self, self._host, client, by, settings)
        return Dampened(self, self._host, client, by, settings)

    def clear(self, name: str, by: str, shape: FaultShape | None = None) -> bool:
        """End the faults of a name, or that of a shape. False: there is none."""
        found = [each for key, each in self._all.items() if key[0] == name and shape in (None, key[1])]
        for each in found:
            self._end(each, by, "cleared")
        return bool(found)

    def _end(self, fault: SlowUp | Dampened, by: str, why: str) -> None:
        self.remove(fault)
        impaired.report(self._host, fault.client, "cleared", fault.id, by, f"{fault.shape} {why}")
        self._host.links.release(fault.client, fault.kind, by, f"fault {fault.id} {why}")

    def remove(self, fault: LinkFault) -> None:
        """Its client is gone, or it is cleared."""
        self._all.pop((fault.client.name, fault.shape), None)
        self.kept.changed()
        fault.stop()

    def close(self) -> None:
        """The network is about to end."""
        for each in list(self._all.values()):
            self.remove(each)

    def query(self, name: str | None = None) -> Iterator[FaultInfo]:
        return (each.info() for key, each in self._all.items() if name in (None, key[0]))

    def of(self, client: NetClient) -> list[LinkImpairment]:
        """Those of a client, for query-links."""
        found = (self._all.get((client.name, each)) for each in (FaultShape.SLOW_UP, FaultShape.DAMPENED))
        return [
            LinkImpairment(each.id, each.text())
            for each in found
            if each is not None and each.client is client
        ]

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> FaultsRecord:
        faults = self._all.values()
        return FaultsRecord(
            slow_up=[each.save() for each in faults if isinstance(each, SlowUp)],
            dampened=[each.save() for each in faults if isinstance(each, Dampened)],
        )

    def save_kept(self) -> tuple[FaultsRecord, NoHandles]:
        """See Unit."""
        return self.save(), NO_HANDLES

    def restore(self, record: FaultsRecord, age_us: int = 0) -> None:
        """Go on with the rest of each time, `age_us` after it was saved. The clients exist, and their own records have
        the holds. Raises RecordError."""
        for at, each in enumerate(record.slow_up):
            require(self._host.find_all(each.name), f"slow_up[{at}].name", "is no NIC or netdev")
        for at, one in enumerate(record.dampened):
            require(self._host.find_all(one.name), f"dampened[{at}].name", "is no NIC or netdev")
        for each in record.slow_up:
            slow = SlowUp(self, self._host, self._host.find_all(each.name)[0], each.by, each.settings)
            self._all[each.name, slow.shape] = slow
            slow.restore(each, age_us)
            slow.begin()
        for one in record.dampened:
            damp = Dampened(self, self._host, self._host.find_all(one.name)[0], one.by, one.settings)
            self._all[one.name, damp.shape] = damp
            damp.restore(one, age_us)
            damp.begin()
