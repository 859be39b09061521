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
COMMAND_TIMEOUT_S: Final = 120.0
"""Another command may run in the guest meanwhile."""
GONE: Final = "gone\n"
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
    """Neither in its guest at first, nor started. Its methods block."""

    def __init__(self, place: Place, node: str, name: str) -> None:
        """`name` is that of the files in the guest."""
        self._control = place.control(node)
        self._node = node
        self._file = shlex.quote(f"/tmp/{name}")
        self._there = False
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

    def put(self) -> None:
        """Bring the program into the guest, which may take long: its lease begins with `start`."""
        packed = base64.b64encode(gzip.compress(program(), mtime=0)).decode()
        self.ask(_END_OTHERS)
        self.ask(f"echo {packed} | base64 -d | gunzip >{self._file} && chmod 700 {self._file}")
        self._there = True

    def start(self, interval_us: int, own: bytes, far: bytes, own_address: bytes, far_address: bytes) -> None:
        words = [
            str(interval_us),
            str(LEASE_S),
            *(each.hex() for each in (own, far, own_address, far_address)),
        ]
        # A signal that is ignored from the start does not end it before it takes signals.
        run = f"{self._file} {' '.join(words)} >{self._file}.log </dev/null 2>&1 & echo $!"
        pid = self.ask(f"trap '' USR1; {run}")
        self._pid = int(pid)

    def read(self) -> None:
        """Take what is new in the log. Refused if the program has ended."""
        alive = f"kill -s USR1 {self._pid} 2>/dev/null || echo {GONE.strip()}"
        command = f"{alive}; tail -c +{self.log.size + 1} {self._file}.log"
        text = self.ask(command)
        try:
            self.log.feed(text.removeprefix(GONE).encode())
            if text.startswith(GONE):
                raise BadLog("it has ended")
        except BadLog as error:
            raise Refused(f"node '{self._node}': vnic-probe does not run: {error}") from None

    def stop(self) -> None:
        """End it, and remove its files."""
        if self._there:
            end = f"kill -s KILL {self._pid} 2>/dev/null; " if self._pid else ""
            self.ask(f"{end}rm -f {self._file} {self._file}.log")
            self._there = False
