"""The process that holds one guest: it boots it, has its console, runs commands in it, and ends it.

`live.up` starts one for each guest. It ends, and the guest with it, when it is told to, when the guest ends, when the
lab's vnic ends, and when `vnic lab up` ends before it says that the whole lab is up.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from vnic.lab.file.plan import Guest
from vnic.lab.guest.errors import GuestError
from vnic.lab.live import boot
from vnic.lab.live.place import SUFFIX, Place
from vnic.lab.live.wire import ANSWER_TIMEOUT_S, LENGTH, Answer, Request, read_line, send_line

KEEP: Final = b"k"
"""What `vnic lab up` writes when the whole lab is up: from then on the guest does not depend on it."""
MAX_CLIENTS: Final = 16
_PIECE: Final = 1 << 16


class Told(msgspec.Struct, omit_defaults=True):
    """What the holder writes to `vnic lab up`, as a line of JSON: that the guest is up, or why not."""

    error: str = ""
    seconds: float = 0.0
    label: str = ""


def main(words: list[str]) -> int:
    """`FOLDER NODE VNIC_PID`; stdin and stdout are pipes of `vnic lab up`."""
    folder, node, vnic = Path(words[0]), words[1], int(words[2])
    keep, tell = os.dup(0), os.dup(1)  # their numbers become the guest's console
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place = Place(folder.name.removesuffix(SUFFIX), folder)
    started = time.monotonic()
    held = None
    try:
        _watch(keep, os.pidfd_open(vnic))
        guest = msgspec.json.decode(place.guest_file(node).read_bytes(), type=Guest)
        held = boot.make(guest, place)
        console = held.boot()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place.control(node)))
            listener.listen(MAX_CLIENTS)
            _write(tell, Told(seconds=time.monotonic() - started, label=held.label))
            os.close(tell)
            _Holder(held, console, listener).serve()
    except (GuestError, OSError) as error:
        with contextlib.suppress(OSError):
            _write(tell, Told(error=str(error)))
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if held is not None:
            held.close()
        place.control(node).unlink(missing_ok=True)
        place.terminal(node).unlink(missing_ok=True)
    return 0


def _ended(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _write(fd: int, told: Told) -> None:
    os.write(fd, msgspec.json.encode(told) + b"\n")


def _watch(keep: int, vnic: int) -> None:
    """Send ourselves SIGTERM when vnic ends, or `vnic lab up` does without having said KEEP."""

    def run() -> None:
        poll = select.poll()
        poll.register(keep, select.POLLIN)
        poll.register(vnic, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == keep and os.read(keep, 1) == KEEP:
                    poll.unregister(keep)
                    continue
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=run, daemon=True).start()


class _Holder:
    """The guest, its console, and who talks to them. A thread serves each client."""

    def __init__(self, held: boot.Held, console: int, listener: socket.socket) -> None:
        self._held = held
        self._console = console
        self._listener = listener
        self._viewers: list[socket.socket] = []
        self._lock = threading.Lock()
        self._clients = threading.Semaphore(MAX_CLIENTS)
        self._stop: list[socket.socket] = []
        """Kept open until the end, which their clients wait for."""
        self._wake = socket.socketpair()

    def serve(self) -> None:
        """Until the guest ends, or a client says so."""
        threading.Thread(target=self._show, daemon=True).start()
        guest = os.pidfd_open(self._held.pid)
        while True:
            ready, _, _ = select.select([self._listener.fileno(), guest, self._wake[0].fileno()], [], [])
            if ready != [self._listener.fileno()]:
                return
            stream, _ = self._listener.accept()
            if self._clients.acquire(blocking=False):
                threading.Thread(target=self._serve_one, args=(stream,), daemon=True).start()
            else:
                stream.close()

    def _serve_one(self, stream: socket.socket) -> None:
        try:
            stream.settimeout(ANSWER_TIMEOUT_S)
            request = msgspec.json.decode(read_line(stream), type=Request)
            if request.do == "stop":
                send_line(stream, Answer())
                self._stop.append(stream)
                self._wake[1].send(b"s")
                return
            with stream:
                self._answer(stream, request)
        except (OSError, msgspec.DecodeError):
            stream.close()
        finally:
            self._clients.release()

    def _answer(self, stream: socket.socket, request: Request) -> None:
        if request.do == "exec":
            self._run(stream, request.command)
        elif request.do == "console":
            send_line(stream, Answer())
            self._view(stream)
        else:
            send_line(stream, Answer(label=self._held.label, pid=self._held.pid))

    def _run(self, stream: socket.socket, command: str) -> None:
        guest = self._held.shell
        if guest is None:
            send_line(stream, Answer(error="it runs an image of yours: use its console"))
            return
        send_line(stream, Answer())
        stream.settimeout(None)

        def write(output: bytes) -> None:
            with contextlib.suppress(OSError):  # the client went away: the command ends by itself
                stream.sendall(LENGTH.pack(len(output)) + output)

        try:
            status = guest.follow(command, write)
        except GuestError as error:
            write(f"{error}\n".encode())
            status = 255
        stream.sendall(LENGTH.pack(0) + LENGTH.pack(status))

    # -- the console --------------------------------------------------------------------------------------------

    def _view(self, stream: socket.socket) -> None:
        """What the client types goes to the console, until it leaves."""
        stream.settimeout(None)
        with self._lock:
            self._viewers.append(stream)
        try:
            while data := stream.recv(_PIECE):
                while data:
                    data = data[os.write(self._console, data) :]
        finally:
            with self._lock:
                self._viewers.remove(stream)

    def _show(self) -> None:
        """What the console says goes to all clients; it is read also while there is none, for the guest not to wait."""
        while True:
            try:
                data = os.read(self._console, _PIECE)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                for stream in self._viewers:
                    try:
                        stream.send(data, socket.MSG_DONTWAIT)
                    except OSError:  # gone, or it does not read: it loses its place
                        with contextlib.suppress(OSError):
                            stream.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
