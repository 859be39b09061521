"""The client's half of systemd's notification protocol, sd_notify(3), and of its passing of descriptors,
sd_listen_fds(3).

The keeper is the other end: systemd, or the supervisor of `vnic run --keep`. It is trusted, so a message may wait for
it, but not for ever.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import socket
import time
from collections.abc import MutableMapping, Sequence
from typing import Final, NamedTuple

from vnic.keeper.variables import FIRST, NAMES_FD

PATIENCE_S: Final = 1.0
"""The longest time that a message waits for a keeper that does not read."""
FIRST_PASSED_FD: Final = 3
"""SD_LISTEN_FDS_START, which our supervisor may move."""
NAMES_BYTES_MAX: Final = 1 << 25
_VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
    FIRST,
    NAMES_FD,
)


class NotifyError(Exception):
    """The keeper cannot be reached, or does not read; the text says why."""


class Started(NamedTuple):
    """What the environment says of the keeper."""

    notifier: Notifier | None
    files: list[tuple[str, int]]
    """The names and numbers of the descriptors that were passed; they are the caller's."""
    watchdog_us: int | None
    """The keeper kills a process that it has not heard of for so long."""
    store_max: int | None
    """The most descriptors that the keeper stores; None: it did not say (systemd before 254)."""


def take_environment(environ: MutableMapping[str, str] = os.environ) -> Started:
    """Read the variables of the keeper and remove them: they are for this process and not for its children. All
    descriptors that were passed are closed on exec from here on."""
    values = {name: environ.pop(name, "") for name in _VARIABLES}
    address = values["NOTIFY_SOCKET"]
    notifier = Notifier(address) if address[:1] in ("/", "@") and len(address) > 1 else None
    files: list[tuple[str, int]] = []
    if _number(values["LISTEN_PID"]) == os.getpid():
        count = _number(values["LISTEN_FDS"]) or 0
        first = _number(values[FIRST]) or FIRST_PASSED_FD
        names = (values["LISTEN_FDNAMES"] or _read_and_close(_number(values[NAMES_FD]))).split(":")
        for at, fd in enumerate(range(first, first + count)):
            try:
                fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            except (OSError, OverflowError):
                break  # more were announced than passed
            files.append((names[at] if at < len(names) and names[at] else "unknown", fd))
    mine = values["WATCHDOG_PID"] in ("", str(os.getpid()))
    watchdog = _number(values["WATCHDOG_USEC"]) if mine else None
    return Started(notifier, files, watchdog or None, _number(values["FDSTORE"]))


def _read_and_close(fd: int | None) -> str:
    """The text of the file that the keeper passed; empty if there is none."""
    if fd is None:
        return ""
    try:
        text = os.pread(fd, NAMES_BYTES_MAX, 0)
        os.close(fd)
    except (OSError, OverflowError):
        return ""
    return text.decode("ascii", "replace")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class Notifier:
    """Sends messages to the keeper's socket."""

    def __init__(self, address: str) -> None:
        """`address` as in NOTIFY_SOCKET: a path, or an abstract name after "@"."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock: socket.socket | None = None

    def connect(self) -> None:
        """Open the socket, which else the first message does. Raises NotifyError."""
        try:
            self._connected()
        except OSError as error:
            raise NotifyError(error.strerror or str(error)) from None

    def send(self, *assignments: str, fds: Sequence[int] = (), patience_s: float | None = None) -> None:
        """Send one message, such as "READY=1". Waits up to `patience_s` for room, `PATIENCE_S` by default. Raises
        NotifyError."""
        data = "\n".join(assignments).encode()
        patience_s = PATIENCE_S if patience_s is None else patience_s
        end = time.monotonic() + patience_s
        while True:
            try:
                sock = self._connected()
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
                return
            except (BlockingIOError, InterruptedError):
                left = end - time.monotonic()
                if left <= 0:
                    since = f" for {patience_s:g} s" if patience_s else ""
                    raise NotifyError(f"it has read nothing{since}") from None
                poll = select.poll()
                poll.register(sock, select.POLLOUT)
                poll.poll(left * 1000)
            except OSError as error:
                self.close()
                raise NotifyError(error.strerror or str(error)) from None

    def ready(self) -> None:
        """The service has started. Raises NotifyError, as all these."""
        self.send("READY=1")

    def stopping(self) -> None:
        """The service ends, and shall not be started again."""
        self.send("STOPPING=1")

    def alive(self) -> None:
        """To be sent at least twice in each interval of the watchdog. It does not wait."""
        self.send("WATCHDOG=1", patience_s=0)

    def status(self, text: str) -> None:
        """One line for people, which `systemctl status` shows."""
        self.send("STATUS=" + text.replace("\n", " "))

    def main_pid(self, pid: int) -> None:
        """The service's process is another one from here on."""
        self.send(f"MAINPID={pid}")

    def store(self, name: str, fd: int) -> None:
        """The keeper keeps the open file under `name`, also when its peer hangs up."""
        self.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])

    def remove(self, name: str) -> None:
        """The keeper closes what it has under `name`."""
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def barrier(self) -> int:
        """The read end of a pipe, which is the caller's and ends when the keeper has done all that it was told before
        (sd_notify_barrier)."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.send("BARRIER=1", fds=[write])
        except NotifyError:
            os.close(read)
            raise
        finally:
            os.close(write)
        return read

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            sock.setblocking(False)
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
            self._sock = sock
        return self._sock


def wait_for_end(pipe: int) -> None:
    """Wait until a pipe of `Notifier.barrier` ends, up to `PATIENCE_S`, and close it."""
    poll = select.poll()
    poll.register(pipe, 0)
    poll.poll(PATIENCE_S * 1000)
    os.close(pipe)


async def has_ended(pipe: int) -> None:
    """As `wait_for_end`, while the loop runs."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pipe, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
    except TimeoutError:
        pass  # the keeper is slow: whoever waited finds out whether it matters
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)
