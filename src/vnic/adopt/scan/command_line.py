"""What a QEMU's command line says of its monitors and of its guest agent's channel. `processes` calls `read` here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from vnic.adopt.hypervisor import AGENT_PORT
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.protocol.qmp import ParseError, decode

LIBVIRT_MONITOR = "charmonitor"
"""The chardev of the monitor that libvirt gives each QEMU."""

_PROGRAM = re.compile(r"qemu-system-\w+|qemu-kvm|kvm")
_LEADING = 4
"""Words among which the program is: a loader or a wrapper may stand in front of it."""
_OPTIONS = ("name", "uuid", "qmp", "qmp-pretty", "mon", "chardev", "device")


class Chardev(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that QEMU listens on, by one of the three."""

    path: str | None = None
    fd: int | None = None
    tcp: str | None = None


class CommandLine(msgspec.Struct, kw_only=True):
    """What was found."""

    name: str | None = None
    uuid: str | None = None
    monitors: list[Chardev] = msgspec.field(default_factory=list)
    """Those that speak QMP."""
    agent: Chardev | None = None
    by_libvirt: bool = False


def is_qemu(words: Sequence[str]) -> bool:
    """Whether a command line is a system emulator's."""
    return any(_PROGRAM.fullmatch(os.path.basename(word)) for word in words[:_LEADING])


def read(words: Sequence[str]) -> CommandLine:
    """Parse a QEMU's command line. What cannot be parsed is left out: QEMU has accepted it, or it would not run."""
    found = CommandLine()
    chardevs: dict[str, Chardev] = {}
    control: list[str] = []
    agent: str | None = None
    for option, text in pairwise(words):
        name = option.removeprefix("-").removeprefix("-")
        if name == option or name not in _OPTIONS:
            continue
        tree = _tree(name, text)
        match name:
            case "name":
                found.name = _string(tree, "guest") or None
            case "uuid":
                found.uuid = text.lower()
            case "qmp" | "qmp-pretty":
                there = _legacy(text, tree)
                if there is not None:
                    found.monitors.append(there)
            case "mon":
                if _string(tree, "mode") == "control":
                    control.append(_string(tree, "chardev"))
            case "chardev":
                made = _chardev(tree)
                if made is not None:
                    chardevs[_string(tree, "id")] = made
            case "device":
                if _string(tree, "driver") == "virtserialport" and _string(tree, "name") == AGENT_PORT:
                    agent = _string(tree, "chardev")
    found.monitors += [chardevs[each] for each in control if each in chardevs]
    found.by_libvirt = LIBVIRT_MONITOR in control
    found.agent = None if agent is None else chardevs.get(agent)
    return found


_IMPLIED = {"name": "guest", "mon": "chardev", "chardev": "backend", "device": "driver"}


def _tree(option: str, text: str) -> keyval.Tree:
    """The parameters of an option; empty where they cannot be parsed."""
    if option == "uuid":
        return {}
    if option.startswith("qmp"):
        text = text.partition(",")[2]
    try:
        if text.startswith("{"):
            given = decode(text)
            return given if isinstance(given, dict) else {}
        return keyval.parse(text, _IMPLIED.get(option), short_booleans=True)[0]
    except (NetError, ParseError):
        return {}


def _string(tree: keyval.Tree, key: str) -> str:
    value = tree.get(key)
    return value if isinstance(value, str) else ""


def _is_on(tree: keyval.Tree, key: str) -> bool:
    """JSON has booleans."""
    value: object = tree.get(key)
    return value in (True, "on", "yes", "true")


def _legacy(text: str, tree: keyval.Tree) -> Chardev | None:
    """`-qmp unix:PATH,server=on`, or the id of a chardev that is no socket of QEMU's."""
    kind, _, rest = text.partition(":")
    address = rest.partition(",")[0]
    if not _is_on(tree, "server"):
        return None
    if kind == "unix":
        return Chardev(path=address)
    return Chardev(tcp=address) if kind in ("tcp", "telnet") else None


def _chardev(tree: keyval.Tree) -> Chardev | None:
    """None for one that does not listen."""
    if _string(tree, "backend") != "socket" or not _is_on(tree, "server"):
        return None
    if (fd := _string(tree, "fd")).isdecimal():
        return Chardev(fd=int(fd))
    if path := _string(tree, "path"):
        return None if _is_on(tree, "abstract") else Chardev(path=path)
    port = _string(tree, "port")
    return Chardev(tcp=f"{_string(tree, 'host')}:{port}") if port else None
