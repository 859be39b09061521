"""The counters of all ports, page by page: from a program that answers as it should, and from one that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import pytest

from vnic.dataplane.wire.messages import ALL_PORTS, STATS_PORTS, GetStats, Reply
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.replies import PortStats, Stats
from vnic.dataplane.wire.statistics import Statistics
from vnic.net.client import NetClient


class Program:
    """Answers each request with the next of these pages of port numbers; with the last one again and again."""

    running = True

    def __init__(self, pages: Iterable[Iterable[int]]) -> None:
        self.pages = [Stats(tuple(PortStats(port) for port in page)).pack() for page in pages]
        self.asked: list[int] = []

    def request(self, request: GetStats, *, answered: Callable[[Reply], None]) -> None:
        self.asked.append(request.start)
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        answered(Reply(len(self.asked), 0, page))


def ask(program: Program) -> int:
    """How often the answer came."""
    answers: list[object] = []
    clients: dict[int, NetClient] = {}
    Statistics(cast(WireProgram, program), clients).ask(answers.append)
    return len(answers)


def test_pages_are_asked_for_until_one_is_not_full() -> None:
    program = Program([range(STATS_PORTS), range(STATS_PORTS, 2 * STATS_PORTS), [2 * STATS_PORTS]])
    assert ask(program) == 1
    assert program.asked == [0, STATS_PORTS, 2 * STATS_PORTS]


@pytest.mark.parametrize("last", [0, STATS_PORTS - 1, ALL_PORTS - 1, ALL_PORTS])
def test_program_that_repeats_a_page_is_not_asked_for_ever(last: int) -> None:
    program = Program([[*range(STATS_PORTS - 1), last]])
    assert ask(program) == 1
    assert len(program.asked) <= 2
