"""The wires of vnic-wire: which ports are joined. `engine` has one Members for each run of the program."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from vnic.dataplane.wire.messages import Reply, WireSet
from vnic.dataplane.wire.ports import LentPort, Numbers, ResidentPort
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.rings import RingPort
from vnic.net.client import NetClient

log = logging.getLogger("vnic.wire")

Port: TypeAlias = LentPort | RingPort | ResidentPort


class Members:
    """The members of each wire."""

    def __init__(self, program: WireProgram, ports: Mapping[NetClient, Port]) -> None:
        """`ports`: those of the engine, as they are at any time."""
        self._program = program
        self._ports = ports
        self._members: dict[int, dict[NetClient, None]] = {}
        """By wire number."""
        self._wire_of: dict[NetClient, int] = {}
        self._numbers = Numbers()

    def __contains__(self, client: NetClient) -> bool:
        """Whether it is in a wire."""
        return client in self._wire_of

    def join(self, clients: Sequence[NetClient]) -> None:
        """Make these, and no others, the members of one wire."""
        wanted = dict.fromkeys(clients)
        number = next((self._wire_of[client] for client in clients if client in self._wire_of), None)
        if number is not None and self._members[number] == wanted:
            return
        for client in clients:
            if self._wire_of.get(client, number) != number:
                self.leave(client)
        if number is None:
            number = self._numbers.take()
        for client in self._members.get(number, {}):
            if client not in wanted:
                del self._wire_of[client]
        self._members[number] = wanted
        self._wire_of.update(dict.fromkeys(clients, number))
        self._set_wire(number)

    def leave(self, client: NetClient, *, park: bool = False) -> None:
        """The client's port leaves its wire: the program moves it out, and one that is left alone sends nothing until
        it has a new wire. `park`: the port itself sends nothing, either."""
        number = self._wire_of.pop(client, None)
        if number is None:
            return
        members = self._members[number]
        del members[client]
        port = self._ports[client]
        if (
            not isinstance(port, ResidentPort)
            and (park or isinstance(port, RingPort))
            and self._program.running
        ):
            # In a wire of its own it sends nothing while its rings are on their way back.
            port.parked_in = self._numbers.take()
            self._program.request(WireSet(port.parked_in, (port.number,)), answered=_check)
        if not members or isinstance(port, ResidentPort):  # that one stays at the program
            self._set_wire(number)

    def unpark(self, number: int) -> None:
        """The port that was alone in this wire is removed."""
        self._program.request(WireSet(number, ()), answered=_check)
        self._numbers.free(number)

    def _set_wire(self, number: int) -> None:
        members = self._members[number]
        ports = tuple(self._ports[client].number for client in members)
        self._program.request(WireSet(number, ports), answered=_check)
        if not members:
            del self._members[number]
            self._numbers.free(number)


def _check(reply: Reply) -> None:
    """For requests that are only refused by a mistake of this program or the other."""
    if reply.error:
        log.error("vnic-wire refused a request: %s", reply.data.decode(errors="replace"))
