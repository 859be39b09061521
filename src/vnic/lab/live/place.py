"""The folder of a running lab, `NAME.lab` beside its vnic's QMP socket, with its record, its sockets and its logs.

All of `live` uses it; `find` is how the verbs come to the lab that is meant.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vnic.cli.client import Refused
from vnic.lab.file.plan import Plan
from vnic.lab.file.types import Lab
from vnic.sockets import rundir

SUFFIX = ".lab"
_RECORD = "record"


class Record(msgspec.Struct):
    """What is known of a running lab. Not `complete`: it is being brought up, or that was broken off."""

    file: str
    lab: Lab
    plan: Plan
    vnic_pid: int = 0
    complete: bool = False


class Place:
    """The folder of the lab of a name; it need not exist."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    @property
    def qmp(self) -> Path:
        return self.folder.with_name(f"{self.name}{rundir.SOCKET_SUFFIX}")

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def control(self, node: str) -> Path:
        """The socket of the node's holder."""
        return self.folder / f"{node}.ctl"

    def guest_file(self, node: str) -> Path:
        """What the holder is to boot."""
        return self.folder / f"{node}.json"

    def guest_log(self, node: str) -> Path:
        return self.folder / f"{node}.log"

    def terminal(self, node: str) -> Path:
        """The socket of a QEMU guest's shell."""
        return self.folder / f"{node}.tty"

    def read(self) -> Record | None:
        try:
            return msgspec.json.decode((self.folder / _RECORD).read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise Refused(
                f"{self.folder / _RECORD}: {error}; `vnic lab down {self.name}` removes it"
            ) from None

    def write(self, record: Record) -> None:
        new = self.folder / f"{_RECORD}.new"
        new.write_bytes(msgspec.json.encode(record))
        new.replace(self.folder / _RECORD)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other `vnic lab up` or `down` changes this lab meanwhile; the folder exists."""
        while True:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Refused(f"another vnic lab changes '{self.name}' just now") from None
                try:
                    same = os.path.samestat(os.fstat(lock), self.folder.stat())
                except FileNotFoundError:
                    same = False
                if same:
                    yield
                    return
            finally:
                os.close(lock)  # else the folder was removed between our mkdir and our lock


def place_of(name: str) -> Place:
    return Place(name, rundir.own_folder() / f"{name}{SUFFIX}")


def running() -> list[Place]:
    """The labs of this user, also those whose vnic has ended."""
    found = []
    for folder in rundir.folders():
        if rundir.refusal(folder) is None:
            found += [
                Place(path.name.removesuffix(SUFFIX), path) for path in sorted(folder.glob(f"*{SUFFIX}"))
            ]
    return found


def find(which: str | None) -> Place:
    """The lab that is meant: by its name, by its file, or the only one."""
    labs = running()
    if which is None:
        if len(labs) == 1:
            return labs[0]
        names = ", ".join(place.name for place in labs)
        raise Refused(f"several labs are running, name one: {names}" if labs else "no lab is running")
    for place in labs:
        if place.name == which:
            return place
    if os.path.exists(which):
        from vnic.lab.file.load import load_file

        name = load_file(which)[0].name
        for place in labs:
            if place.name == name:
                return place
        raise Refused(f"lab '{name}' is not running")
    raise Refused(
        f"lab '{which}' is not running" + (f"; running: {', '.join(p.name for p in labs)}" if labs else "")
    )
