"""vnic-probe in one guest: put there over its console, started, its log read, ended. `run` has two of them."""

from __future__ import annotations

import base64
import gzip
import shlex
from typing import Final

from vnic.cli.client import Refused
from vnic.dataplane.wire.build import PROBE
from vnic.lab.live import wire
from vnic.lab.live.place import Place
from vnic.lab.rehearse.log import BadLog, ProbeLog

NAME: Final = "vnic-probe-"
"""What the names of its files begin with."""
LEASE_S: Final = 60
"""The program ends when its log was not read for so long."""
COMMAND_TIMEOUT_S: Final = 60.0
"""Another command may run in the guest meanwhile."""
_END_OTHERS: Final = f"""
for name in $(grep -ls ^{NAME} /proc/[0-9]*/comm); do
    pid=${{name#/proc/}}; kill -s KILL ${{pid%/comm}}
done 2>/dev/null
rm -f /tmp/{NAME}*"""
"""Ends the programs of a rehearsal that was killed: they have the port, and send."""


def program() -> bytes:
    """vnic-probe. Refused if it was not built."""
    try:
        return PROBE.read_bytes()
    except OSError:
        raise Refused(
            "vnic-probe, which sends the probes, is not here: `make wire` builds it, with a C compiler"
        ) from None


class Probe:
    """Not started at first. Its methods block."""

    def __init__(self, place: Place, node: str, name: str) -> None:
        """`name` is that of the files in the guest."""
        self._control = place.control(node)
        self._node = node
        self._file = shlex.quote(f"/tmp/{name}")
        self._pid = 0
        self.log = ProbeLog()

    def ask(self, command: str) -> str:
        """Run a command in the guest. Refused if it fails."""
        output = bytearray()
        status = wire.run(self._control, command, output.extend, timeout=COMMAND_TIMEOUT_S)
        text = output.decode(errors="replace")
        if status:
            raise Refused(f"node '{self._node}': {text.strip() or f'a command ended with status {status}'}")
        return text

    def start(self, interval_us: int, own: bytes, far: bytes, own_address: bytes, far_address: bytes) -> None:
        self.ask(_END_OTHERS)
        packed = base64.b64encode(gzip.compress(program(), mtime=0)).decode()
        words = [
            str(interval_us),
            str(LEASE_S),
            *(each.hex() for each in (own, far, own_address, far_address)),
        ]
        self.ask(f"echo {packed} | base64 -d | gunzip >{self._file} && chmod 700 {self._file}")
        # A signal that is ignored from the start does not end it before it takes signals.
        run = f"{self._file} {' '.join(words)} >{self._file}.log </dev/null 2>&1 & echo $!"
        pid = self.ask(f"trap '' USR1; {run}")
        self._pid = int(pid)

    def read(self) -> None:
        """Take what is new in the log. Refused if the program has ended."""
        command = f"kill -s USR1 {self._pid} 2>/dev/null || echo gone; tail -c +{self.log.size + 1} {self._file}.log"
        text = self.ask(command)
        try:
            if text.startswith("gone"):
                raise BadLog(text.removeprefix("gone").strip() or "it ended at once")
            self.log.feed(text.encode())
        except BadLog as error:
            raise Refused(f"node '{self._node}': vnic-probe does not run: {error}") from None

    def stop(self) -> None:
        """End it, and remove its files."""
        if self._pid:
            self.ask(f"kill -s KILL {self._pid} 2>/dev/null; rm -f {self._file} {self._file}.log")
            self._pid = 0
