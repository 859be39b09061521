"""The pcap files that vnic-wire writes at its ports. `engine` has one Dumps for each run of the program."""

from __future__ import annotations

from collections.abc import Sequence

from vnic.dataplane.wire.messages import Direction, Dump
from vnic.dataplane.wire.ports import Numbers
from vnic.dataplane.wire.process import WireProgram
from vnic.net.client import NetClient
from vnic.net.wire import DumpAt


class Dumps:
    """By client and number, the files that the program has."""

    def __init__(self, program: WireProgram) -> None:
        self._program = program
        self._at: dict[NetClient, dict[int, DumpAt]] = {}
        self._numbers = Numbers()

    def set(self, client: NetClient, port: int, wanted: Sequence[DumpAt]) -> None:
        """Have the program write these files, and no others, at the client's port."""
        present = self._at.setdefault(client, {})
        for number, dump in list(present.items()):
            if dump not in wanted:
                self._program.request(Dump(port, number))
                self._numbers.free(number)
                del present[number]
        for dump in wanted:
            if dump not in present.values():
                number = self._numbers.take()
                present[number] = dump
                direction = (Direction.TX if dump.inward else 0) | (Direction.RX if dump.outward else 0)
                request = Dump(port, number, dump.target.snaplen, Direction(direction))
                self._program.request(request, (dump.target.fileno(),))
        if not present:
            del self._at[client]

    def forget(self, client: NetClient) -> None:
        """The client's port is removed, and its files with it."""
        for number in self._at.pop(client, {}):
            self._numbers.free(number)

    def failed(self, number: int, reason: str) -> None:
        """The program could not write a file."""
        for dumps in self._at.values():
            if number in dumps:
                dumps[number].target.failed(reason)
                return
