"""A lab of its own: `vnic lab up` and `down` of a file or of a mapping with its keys, under a name that no other has.

The verbs run as processes, so that what they do to signals and terminals is theirs. A guard ends the lab if this
process dies before it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from vnic.api.guest import Guest
from vnic.api.instance import Vnic
from vnic.cli.client import Refused
from vnic.lab.file.load import load, load_file
from vnic.lab.file.problems import BadLab
from vnic.lab.file.types import GUESTS
from vnic.lab.file.types import Lab as LabFile
from vnic.lab.live.place import Place, place_of
from vnic.scratch import ScratchFolder
from vnic.sockets import rundir

_EMPTY: Final = {"nodes": {"hub": {"kind": "hub"}}}
"""A lab has a node; a hub to which nothing is plugged takes nothing."""
NAME_BYTES: Final = 24
"""Of the file's name, how much is kept in front of the process id: socket paths are short."""
_GUARD: Final = 'read -r _ || exec "$0" -m vnic lab down "$1"'
_numbers = count(1)
_log = logging.getLogger(__name__)


class Lab(Vnic):
    """A lab that is ended by the `async with` around it, and then by no other; `up` and `down` do it by hand."""

    def __init__(
        self, source: str | os.PathLike[str] | Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> None:
        """`source`: a lab file, or its content as a mapping; without it, a lab in which nothing is. `name`: of the lab
        and its vnic, as the verbs take it; by default the file's with the process id behind it."""
        text = _text(source)
        lab = _loaded(source, text)
        self.lab_name = name or f"{lab.name[:NAME_BYTES]}-{os.getpid()}-{next(_numbers)}"
        super().__init__(self.lab_name)
        self._source = source
        self._text = text
        self._nodes = tuple(node for node, keys in lab.nodes.items() if keys.kind in GUESTS)
        self._guard: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def up(self) -> None:
        """Start it; when it is up, boot again those guests that have ended. Refused if anything does not come up; then
        nothing of it stays."""
        if self._guard is None:
            if self._place.folder.exists() or self.lab_name in await asyncio.to_thread(rundir.running):
                raise Refused(
                    f"'{self.lab_name}' is running already: vnic.connect('{self.lab_name}') talks to it"
                )
            self._guard = _guard(self.lab_name)
        try:
            if isinstance(self._source, str | os.PathLike):
                await self._verb("up", "--name", self.lab_name, os.fspath(self._source))
            else:
                await self._up_of_text()
        except BaseException:
            if not self._place.folder.exists():
                self._end_guard()
            raise

    async def _up_of_text(self) -> None:
        scratch = ScratchFolder("vnic-lab-")
        try:
            file = scratch.path / "lab.yml"
            file.write_text(self._text)
            await self._verb("up", "--name", self.lab_name, str(file))
        finally:
            scratch.remove()

    async def down(self) -> None:
        """End its guests and its vnic. A lab that is not up is none to end."""
        await self.close()
        if self._guard is not None:
            if self._place.folder.exists():
                await self._verb("down", self.lab_name)
            self._end_guard()

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(b"\n")

    async def _verb(self, *words: str) -> None:
        """Run `vnic lab …`. Refused with what it says; cancelled, it is told to end and takes back what it did."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vnic", "lab", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for this program
        )
        talk = asyncio.ensure_future(process.communicate())
        try:
            out, err = await asyncio.shield(talk)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await talk
            raise
        for line in out.decode(errors="replace").splitlines():
            _log.info("%s", line)
        if process.returncode:
            said = err.decode(errors="replace").strip().removeprefix("vnic: ")
            raise Refused(said or f"vnic lab {words[0]} ended with status {process.returncode}")

    # -- what is in it ------------------------------------------------------------------------------------------

    @property
    def guest_names(self) -> tuple[str, ...]:
        """The nodes that are guests, in the order of the file."""
        return self._nodes

    def guest(self, name: str | None = None) -> Guest:
        """The guest of a node; without a name, the first. Refused if there is none."""
        if name is None and self._nodes:
            name = self._nodes[0]
        if name is None or name not in self._nodes:
            which = "no guest" if name is None else f"no guest '{name}'"
            raise Refused(f"lab '{self.lab_name}' has {which}; it has: {', '.join(self._nodes) or 'none'}")
        return Guest(self, name)

    def control(self, node: str) -> Path:
        """Where the holder of a node's guest listens."""
        return self._place.control(node)

    def socket(self, nic: str) -> Path:
        """Where a VM of yours plugs into the NIC of a `socket` node (`a.eth1`)."""
        return self._place.folder / f"{nic}.sock"

    @property
    def _place(self) -> Place:
        return place_of(self.lab_name)


def _text(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> str:
    """A mapping as the text of a lab file: JSON is YAML."""
    if isinstance(source, str | os.PathLike):
        return ""
    return msgspec.json.encode({"name": "lab", **(source or _EMPTY)}).decode()


def _loaded(source: str | os.PathLike[str] | Mapping[str, Any] | None, text: str) -> LabFile:
    """The checked lab. Refused with all that is wrong."""
    try:
        if isinstance(source, str | os.PathLike):
            return load_file(os.fspath(source))[0]
        return load(text)[0]
    except BadLab as bad:
        raise Refused(str(bad)) from None
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror or error}") from None


def _guard(name: str) -> subprocess.Popen[bytes]:
    """A process that outlives this one and then takes the lab down. Its input ends with us; a line ends it."""
    return subprocess.Popen(
        ["sh", "-c", _GUARD, sys.executable, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
