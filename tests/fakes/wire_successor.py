"""Controls that follow each other at one vnic-wire, each in a loop of its own, in the test's process.

A control is "killed" by never running its loop again; what it had open is closed at the end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.fakes.keeper import FakeKeeper
from tests.fakes.killed_control import plug
from tests.fakes.loops import fresh_loop
from tests.fakes.wire_lab import Guest, WireLab

from vnic.dataplane.wire.recall import Recall
from vnic.dataplane.wire.settle import settle
from vnic.net.wire import SEGMENTS_PER_TURN
from vnic.state.keep import StoredKeep


class KilledMeanwhile(Exception):
    """The control is killed at this place."""


class Controls:
    """The keeper, and the lab of the present control."""

    def __init__(self, stack: ExitStack, command: Sequence[str]) -> None:
        self._stack = stack
        self.command = list(command)
        self.keeper = FakeKeeper()
        self.labs: list[WireLab] = []
        self.keep: StoredKeep | None = None
        self.before_recall: Callable[[Recall], None] = lambda recall: None

    @property
    def lab(self) -> WireLab:
        return self.labs[-1]

    def start(self, build: Callable[[WireLab], None]) -> WireLab:
        """A control starts after the one before was killed; `build` restores what it had. KilledMeanwhile: it was."""
        loop = self._stack.enter_context(fresh_loop())
        schedule: Callable[[Callable[[], None]], asyncio.Handle] = loop.call_soon
        if self.keep is None:
            self.keep = self.keeper.start(schedule)
        else:
            self.keep = self.keeper.restart(self.keep, schedule)
        recall = Recall(self.keep)
        self.before_recall(recall)
        try:
            recall.run()
        except KilledMeanwhile:
            self._close(recall)
            raise
        before = {
            (each.record_type, each.name): each for lab in self.labs[-1:] for each in lab.network.clients
        }
        lab = WireLab(loop, self.command, keep=self.keep)
        self.labs.append(lab)
        lab.engine.program.restore(recall)
        build(lab)
        for each in lab.network.clients:  # as their records say
            if (each.record_type, each.name) in before:
                each.holds = dict(before[each.record_type, each.name].holds)
        goes_on = lab.engine.program.will_run
        settle(recall, lab.network.clients, lab.engine.impairments if goes_on else None)
        lab.engine.adopt()
        lab.network.wires.settle(SEGMENTS_PER_TURN)
        self.keep.settle()
        return lab

    def _close(self, recall: Recall) -> None:
        """As the kernel does; the channel goes on at the keeper."""
        if recall.runs:
            recall.take_sock().close()
            os.close(recall.take_pidfd())

    def guest_again(self, lab: WireLab, before: Guest, netdev: str | None) -> Guest:
        """The same guest at a new NIC."""
        before.driver.handed_over.clear()
        guest = Guest(
            lab, before.name, netdev, number=len(lab.guests) + 1, played=(before.memory, before.driver)
        )
        lab.guests.append(guest)
        plug(guest)
        return guest

    def close(self) -> None:
        last = self.labs[-1] if self.labs else None
        for lab in self.labs[:-1]:
            lab.guests.clear()
        if last is not None:
            last.close()
        for lab in self.labs[:-1]:
            lab.close()
        self.keeper.close()


@contextmanager
def controls(command: Sequence[str]) -> Iterator[Controls]:
    with ExitStack() as stack:
        made = Controls(stack, command)
        try:
            yield made
        finally:
            made.close()
