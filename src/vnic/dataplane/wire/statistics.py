"""The counters of all ports of vnic-wire, asked for page by page. `engine` has one Statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias

from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import ALL_PORTS, STATS_PORTS, GetStats, Reply
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.replies import PortStats, Stats
from vnic.net.client import NetClient

log = logging.getLogger("vnic.wire")

StatsDone: TypeAlias = Callable[[list[tuple[NetClient, PortStats]]], None]


class Statistics:
    """The questions under way."""

    def __init__(self, program: WireProgram, clients: Mapping[int, NetClient]) -> None:
        """`clients`: by port number, as they are at any time."""
        self._program = program
        self._clients = clients
        self._asked: list[StatsDone] = []

    def ask(self, done: StatsDone) -> None:
        """`done` gets the counters of the clients that are there by then. It is called at once if no program runs, and
        with none if it dies."""
        found: list[tuple[NetClient, PortStats]] = []
        if not self._program.running:
            done(found)
            return
        self._asked.append(done)
        first = 0

        def answered(reply: Reply) -> None:
            nonlocal first
            try:
                ports = Stats.parse(reply.data).ports if not reply.error else ()
            except MessageError as error:
                log.warning("statistics of vnic-wire: %s", error)
                ports = ()
            for each in ports:
                client = self._clients.get(each.port)
                if client is not None:
                    found.append((client, each))
            after = ports[-1].port + 1 if len(ports) == STATS_PORTS else 0
            if first < after < ALL_PORTS:  # a program that repeats a page would do so for ever
                first = after
                self._program.request(GetStats(ALL_PORTS, first), answered=answered)
            else:
                self._asked.remove(done)
                done(found)

        self._program.request(GetStats(), answered=answered)

    def program_gone(self) -> None:
        asked, self._asked = self._asked, []
        for done in asked:
            done([])
