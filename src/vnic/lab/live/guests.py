"""Starts the holders of guests, some at a time, and tells which are up; `live.up` and `live.down` call it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from vnic.cli.client import Refused
from vnic.lab.file.plan import Guest
from vnic.lab.live import wire
from vnic.lab.live.holder import KEEP, Told
from vnic.lab.live.place import Place

AT_ONCE: Final = max(4, 2 * (os.cpu_count() or 1))
"""Guests that boot at the same time: more would only make each wait."""
_UCRED: Final = struct.Struct("3i")


class Holders:
    """The holders that this process started. Until `keep`, they end with it."""

    def __init__(self, place: Place, vnic_pid: int) -> None:
        self._place = place
        self._vnic_pid = vnic_pid
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def boot(self, guests: Iterable[Guest], tell: Callable[[str, Told], None]) -> None:
        """Boot them all, `tell` of each as it is up. Refused names those that did not come up."""
        waiting = list(guests)
        failed: dict[str, str] = {}
        with selectors.DefaultSelector() as selector:
            booting = 0
            while booting or (waiting and not failed):
                while waiting and booting < AT_ONCE and not failed:
                    guest = waiting.pop(0)
                    process = self._start(guest)
                    assert process.stdout is not None
                    selector.register(process.stdout, selectors.EVENT_READ, (guest.name, process))
                    booting += 1
                for key, _ in selector.select():
                    name, process = key.data
                    selector.unregister(key.fileobj)
                    booting -= 1
                    told = self._told(name, process)
                    if told.error:
                        failed[name] = told.error
                    else:
                        tell(name, told)
        if failed:
            raise Refused(
                "; ".join(f"node '{name}' did not come up: {text}" for name, text in failed.items())
            )

    def _start(self, guest: Guest) -> subprocess.Popen[bytes]:
        name = guest.name
        self._place.guest_file(name).write_bytes(msgspec.json.encode(guest))
        self._place.control(name).unlink(missing_ok=True)  # of one that was killed
        with self._place.guest_log(name).open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "vnic.lab.live.holder",
                    str(self._place.folder),
                    name,
                    str(self._vnic_pid),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for `vnic lab up`, which then ends them
            )
        self._running[name] = process
        return process

    def _told(self, name: str, process: subprocess.Popen[bytes]) -> Told:
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
        try:
            return msgspec.json.decode(line, type=Told)
        except msgspec.DecodeError:
            log = self._place.guest_log(name).read_text(errors="replace").strip().splitlines() or ["nothing"]
            return Told(error=f"its process ended; the last that it said: {log[-1]}")

    def keep(self) -> None:
        """From now on the guests do not depend on this process."""
        for process in self._running.values():
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.write(KEEP)
                process.stdin.close()
            process.returncode = 0 if process.returncode is None else process.returncode  # not waited for
        self._running.clear()

    def end(self) -> None:
        """End those that are not kept; returns when they are gone."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(wire.STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._running.clear()


def stop(place: Place, names: Iterable[str]) -> None:
    """End running guests, all at once; returns when they are gone."""
    names = list(names)
    if names:
        with ThreadPoolExecutor(min(len(names), 32)) as pool:
            list(pool.map(lambda name: _stop(place, name), names))


def _stop(place: Place, name: str) -> None:
    path = place.control(name)
    try:
        wire.stop(path)
    except Refused:  # it hangs
        if (pid := _listener(path)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for each in (path, place.guest_file(name), place.terminal(name)):
        each.unlink(missing_ok=True)


def _listener(path: os.PathLike[str]) -> int | None:
    """The process that listens on a socket (SO_PEERCRED, unix(7))."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
            return int(_UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0])
        except OSError:
            return None


def is_up(place: Place, name: str) -> wire.Answer | None:
    """What the holder says of the guest; None if it has ended."""
    try:
        stream, answer = wire.ask(place.control(name), wire.Request("status"))
    except wire.NoHolder:
        return None
    stream.close()
    return answer
