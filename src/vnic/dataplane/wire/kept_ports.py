"""Whose each port at vnic-wire is, kept for a control that is started again. `engine` has one KeptPorts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from vnic.dataplane.wire.members import Port
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.records import LineRecord, PortHandles, PortRecord
from vnic.keep import Keep, Kept
from vnic.net.client import NetClient

Lines: TypeAlias = Callable[[NetClient], list[LineRecord]]


class KeptPort:
    """One port, as a Unit."""

    def __init__(self, keep: Keep, key: str, port: Port, lines: Lines) -> None:
        self._port = port
        self._lines = lines
        self.kept: Kept = keep.unit(key, self)

    def save_kept(self) -> tuple[PortRecord, PortHandles]:
        port = self._port
        facts = port.facts
        record = PortRecord(
            number=port.number,
            kind=facts.kind,
            client=port.client.name,
            type=port.client.record_type,
            shared=facts.shared,
            lines=self._lines(port.client),
            told=facts.told,
        )
        return record, PortHandles(facts.memory)


class KeptPorts:
    """All ports that the program has, or is about to have."""

    def __init__(self, keep: Keep, program: WireProgram, lines: Lines) -> None:
        """`lines`: what is impaired at a client's port."""
        self._keep = keep
        self._program = program
        self._lines = lines
        self._units: dict[int, KeptPort] = {}
        """By port number."""

    def add(self, port: Port) -> None:
        if self._keep.active:
            key = f"wire/{self._program.life}/{port.number}"
            self._units[port.number] = KeptPort(self._keep, key, port, self._lines)

    def changed(self, number: int) -> None:
        unit = self._units.get(number)
        if unit is not None:
            unit.kept.changed()

    def end(self, number: int) -> None:
        """The program does not have this port any more, and its end goes on with what it left."""
        unit = self._units.pop(number, None)
        if unit is not None:
            unit.kept.end()

    def end_all(self) -> None:
        for number in list(self._units):
            self.end(number)

    def commit(self) -> None:
        """Save all that has changed before an end reads or writes anything."""
        self._keep.commit()
