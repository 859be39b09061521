"""The chardevs of a machine: named addresses for monitors, vhost-user back-ends and filters (QEMU's -chardev).

The command line, the monitor and the machine call it. A chardev with `server=on` listens as long as it exists. Its user
claims it, and opens the socket of any other.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from msgspec import structs

from vnic.chardev.options import ChardevOptions, NullOptions, SocketOptions, StdioOptions
from vnic.chardev.qapi import ChardevInfo, QapiChardev
from vnic.keep import NO_KEEP, NO_KEPT, Keep
from vnic.net.errors import NetError
from vnic.net.names import check_identifier
from vnic.record import Record, RecordError
from vnic.sockets.address import FdAddress, UnixAddress, address_of
from vnic.sockets.listener import Listening, ListeningHandles, ListeningRecord
from vnic.sockets.passed import stream_socket_from_fd


class ChardevRecord(Record, frozen=True):
    """What a chardev has open."""

    listening: ListeningRecord | None


class ChardevFds(NamedTuple):
    """The descriptors of a chardev."""

    listening: ListeningHandles | None
    passed: int | None


NO_FDS: Final = ChardevFds(None, None)


class Chardev:
    """One named address; `user` names its user, "" while it has none."""

    def __init__(
        self,
        options: ChardevOptions,
        listener: Listening | None = None,
        passed: socket.socket | None = None,
    ) -> None:
        self.label = options.id
        self.kept = NO_KEPT
        """Its place among what outlives the process, if it has sockets."""
        self.options = options
        self.listener = listener
        self.item = NO_KEPT
        """Its options, among what outlives the process."""
        self.passed = passed
        """The socket that `fd=` named, if it is not listened on. Its users take duplicates, and close it when the
        connection ends."""
        self.user = ""
        self.listened_to = False
        """Whether the user reads what the peer sends (`frontend-open`)."""
        self.connected = False
        """Whether a peer is connected; the user sets it."""
        self._ends: tuple[tuple[str, int], tuple[str, int]] | None = None
        """The two ends of a TCP connection: ours, the peer's."""
        self._unix_name: str | None = None
        """The name of our end of a UNIX connection, empty if it has none."""

    def save_kept(self) -> tuple[ChardevRecord, ChardevFds]:
        """What it has open."""
        listener, passed = self.listener, self.passed
        record = ChardevRecord(listening=None if listener is None else listener.save())
        fds = ChardevFds(
            None if listener is None else listener.handles, None if passed is None else passed.fileno()
        )
        return record, fds

    def claim(self, user: str, *, listens: bool = True) -> None:
        """Reserve the chardev for one user (chardev/char-fe.c: qemu_chr_fe_init, qemu_chr_fe_set_handlers)."""
        if self.user:
            raise NetError(f"chardev '{self.label}' is already in use")
        self.user = user
        self.listened_to = listens

    def set_connected(self, sock: socket.socket | None) -> None:
        """Record the peer's socket, or None when it has disconnected."""
        self.connected = sock is not None
        self._ends = self._unix_name = None
        if sock is None:
            return
        with contextlib.suppress(OSError):  # the peer may have disconnected already
            if sock.family == socket.AF_UNIX:
                self._unix_name = os.fsdecode(sock.getsockname()).partition("\0")[0]
            else:
                self._ends = sock.getsockname()[:2], sock.getpeername()[:2]

    @property
    def monitor_options(self) -> SocketOptions | StdioOptions:
        """The options of a monitor, which duplicates the passed socket."""
        assert not isinstance(self.options, NullOptions)
        if self.passed is None or isinstance(self.options, StdioOptions):
            return self.options
        return structs.replace(self.options, addr=FdAddress(text=str(self.passed.fileno())))

    def close(self) -> None:
        """Stop listening."""
        if self.listener is not None:
            self.listener.close()
        self.close_passed()
        self.kept.end()

    def close_passed(self) -> None:
        """Close the passed socket, if there is one; the user does not need it any more."""
        if self.passed is not None:
            self.passed.close()
            self.passed = None
            self.kept.handles_changed()

    def release(self) -> None:
        self.user = ""
        self.listened_to = False
        self.set_connected(None)

    @property
    def filename(self) -> str:
        """The name in query-chardev (chardev/char-socket.c: qemu_chr_socket_address, qemu_chr_compute_filename)."""
        if not isinstance(self.options, SocketOptions):
            return "stdio" if isinstance(self.options, StdioOptions) else "null"
        options = self.options
        server = ",server=on" if options.server else ""
        if self._ends is not None:
            ours, theirs = (
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._ends
            )
            return f"tcp:{ours}{server} <-> {theirs}"
        if self._unix_name is not None and isinstance(options.addr, FdAddress):
            return f"unix:{self._unix_name}{server}"
        if self.listener is not None and not isinstance(options.addr, UnixAddress):
            # The port that the kernel chose, or the address that a passed socket is bound to.
            sock = self.listener.socket
            options = structs.replace(options, addr=address_of(sock.family, sock.getsockname()))
        return options.filename if self.connected else f"disconnected:{options.filename}"


def _key(label: str) -> str:
    return f"chardev/{label}"


def _taken_up(record: ChardevRecord, fds: ChardevFds) -> tuple[Listening | None, socket.socket | None]:
    """Raises RecordError."""
    if fds == NO_FDS:
        return None, None
    from vnic.sockets.take_up import TakeUp  # imported late, as above

    with TakeUp(fds) as taking:
        return taking.listening(record.listening, fds.listening), taking.socket(fds.passed)


class Chardevs:
    """The chardevs of a machine, by label."""

    def __init__(self, take_socket: Callable[[str], int] | None = None, keep: Keep = NO_KEEP) -> None:
        """`take_socket`: see FdTable. `keep`: what outlives the process."""
        self._keep = keep
        self._by_label: dict[str, Chardev] = {}
        self._take_socket = take_socket

    def __iter__(self) -> Iterator[Chardev]:
        return iter(self._by_label.values())

    def add(self, options: ChardevOptions, *, listens: bool = False) -> Chardev:
        """Add a -chardev. `listens`: with `server=on` it opens its socket at once; otherwise its user, a monitor,
        does."""
        check_identifier(options.id)
        self._check_free(options.id)
        self._check(options)
        return self._made(options, listens)

    def add_qapi(self, label: str, backend: QapiChardev) -> Chardev:
        """chardev-add, which takes any label (chardev/char.c: qmp_chardev_add)."""
        self._check_free(label)
        options = backend.options(label)
        try:
            self._check(options)
            return self._made(options, listens=True)
        except NetError as error:
            raise NetError(f"Failed to add chardev '{label}': {error.desc}") from None

    def _check_free(self, label: str) -> None:
        if label in self._by_label:
            raise NetError(f"Chardev with id '{label}' already exists")

    def _check(self, options: ChardevOptions) -> None:
        if isinstance(options, SocketOptions):
            options.check()
        if isinstance(options, StdioOptions) and any(isinstance(each.options, StdioOptions) for each in self):
            raise NetError("cannot use stdio by multiple character devices")

    def _made(self, options: ChardevOptions, listens: bool) -> Chardev:
        listener = passed = None
        if (
            isinstance(options, SocketOptions)
            and isinstance(options.addr, FdAddress)
            and self._take_socket is not None
        ):
            passed = stream_socket_from_fd(self._take_socket(options.addr.text))
        if listens:
            from vnic.chardev.socket import listener_of  # imported late: a start without chardevs is faster

            listener = listener_of(options, passed)
            if listener is not None:
                passed = None
        return self._enter(Chardev(options, listener, passed))

    def _enter(self, chardev: Chardev) -> Chardev:
        self._by_label[chardev.label] = chardev
        if isinstance(chardev.options, SocketOptions):
            chardev.kept = self._keep.unit(_key(chardev.label), chardev)
        return chardev

    def restore(self, options: ChardevOptions, *, listens: bool) -> Chardev:
        """Make one again that the process before had, with what it had open. If there is no valid record of that, it is
        made as by `add`. Raises NetError."""
        key = _key(options.id)
        found = self._keep.inherited(key, ChardevRecord, ChardevFds)
        if found is None:
            return self._made(options, listens)
        record, fds = found
        try:
            return self._enter(Chardev(options, *_taken_up(record, fds)))
        except RecordError as error:
            self._keep.refused(key, error)
            return self._made(options, listens)

    def __contains__(self, label: str) -> bool:
        return label in self._by_label

    def find(self, label: str) -> Chardev:
        """Find the chardev that -mon or -netdev names; NetError in QEMU's words for them."""
        if label not in self._by_label:
            raise NetError(f'chardev "{label}" not found')
        return self._by_label[label]

    def remove(self, label: str) -> None:
        """chardev-remove (chardev/char.c: qmp_chardev_remove)."""
        if label not in self._by_label:
            raise NetError(f"Chardev '{label}' not found")
        if self._by_label[label].user:
            raise NetError(f"Chardev '{label}' is busy")
        chardev = self._by_label.pop(label)
        chardev.close()
        chardev.item.end()

    def close(self) -> None:
        """Stop listening (qemu_chr_cleanup)."""
        for each in self:
            each.close()

    def info(self) -> list[ChardevInfo]:
        """query-chardev."""
        return [ChardevInfo(each.label, each.filename, each.listened_to) for each in self]
