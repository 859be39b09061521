"""Which paths options name, and which of them a monitor's client may name with `-sandbox on`.

`uses` finds the paths in the tree of an option. The command line's are collected; after that a client may name sockets
only in folders where the command line has some, and only its files, keys and programs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from vnic.net.errors import NetError

Kind: TypeAlias = Literal["netdev", "device", "object", "chardev"]
Tree: TypeAlias = Mapping[str, Any]


class Purpose(Enum):
    """What is done with a path."""

    SOCKET = "socket"
    """A socket is made there, or connected to."""
    FILE = "file"
    """A file is written."""
    KEY = "key"
    """A file is read."""
    PROGRAM = "program"
    """It is run."""
    NAMESPACE = "namespace"
    """A child process enters it."""
    URI = "uri"
    """libvirt connects there, perhaps by a program that it starts."""
    ARGUMENTS = "arguments"
    """Words for a program, which may be paths."""


class Use(NamedTuple):
    """A path in an option."""

    purpose: Purpose
    parameter: str
    path: str


PASST: Final = "passt"
"""The program of passt and user netdevs without `path=`."""
BRIDGE_HELPER: Final = "qemu-bridge-helper"
"""That of bridge netdevs without `helper=`, wherever it is."""


def uses(kind: Kind, tree: Tree) -> Iterator[Use]:
    """The paths that an option of that kind names, and the programs that it needs. `tree` may be one that is wrong in
    other ways."""
    match kind:
        case "netdev":
            yield from _of_netdev(tree)
        case "device":
            attach = tree.get("attach")
            path = attach.get("path") if isinstance(attach, Mapping) else tree.get("attach.path")
            yield from _named(Purpose.SOCKET, "attach.path", path)
        case "object":
            if tree.get("qom-type") == "filter-dump":
                yield from _named(Purpose.FILE, "file", tree.get("file"))
            elif tree.get("qom-type") == "qemu":
                for key in ("qmp", "qga"):
                    yield from _named(Purpose.SOCKET, key, tree.get(key))
            elif tree.get("qom-type") == "libvirt":
                yield from _named(Purpose.URI, "uri", tree.get("uri"))
        case "chardev":
            if not _is_on(tree.get("abstract")):
                yield from _named(Purpose.SOCKET, "path", tree.get("path"))
            yield from _of_address("addr", tree.get("addr"))  # QMP's form


def _of_netdev(tree: Tree) -> Iterator[Use]:
    for key in ("addr", "local", "remote"):
        yield from _of_address(key, tree.get(key))
    match tree.get("type"):
        case "passt":
            yield Use(Purpose.PROGRAM, "path", str(tree.get("path") or PASST))
            if tree.get("param"):
                yield Use(Purpose.ARGUMENTS, "param", "")
        case "user":
            yield Use(Purpose.PROGRAM, "type", PASST)
        case "tap":
            for key in ("script", "downscript"):
                if tree.get(key) not in (None, "", "no"):
                    yield from _named(Purpose.PROGRAM, key, tree.get(key))
        case "bridge":
            yield Use(Purpose.PROGRAM, "helper", str(tree.get("helper") or BRIDGE_HELPER))
        case "interface":
            yield from _named(Purpose.NAMESPACE, "netns", tree.get("netns"))
        case "tunnel":
            yield from _named(Purpose.KEY, "key-file", tree.get("key-file"))


def _of_address(key: str, address: object) -> Iterator[Use]:
    """A SocketAddress."""
    if isinstance(address, Mapping) and address.get("type") == "unix" and not _is_on(address.get("abstract")):
        yield from _named(Purpose.SOCKET, f"{key}.path", address.get("path"))


def _named(purpose: Purpose, parameter: str, path: object) -> Iterator[Use]:
    if isinstance(path, str) and path:
        yield Use(purpose, parameter, path)


def _is_on(value: object) -> bool:
    return value is True or value == "on"


class PathRule(Protocol):
    """What the monitors' commands ask before they create something."""

    def check(self, kind: Kind, options: msgspec.Struct | Tree) -> None:
        """Raises NetError for a path that this client may not name."""

    def check_program(self, path: str) -> None:
        """The same of a program that is to go on in the place of this one."""


class AnyPath:
    """Without `-sandbox on`: a client may name what vnic's user may use."""

    def check(self, kind: Kind, options: msgspec.Struct | Tree) -> None:
        """Everything is allowed."""

    def check_program(self, path: str) -> None:
        """Everything is allowed."""


class NamedPaths:
    """Those of the command line."""

    def __init__(self, named: Iterable[Use], folders: Sequence[str] = ()) -> None:
        """`folders`: those in which a client may name sockets and files, at any depth."""
        self._named = frozenset(named)
        self._below = tuple(map(os.path.realpath, folders))
        self._of_sockets = {_folder(use.path) for use in self._named if use.purpose is Purpose.SOCKET}

    def check(self, kind: Kind, options: msgspec.Struct | Tree) -> None:
        tree = msgspec.to_builtins(options) if isinstance(options, msgspec.Struct) else options
        for use in uses(kind, tree):
            if not self._allows(use):
                raise _refusal(use)

    def check_program(self, path: str) -> None:
        """The keeper would start it, outside of the sandbox."""
        raise NetError(
            f"-sandbox on: Parameter 'program': the command line names no program '{path}'."
            " Without it, what is installed in the place of this vnic goes on"
        )

    def _allows(self, use: Use) -> bool:
        if use.purpose is Purpose.SOCKET:
            # A socket replaces no file, so that a folder is enough: NICs that are added have theirs beside the others.
            return _folder(use.path) in self._of_sockets or self._is_below(_folder(use.path))
        if use.purpose in (Purpose.FILE, Purpose.KEY) and self._is_below(_folder(use.path)):
            return True
        # `param` has no path of its own: what it says is compared nowhere, so it is the command line's alone.
        return use.purpose is not Purpose.ARGUMENTS and any(
            each.purpose is use.purpose and each.path == use.path for each in self._named
        )

    def _is_below(self, folder: str) -> bool:
        return any(folder == each or folder.startswith(f"{each.rstrip('/')}/") for each in self._below)


def _folder(path: str) -> str:
    """The folder where the file is in the end: the path may be a symbolic link, which open and connect follow."""
    try:
        return os.path.dirname(os.path.realpath(path))
    except ValueError:  # a NUL byte
        return "\0"


def _refusal(use: Use) -> NetError:
    match use.purpose:
        case Purpose.SOCKET:
            what = f"'{use.path}' is in no folder where the command line has a socket"
        case Purpose.ARGUMENTS:
            what = "arguments are for the command line alone"
        case Purpose.PROGRAM:
            what = f"the command line names no program '{use.path}'"
        case _:
            what = f"the command line does not name '{use.path}'"
    return NetError(f"-sandbox on: Parameter '{use.parameter}': {what}")
