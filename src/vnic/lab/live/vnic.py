"""The `vnic run` of a lab: started in the background, told what to add and delete, and ended; `live` calls it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from vnic.cli.client import Entry, Refused, Session, session_at
from vnic.cli.web_option import pages
from vnic.lab.file.plan import Step
from vnic.lab.live.place import Place
from vnic.sockets.rundir import LOCK_SUFFIX, Claim, RunDirError

END_TIMEOUT_S: Final = 15.0
"""The keeper kills a vnic that does not end after 10 s."""
DELETE_TIMEOUT_S: Final = 10.0
SETTLE_TIMEOUT_S: Final = 10.0
_LOOK_S: Final = 0.02


def start(place: Place, options: Sequence[str], say: Callable[[str], None]) -> int:
    """Start it with its keeper, whose process id is returned: that lives as long as the lab does. `options` are for its
    pages, whose URLs are said. Refused with what it said if it does not come up."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vnic",
            "run",
            "--keep",
            "-name",
            place.name,
            "-daemonize",
            "-D",
            str(place.log),
            *options,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=True,  # a Ctrl-C is for us
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise Refused(f"vnic run did not start; the last that it said: {said[-1].removeprefix('vnic: ')}")
    for line in pages(done.stderr):
        say(line)
    return _keeper(place)


def alive(place: Place, pid: int) -> bool:
    """Whether the lab's vnic answers, and is the one that the lab started."""
    if not pid:
        return False
    try:
        return _keeper(place) == pid
    except Refused:
        return False


def _keeper(place: Place) -> int:
    """The process id of the keeper of the vnic that answers; without one, vnic's own."""
    said = asyncio.run(_execute(place, "query-vnic"))
    return int(said.get("keeper", {}).get("pid", said["pid"]))


def end(place: Place, pid: int) -> None:
    """End it in order, the hard way if it does not go; returns when it is gone. `pid` is 0 where its start was broken
    off: then it is the one that answers, if it is the lab's."""
    if not pid:
        with contextlib.suppress(Refused):
            pid = _keeper(place)
    process = _process(place, pid)
    if process is None:
        return
    try:
        try:
            asyncio.run(_execute(place, "quit"))
            ends = _wait(process)
        except Refused:  # it hangs, or is about to be started again
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ends = _wait(process)
        if not ends:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            _wait(process)
    finally:
        os.close(process)


def _process(place: Place, pid: int) -> int | None:
    """A descriptor of the process, if it is the vnic that logs into this lab's folder: ids are used again."""
    if not pid:
        return None
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    if os.fsencode(place.log) in words:
        return process
    os.close(process)
    return None


def remove_leftovers(place: Place) -> None:
    """Remove the files of a vnic of this name that was killed; those of a running one stay."""
    try:
        claim = Claim(place.name)
    except RunDirError:
        return
    place.qmp.unlink(missing_ok=True)
    place.qmp.with_name(f"{place.qmp.name}{LOCK_SUFFIX}").unlink(missing_ok=True)
    claim.release()


def _wait(process: int) -> bool:
    return bool(select.select([process], [], [], END_TIMEOUT_S)[0])


def execute(place: Place, steps: Sequence[Step], done: Callable[[Step], None]) -> None:
    """Run QMP commands in order; `done` is told of each."""
    if steps:
        asyncio.run(_steps(place, steps, done))


def links_of(place: Place, pid: int) -> dict[str, Entry] | None:
    """The links of the lab's vnic; None if it has ended, also just now."""
    if not alive(place, pid):
        return None
    try:
        return links(place)
    except Refused:
        if alive(place, pid):
            raise
        return None


def links(place: Place) -> dict[str, Entry]:
    """query-links by name."""
    return {str(link["name"]): link for link in asyncio.run(_execute(place, "query-links"))}


def wait_settled(place: Place, nics: Sequence[str], others: Sequence[str]) -> list[Entry]:
    """Wait, some seconds at most, until these NICs are up; those of them, and of the others, that are not."""
    return asyncio.run(_settled(place, nics, others))


def session_with(place: Place) -> contextlib.AbstractAsyncContextManager[Session]:
    """A QMP session with the lab's vnic."""
    return session_at(qmp=place.qmp)


async def _execute(place: Place, command: str) -> Any:
    async with session_with(place) as qmp:
        return await qmp.execute(command)


async def _steps(place: Place, steps: Sequence[Step], done: Callable[[Step], None]) -> None:
    async with session_with(place) as qmp:
        for step in steps:
            try:
                await qmp.execute_with(step.do, step.arguments)
            except Refused as refused:
                raise Refused(f"{step.name}: {refused}") from None
            if step.do == "device_del":
                await _gone(qmp, step.name)
            done(step)


async def _gone(qmp: Session, name: str) -> None:
    """Wait for a NIC's end: its id may be used again at once."""
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S):
            while (event := await qmp.next_event()) is not None:
                if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == name:
                    return
    except TimeoutError:
        raise Refused(f"{name}: it is not deleted after {DELETE_TIMEOUT_S:g} s") from None


async def _settled(place: Place, nics: Sequence[str], others: Sequence[str]) -> list[Entry]:
    until = time.monotonic() + SETTLE_TIMEOUT_S
    async with session_with(place) as qmp:
        while True:
            links = [link for link in await qmp.links() if link["link"] != "up"]
            down = [link for link in links if link["name"] in nics]
            if not down or time.monotonic() > until:
                return down + [link for link in links if link["name"] in others]
            await asyncio.sleep(_LOOK_S)
