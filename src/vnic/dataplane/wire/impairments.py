"""The impairments of ports at vnic-wire. `engine` says which are wanted where; the state of their random numbers goes
along, to the program and back.

A fault that only loses frames is carried out together with an impairment of the same direction.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from vnic.dataplane.wire.impair_messages import (
    GetImpairment,
    Impair,
    ImpairDirection,
    Impairment,
    ImpairReply,
    ImpairState,
)
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import Reply
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.recall_messages import LinesDrop, LineTake
from vnic.dataplane.wire.records import LineRecord
from vnic.net.client import NetClient
from vnic.net.filters import Direction
from vnic.net.netem import tables
from vnic.net.netem.info import Counts
from vnic.net.netem.parameters import Parameters
from vnic.net.netem.random import RandomRecord
from vnic.net.netem.units import ALL
from vnic.net.wire import ImpairAt

log = logging.getLogger("vnic.wire")

COUNTERS = Counts.__struct_fields__


class Wanted:
    """What is done to one direction of a port: one impairment, and faults that only lose frames."""

    def __init__(self, here: Sequence[ImpairAt]) -> None:
        self.main = next((each for each in here if not each.parameters.is_gate), here[0])
        self.gates = [each for each in here if each is not self.main]
        self.all = [self.main, *self.gates]
        self.line = self.main.line
        self.generation = self.line.generation
        self.own = self.main.parameters
        self.parameters = folded(self.own, [each.parameters for each in self.gates])

    @property
    def _key(self) -> object:
        return self.line, self.generation, self.parameters, [each.line for each in self.gates]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wanted) and self._key == other._key

    __hash__ = None  # type: ignore[assignment]  # Python's word for a type that has no hash

    def credit(self, counters: dict[str, int], waiting: int) -> None:
        """Add what happened under it to the lines. What a fault lost is the fault's."""
        for counter, lost in (("lost", self.own.loss != ALL), ("too_long", not self.own.max_frame)):
            gate = next((each for each in self.gates if _counts(each.parameters, counter)), None)
            if gate is not None and lost:
                gate.line.credit(Counts(**{counter: counters.pop(counter)}))
        self.line.credit(Counts(**counters), waiting)


def _counts(parameters: Parameters, counter: str) -> bool:
    return bool(parameters.loss if counter == "lost" else parameters.max_frame)


class Carried:
    """One direction of a port that the program impairs."""

    def __init__(self, port: int, direction: ImpairDirection, wanted: Wanted) -> None:
        self.port = port
        self.direction = direction
        self.wanted = wanted
        self._seen = ImpairReply()

    @property
    def record(self) -> LineRecord:
        """For a control that is started again."""
        return LineRecord(
            direction=self.direction,
            lines=[
                (each.target.id, "rx" if each.direction is Direction.RX else "tx") for each in self.wanted.all
            ],
            seen=[getattr(self._seen, each) for each in COUNTERS],
        )

    def goes_on(self, reply: ImpairReply) -> None:
        """The program has this line from an earlier port, and what it counted by now is known."""
        self._seen = reply

    def credit(self, reply: ImpairReply, wanted: Wanted) -> None:
        """Add what happened since the reply before, under `wanted`."""
        counters = {each: getattr(reply, each) - getattr(self._seen, each) for each in COUNTERS}
        self._seen = reply
        wanted.credit(counters, reply.waiting)


class LeftLine(NamedTuple):
    """A line that the program has kept with the frames under way, of a port that is recalled."""

    of: int
    """The port's number."""
    wanted: Wanted
    reply: ImpairReply


class Impairments:
    """Those of all ports."""

    def __init__(
        self,
        program: WireProgram,
        changed: Callable[[NetClient], None],
        kept: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`changed` is called when `ready` may give another answer, `kept` when `records` does for a port."""
        self._kept = kept
        self._left: dict[tuple[NetClient, ImpairDirection], LeftLine] = {}
        self._program = program
        self._changed = changed
        self._at: dict[NetClient, dict[ImpairDirection, Carried]] = {}
        self._ending: list[Carried] = []
        """Those that the program was asked to end."""
        self._asked: list[Callable[[], object]] = []
        """Who waits for counters."""

    def records(self, client: NetClient) -> list[LineRecord]:
        """What the program impairs at the client's port, for a control that is started again."""
        return [each.record for each in self._at.get(client, {}).values()]

    def leave(self, client: NetClient, direction: ImpairDirection, left: LeftLine) -> None:
        """The client's next port may have this line."""
        self._left[client, direction] = left

    def drop_left(self) -> None:
        """No other port comes that may have a line that was left."""
        left, self._left = self._left, {}
        if left:
            self._program.request(LinesDrop(), answered=_check)
        for each in left.values():
            _lose(each)

    def present(self, client: NetClient) -> bool:
        """Whether the program impairs frames at the client's port."""
        return client in self._at

    def ready(self, wanted: Iterable[ImpairAt]) -> bool:
        """Whether the streams of all of these are here, or where they are to be."""
        ending = {each.wanted.line for each in self._ending}
        return ending.isdisjoint(each.line for each in wanted) if ending else True

    def set(self, client: NetClient, port: int, wanted: Sequence[ImpairAt]) -> None:
        """Have the program do these, and no others, at the port."""
        present = self._at.setdefault(client, {})
        any_before = bool(present)
        for direction in ImpairDirection:
            here = [each for each in wanted if each.inward is (direction is ImpairDirection.IN)]
            carried = present.get(direction)
            after = Wanted(here) if here else None
            if carried is not None and (after is None or after.line is not carried.wanted.line):
                self._end(client, carried)
                del present[direction]
                carried = None
            if after is None:
                continue
            if carried is None:
                carried = present[direction] = Carried(port, direction, after)
                self._begin(carried, take_state=self._take_left(client, carried))
            elif carried.wanted != after:
                self._ask(carried)
                take_state = carried.wanted.generation != after.generation
                carried.wanted = after
                self._begin(carried, take_state=take_state)
        if not present:
            del self._at[client]
        if present or any_before:
            self._kept(port)

    def _take_left(self, client: NetClient, carried: Carried) -> bool:
        """Let the port have the line that is left, if there is one."""
        left = self._left.pop((client, carried.direction), None)
        if left is None:
            return False
        if left.wanted.line is not carried.wanted.line:
            _lose(left)
            return False

        def answered(reply: Reply) -> None:
            found = _parsed(reply)
            if found is None:
                _lose(left)
            else:
                carried.goes_on(found)
                self._kept(carried.port)

        self._program.request(LineTake(carried.port, carried.direction, left.of), answered=answered)
        return True

    def _begin(self, carried: Carried, *, take_state: bool) -> None:
        state = carried.wanted.line.state
        request = Impair(
            carried.port,
            carried.direction,
            impairment(carried.wanted.parameters),
            ImpairState(state.random, tuple(state.last), state.counter),
            take_state,
        )
        self._program.request(request, answered=_check)

    def _ask(self, carried: Carried, done: Callable[[], object] = lambda: None) -> None:
        """Have what happened so far be credited."""
        wanted = carried.wanted

        def answered(reply: Reply) -> None:
            found = _parsed(reply)
            if found is not None:
                carried.credit(found, wanted)
                self._kept(carried.port)
            done()

        self._program.request(GetImpairment(carried.port, carried.direction), answered=answered)

    def _end(self, client: NetClient, carried: Carried) -> None:
        """Python goes on with the state that the program returns. Frames that come meanwhile wait for it."""
        wanted = carried.wanted
        wanted.line.pause()
        self._ending.append(carried)

        def answered(reply: Reply) -> None:
            self._ending.remove(carried)
            found = _parsed(reply)
            state = None
            if found is not None:
                carried.credit(found, wanted)
                wanted.main.target.lost(found.waiting)
                if wanted.generation == wanted.line.generation:
                    last = list(found.state.last)
                    state = RandomRecord(random=found.state.random, last=last, counter=found.state.counter)
            wanted.line.resume(state)
            self._changed(client)

        self._program.request(Impair(carried.port, carried.direction), answered=answered)

    def end(self, client: NetClient) -> None:
        """The client's port is about to be removed."""
        for carried in self._at.pop(client, {}).values():
            self._end(client, carried)

    def gone(self) -> None:
        """The program ended, and with it what was under way there, and the state of the random numbers."""
        left, self._left = self._left, {}
        for each in left.values():
            _lose(each)
        ended = [*self._ending, *(each for directions in self._at.values() for each in directions.values())]
        self._ending.clear()
        self._at.clear()
        for carried in ended:
            carried.wanted.line.resume(None)
        asked, self._asked = self._asked, []
        for done in asked:
            done()

    def count(self, done: Callable[[], object]) -> None:
        """Bring the counters of all lines up to date, then call `done`; at once if none is at the program."""
        waiting = [each for directions in self._at.values() for each in directions.values()]
        if not waiting:
            done()
            return
        self._asked.append(done)
        left = len(waiting)

        def counted() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._asked.remove(done)
                done()

        for carried in waiting:
            self._ask(carried, counted)


def _lose(left: LeftLine) -> None:
    """What was under way in the line is lost."""
    left.wanted.main.target.lost(left.reply.waiting)
    left.wanted.line.credit(Counts(), 0)


def folded(main: Parameters, gates: Sequence[Parameters]) -> Parameters:
    """The parameters of both: of an impairment, and of faults that lose all frames, or the long ones."""
    if not gates:
        return main
    holes = [each.max_frame for each in (main, *gates) if each.max_frame]
    changed = {"max_frame": min(holes, default=0)}
    if any(each.loss for each in gates):
        changed |= {"loss": ALL, "loss_correlation": 0}
    return msgspec.structs.replace(main, **changed)


def impairment(parameters: Parameters) -> Impairment:
    """The same for the program."""
    gap, reorder = parameters.reordering
    return Impairment(
        limit=parameters.limit,
        delay_ns=parameters.delay,
        jitter_ns=parameters.jitter,
        rate=parameters.rate,
        loss=parameters.loss,
        duplicate=parameters.duplicate,
        corrupt=parameters.corrupt,
        reorder=reorder,
        correlation=parameters.correlations,
        gap=gap,
        max_frame=parameters.max_frame,
        table=tuple(tables.table(parameters.distribution)),
    )


def _parsed(reply: Reply) -> ImpairReply | None:
    if not reply.error:
        try:
            return ImpairReply.parse(reply.data)
        except MessageError as error:
            log.error("vnic-wire: a reply about an impairment: %s", error)
    elif reply.error != errno.ENOENT:  # the port was lost, and its impairments with it
        _check(reply)
    return None


def _check(reply: Reply) -> None:
    """For requests that are only refused by a mistake of this program or the other."""
    if reply.error:
        log.error("vnic-wire refused an impairment: %s", reply.data.decode(errors="replace"))
