"""netem: delays, loses, duplicates, corrupts and reorders the frames of a netdev's wire, as tc-netem(8) does.

`registry` makes it, and `impair` for link-impair and link-fault. Here is the reference; vnic-wire does the same where
it moves the packets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal

import msgspec

from vnic.backend.base import BackendContext
from vnic.filter.options import NetemOptions
from vnic.keep import NO_HANDLES, NoHandles
from vnic.net import impaired
from vnic.net.client import NetClient
from vnic.net.filters import (
    KEPT_FRAMES_BYTES,
    Direction,
    Filter,
    FilterRecord,
    ImpairTarget,
    WireEnd,
)
from vnic.net.netem import parameters as netem
from vnic.net.netem.line import Line, LineRecord
from vnic.net.netem.parameters import NOTHING, PROPERTIES, Parameters
from vnic.net.netem.random import streams
from vnic.net.netem.units import refusal
from vnic.net.queue import Frame
from vnic.net.records import LinkImpairment
from vnic.record import U64, require

SEED_MAX: Final = (1 << 64) - 1
DIRECTION_TEXTS: Final = {
    Direction.ALL: "both directions",
    Direction.RX: "rx",
    Direction.TX: "tx",
}


class NetemFilterRecord(FilterRecord, frozen=True):
    """The state of a Netem; its parameters may have changed since it was made."""

    parameters: Parameters
    seed: U64
    rx: LineRecord | None
    tx: LineRecord | None
    fault: str


class Netem(Filter):
    """One object. `directions` has those that it impairs, each with a line of its own."""

    type = "netem"
    kept_type = NetemFilterRecord, NoHandles

    def __init__(self, context: BackendContext, options: NetemOptions, *, fault: str = "") -> None:
        """`fault`: the shape of the fault that it is, for link-fault."""
        super().__init__(options)
        self.keep = context.keep
        given = {name: getattr(options, name.replace("-", "_")) for name in PROPERTIES}
        self._parameters = netem.changed(
            NOTHING, {name: value for name, value in given.items() if value is not None}
        )
        self.options: NetemOptions = options
        self.fault = fault
        self.seed = int.from_bytes(os.urandom(4)) if options.seed is None else options.seed
        self._network = context.network
        self._lines: dict[Direction, Line] = {}
        self._make_lines()

    def _make_lines(self) -> None:
        states = dict(zip((Direction.RX, Direction.TX), streams(self.seed), strict=True))
        for direction in sorted(self.directions):
            self._lines[direction] = Line(
                self._network.scheduler,
                self._network.clock,
                self._parameters,
                states[direction],
                partial(self._release, direction),
                lambda: self.kept.changed(),
            )

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    @property
    def lines(self) -> Mapping[Direction, Line]:
        """By direction."""
        return self._lines

    # -- frames -------------------------------------------------------------------------------------------------

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        direction = Direction.TX if sender is self.netdev else Direction.RX
        self.kept.changed()
        return self._lines[direction].put(queue, frame, offload)

    def _release(self, direction: Direction, queue: int, frame: bytes, offload: bytes) -> None:
        self.kept.changed()
        sender = self.netdev if direction is Direction.TX else self.netdev.peer
        if sender is None:
            self.netdev.dropped += 1
            return
        self.pass_on(sender, queue, frame, offload)

    def _drop_all(self) -> None:
        self.netdev.dropped += sum(line.drop() for line in self._lines.values())

    def lost(self, frames: int) -> None:
        self.netdev.dropped += frames

    def status_changed(self) -> None:
        """As with tc's `qdisc del`, what is under way is lost."""
        if not self.on:
            self._drop_all()

    def cleanup(self) -> None:
        self._drop_all()

    def wire_refusal(self) -> str:
        return ""

    def impair_target(self) -> ImpairTarget:
        return self

    # -- properties ---------------------------------------------------------------------------------------------

    def own_properties(self) -> dict[str, object]:
        return {"seed": self.seed, **dict(reversed(netem.shown(self._parameters).items()))}

    def set_property(self, name: str, value: object, by: str) -> None:
        if name == "seed":
            if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 21:
                value = int(value)  # HMP has no numbers
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= SEED_MAX:
                raise refusal(name, f"a number from 0 to {SEED_MAX}", value)
            self.change({}, by, seed=value)
        elif name in PROPERTIES:
            self.change({name: value}, by)
        else:
            super().set_property(name, value, by)

    def change(self, given: Mapping[str, object], by: str, *, seed: int | None = None) -> None:
        """Change properties, by their names, while frames pass; a seed begins its streams. Raises NetError."""
        self._parameters = netem.changed(self._parameters, given)
        states: Mapping[Direction, Any] = {}
        if seed is not None:
            self.seed = seed
            states = dict(zip((Direction.RX, Direction.TX), streams(seed), strict=True))
        for direction, line in self._lines.items():
            line.set(self._parameters, states.get(direction))
        self.kept.changed()
        self._report("changed", by)
        self.netdev.path_changed()

    def narrow(self, direction: Direction, by: str) -> None:
        """Impair this direction only; what is under way in the other is lost."""
        self.options = msgspec.structs.replace(self.options, queue=direction)
        self.item.changed()
        for other in self.directions - {direction}:
            self.netdev.dropped += self._lines.pop(other).drop()
        self.directions = frozenset((direction,))
        self.kept.changed()
        self._report("changed", by)
        self.netdev.path_changed()

    # -- what others are told -----------------------------------------------------------------------------------

    def impairment(self) -> LinkImpairment | None:
        text = self._parameters.text()
        return LinkImpairment(self.id, text, self.options.queue.value) if text else None

    def added(self, by: str) -> None:
        self._report("set", by)

    def deleted(self, by: str) -> None:
        self._report("cleared", by)

    def _report(self, event: Literal["set", "changed", "cleared"], by: str) -> None:
        assert isinstance(self.netdev, NetClient)
        text = "impairments cleared" if event == "cleared" else self._parameters.text() or "no impairment"
        where = DIRECTION_TEXTS[self.options.queue]
        impaired.report(self._network, self.netdev, event, self.id, by, f"{text} ({where})")

    # -- state --------------------------------------------------------------------------------------------------

    def save(self) -> NetemFilterRecord:
        lines = {direction: line.save() for direction, line in self._lines.items()}
        return NetemFilterRecord(
            on=self.on,
            parameters=self._parameters,
            seed=self.seed,
            rx=lines.get(Direction.RX),
            tx=lines.get(Direction.TX),
            fault=self.fault,
        )

    def save_kept(self) -> tuple[NetemFilterRecord, NoHandles]:
        record = self.save()
        lines = [each for each in (record.rx, record.tx) if each is not None]
        if sum(len(frame.frame) for line in lines for frame in line.frames) > KEPT_FRAMES_BYTES:
            rx, tx = (
                None if each is None else msgspec.structs.replace(each, frames=[])
                for each in (record.rx, record.tx)
            )
            record = msgspec.structs.replace(record, rx=rx, tx=tx)
        return record, NO_HANDLES

    def restore(self, record: NetemFilterRecord, handles: None = None) -> None:
        """Go on with the parameters, the streams and the frames of the one that was saved. Called instead of `setup`.
        Raises RecordError."""
        records = {Direction.RX: record.rx, Direction.TX: record.tx}
        present = {direction for direction, each in records.items() if each is not None}
        require(present == self.directions, "rx", "and tx do not go with the directions")
        self.on = record.on
        self._parameters = record.parameters
        self.seed = record.seed
        self.fault = record.fault
        for direction, line in self._lines.items():
            line.set(record.parameters)
            saved = records[direction]
            assert saved is not None
            line.restore(saved)
