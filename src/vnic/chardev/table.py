"""Character devices: the named addresses that monitors and vhost-user back-ends speak over (QEMU's -chardev).

A Chardev is an address with a name. One with `server=on` listens as long as it exists; what is built on a chardev
claims it, and opens any other. `parse_flat` reads the command line's form; the Structs here are QAPI's form of the same
(chardev-add).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec

from vnic.monitor.interfaces import ChardevInfo
from vnic.monitor.schema import convert_to_shape
from vnic.monitor.schema.shapes import Union, base_members, object_of
from vnic.net.errors import NetError
from vnic.net.names import check_identifier
from vnic.sockets.monitor_address import SocketOptions, StdioOptions

if TYPE_CHECKING:
    from vnic.chardev.socket import ChardevListener


class NullOptions(msgspec.Struct, tag_field="backend", tag="null", kw_only=True):
    """`-chardev null`: nobody is ever there."""

    id: str


ChardevOptions: TypeAlias = SocketOptions | StdioOptions | NullOptions

FLAT_CHARDEVS: dict[str, type[msgspec.Struct]] = {
    "socket": SocketOptions,
    "stdio": StdioOptions,
    "null": NullOptions,
}
"""The back-ends of -chardev."""


def parse_flat(tree: dict[str, object]) -> ChardevOptions:
    """The options of a `-chardev` argument, with the errors of QEMU's chardev/char.c."""
    if not tree.get("id"):
        raise NetError("chardev: no id specified")
    if "backend" not in tree:
        raise NetError(f'chardev: "{tree["id"]}" missing backend')
    branches = {name: object_of(struct) for name, struct in FLAT_CHARDEVS.items()}
    shape = Union(
        "backend",
        branches,
        base_members(branches, ("id",)),
        unknown=lambda name: NetError(f"'{name}' is not a valid char driver name"),
        unexpected=lambda _backend, key: NetError(f"Invalid parameter '{key}'"),
    )
    return cast(ChardevOptions, convert_to_shape(shape, tree, strings=True))


# -- qapi/char.json -------------------------------------------------------------------------------------------------


class UnixAddress(msgspec.Struct):
    path: str
    abstract: bool = False
    tight: bool = True


class InetAddress(msgspec.Struct):
    host: str
    port: str
    ipv4: bool | None = None
    ipv6: bool | None = None


class FdAddress(msgspec.Struct):
    text: str = msgspec.field(name="str")


class UnixBranch(msgspec.Struct, tag_field="type", tag="unix"):
    """SocketAddressLegacy wraps each kind in `data`."""

    data: UnixAddress


class InetBranch(msgspec.Struct, tag_field="type", tag="inet"):
    data: InetAddress


class FdBranch(msgspec.Struct, tag_field="type", tag="fd"):
    data: FdAddress


class SocketChardev(msgspec.Struct, rename="kebab", kw_only=True):
    """ChardevSocket. `wait` is taken and has no effect: nothing in vnic waits for a peer to start."""

    addr: UnixBranch | InetBranch | FdBranch
    server: bool = True
    wait: bool = False
    nodelay: bool = False
    telnet: bool = False
    reconnect_ms: int = 0
    mode: str | None = None

    def flat(self, label: str) -> SocketOptions:
        options = SocketOptions(
            id=label,
            server=self.server,
            wait=self.wait,
            nodelay=self.nodelay,
            telnet=self.telnet,
            reconnect_ms=self.reconnect_ms,
            mode=self.mode,
        )
        match self.addr:
            case UnixBranch(data):
                options.path, options.abstract, options.tight = data.path, data.abstract, data.tight
            case InetBranch(data):
                options.host, options.port = data.host, data.port
                options.ipv4, options.ipv6 = data.ipv4, data.ipv6
            case FdBranch(data):
                options.fd = data.text
        return options


class StdioChardev(msgspec.Struct):
    """ChardevStdio."""

    signal: bool = True

    def flat(self, label: str) -> StdioOptions:
        return StdioOptions(id=label, signal=self.signal)


class NullChardev(msgspec.Struct):
    """ChardevCommon, of which nothing is built."""

    def flat(self, label: str) -> NullOptions:
        return NullOptions(id=label)


CHARDEVS: dict[str, type[msgspec.Struct]] = {
    "socket": SocketChardev,
    "stdio": StdioChardev,
    "null": NullChardev,
}
"""The back-ends of chardev-add."""

# -- the devices ----------------------------------------------------------------------------------------------------


class Chardev:
    """One named address; `user` is what is built on it, "" while nothing is."""

    def __init__(
        self,
        options: ChardevOptions,
        listener: ChardevListener | None = None,
        passed: socket.socket | None = None,
    ) -> None:
        self.label = options.id
        self.options = options
        self.listener = listener
        self.passed = passed
        """The socket that its `fd=` named."""
        self.user = ""
        self.listened_to = False
        """Whether the user takes what the peer says (`frontend-open`)."""
        self.connected = False
        """Whether a peer is there; told by the user."""
        self._ends: tuple[tuple[str, int], tuple[str, int]] | None = None
        """Of a TCP connection: ours, the peer's."""

    def claim(self, user: str, *, listens: bool = True) -> None:
        """Take it into use; one user at a time (chardev/char-fe.c: qemu_chr_fe_init, qemu_chr_fe_set_handlers)."""
        if self.user:
            raise NetError(f"chardev '{self.label}' is already in use")
        self.user = user
        self.listened_to = listens

    def set_connected(self, sock: socket.socket | None) -> None:
        """A peer is there, or none any more."""
        self.connected = sock is not None
        self._ends = None
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # it may be gone already
                self._ends = sock.getsockname()[:2], sock.getpeername()[:2]

    @property
    def monitor_options(self) -> SocketOptions | StdioOptions:
        """What a monitor, which duplicates the socket that was passed, is to open."""
        assert not isinstance(self.options, NullOptions)
        if self.passed is None or isinstance(self.options, StdioOptions):
            return self.options
        return msgspec.structs.replace(self.options, fd=str(self.passed.fileno()))

    def close(self) -> None:
        """Listen no more."""
        if self.listener is not None:
            self.listener.close()
        self.close_passed()

    def close_passed(self) -> None:
        """The user has a duplicate of the socket that was passed, or there is none."""
        if self.passed is not None:
            self.passed.close()
            self.passed = None

    def release(self) -> None:
        self.user = ""
        self.listened_to = False
        self.set_connected(None)

    @property
    def filename(self) -> str:
        """What query-chardev calls it (chardev/char-socket.c: qemu_chr_socket_address, qemu_chr_compute_filename)."""
        if not isinstance(self.options, SocketOptions):
            return "stdio" if isinstance(self.options, StdioOptions) else "null"
        options = self.options
        if self._ends is not None:
            ours, theirs = (
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self._ends
            )
            return f"tcp:{ours}{',server=on' if options.server else ''} <-> {theirs}"
        if self.listener is not None and (name := self.listener.inet_name) is not None:
            options = msgspec.structs.replace(options, host=name[0], port=str(name[1]))
        return options.filename if self.connected else f"disconnected:{options.filename}"


class Chardevs:
    """The chardevs of a machine, by label."""

    def __init__(self, take_socket: Callable[[str], int] | None = None) -> None:
        """`take_socket`: see FdTable."""
        self._by_label: dict[str, Chardev] = {}
        self._take_socket = take_socket

    def __iter__(self) -> Iterator[Chardev]:
        return iter(self._by_label.values())

    def add(self, options: ChardevOptions, *, listens: bool = False) -> Chardev:
        """-chardev. `listens`: one with `server=on` opens its socket at once; else its user, a monitor, does."""
        check_identifier(options.id)
        self._check_free(options.id)
        self._check(options)
        return self._made(options, listens)

    def add_qapi(self, label: str, backend: SocketChardev | StdioChardev | NullChardev) -> Chardev:
        """chardev-add, which takes any label (chardev/char.c: qmp_chardev_add)."""
        self._check_free(label)
        options = backend.flat(label)
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
        listener = None
        if listens:
            from vnic.chardev.socket import listener_of  # only here: a start without chardevs is the sooner

            listener = listener_of(options, options.id)
        passed = None
        if isinstance(options, SocketOptions) and options.fd is not None and self._take_socket is not None:
            passed = socket.socket(fileno=self._take_socket(options.fd))
        chardev = Chardev(options, listener, passed)
        self._by_label[options.id] = chardev
        return chardev

    def find(self, label: str) -> Chardev:
        """NetError in the words of -mon and -netdev, which name a chardev."""
        if label not in self._by_label:
            raise NetError(f'chardev "{label}" not found')
        return self._by_label[label]

    def remove(self, label: str) -> None:
        """chardev-remove (chardev/char.c: qmp_chardev_remove)."""
        if label not in self._by_label:
            raise NetError(f"Chardev '{label}' not found")
        if self._by_label[label].user:
            raise NetError(f"Chardev '{label}' is busy")
        self._by_label.pop(label).close()

    def close(self) -> None:
        """Listen no more (qemu_chr_cleanup)."""
        for each in self:
            each.close()

    def info(self) -> list[ChardevInfo]:
        """query-chardev."""
        return [ChardevInfo(each.label, each.filename, each.listened_to) for each in self]
