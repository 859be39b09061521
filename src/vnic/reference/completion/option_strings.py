"""Completion of `vnic run`: its options, and `TYPE,key=value,…` of -netdev, -device, -object and -chardev.

Types, keys and values come from the texts that `-netdev TYPE,help` prints, which are made from the options' Structs.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import Final

from vnic.backend import NETDEVS
from vnic.chardev.flat import FLAT_CHARDEVS
from vnic.cli.help import RUN_HELP, help_text
from vnic.cli.options import takes_argument
from vnic.cli.run_options import HelpTopic
from vnic.filter import OBJECTS
from vnic.machine.nics import DEVICES
from vnic.net.errors import NetError
from vnic.reference.completion.candidates import FILES, NONE, Candidate, Candidates, of, prefixed

TYPES: Final[dict[str, Callable[[], list[Candidate]]]] = {
    "netdev": lambda: [Candidate(name, entry.desc) for name, entry in NETDEVS.items()],
    "device": lambda: [Candidate(name, entry.desc) for name, entry in DEVICES.items()],
    "object": lambda: [Candidate(name, entry.desc) for name, entry in OBJECTS.items()],
    "chardev": lambda: [Candidate(name) for name in FLAT_CHARDEVS],
}
VALUES: Final = {
    "datapath": ("auto", "auto,workers=", "auto,spin=", "python"),
    "journal": ("none", "max-count=", "max-age="),
    "sandbox": ("on", "on,spawn=deny", "on,elevateprivileges=deny", "on,folder=", "on,landlock=required"),
    "monitor-policy": ("readonly", "links", "full"),
    "qmp": ("unix:", "tcp:", "telnet:", "stdio", "none"),
    "qmp-pretty": ("unix:", "tcp:", "telnet:", "stdio", "none"),
    "monitor": ("unix:", "tcp:", "telnet:", "stdio", "none"),
    "mon": ("chardev=",),
    "nic": ("none",),
    "net": ("none",),
    "run-with": ("user=",),
    "guest-memory": ("max=", "total="),
    "metrics": ("127.0.0.1:", "unix:"),
    "web": ("127.0.0.1:", "0.0.0.0:"),
}
"""Beginnings of the arguments of other options."""
FILE_OPTIONS: Final = ("D", "pidfile")
REFERENCES: Final = {
    "netdev": "netdev",
    "chardev": "chardev",
    "outdev": "chardev",
    "indev": "chardev",
    "nic": "device",
}
"""Keys whose value is the id of what another option made."""
PATH_KEYS: Final = ("path", "file", "script", "downscript", "helper", "key-file", "qmp", "qga")
_OPTION_LINE: Final = re.compile(r"^  (?:@FILE|(--?[A-Za-z-]+(?:, --?[A-Za-z-]+)*))(.*)$")
_KEY_LINE: Final = re.compile(r"^  (\S+)=<(.*?)>\s*(.*)$")


def run_words(before: Sequence[str], prefix: str) -> Candidates:
    """What may come behind `before`, the words behind `vnic run`."""
    option = before[-1].lstrip("-") if before and before[-1].startswith("-") else None
    if option is None or not takes_argument(option):
        if prefix.startswith("@"):
            return Candidates(_files("@", prefix[1:]), open_end=True)
        return Candidates(run_options())
    if option in TYPES:
        return option_string(option, prefix, before)
    if option in FILE_OPTIONS:
        return FILES
    return _open(of(VALUES.get(option, ())))


def _open(found: Candidates) -> Candidates:
    """Without a space after it where all go on."""
    found.open_end = bool(found.words) and all(each.word[-1] in "=:" for each in found.words)
    return found


def run_options() -> list[Candidate]:
    """All of them, with the beginning of their help."""
    found: list[Candidate] = []
    for line in RUN_HELP.splitlines():
        if (match := _OPTION_LINE.match(line)) is not None and match[1] is not None:
            names = match[1].split(", ")
            text = match[2].strip().split("  ")[-1].strip()
            found += [Candidate(name, text) for name in names]
    return found


def option_string(option: str, prefix: str, before: Sequence[str] = ()) -> Candidates:
    """`TYPE,key=value` up to the cursor: the types, the keys that are not given yet, or the values of a key."""
    if prefix.startswith("{"):
        return NONE
    done, comma, part = prefix.rpartition(",")
    if not comma:
        return Candidates([*TYPES[option](), Candidate("help", "list the types")], open_end=False)
    type_name = done.split(",", 1)[0]
    keys = _keys(option, type_name)
    key, equals, value = part.partition("=")
    if equals:
        return Candidates(prefixed(f"{done},{key}=", _values(keys.get(key, ("", ""))[0], key, value, before)))
    given = {each.partition("=")[0] for each in done.split(",")[1:]}
    words = [Candidate(f"{name}=", text) for name, (_, text) in keys.items() if name not in given]
    return Candidates(prefixed(f"{done},", [*words, Candidate("help", "list the keys")]), open_end=True)


def _keys(option: str, type_name: str) -> dict[str, tuple[str, str]]:
    """The kind and the text of each key of a type."""
    try:
        text = help_text(HelpTopic(option, type_name))
    except NetError:
        return {}
    return {match[1]: (match[2], match[3]) for match in map(_KEY_LINE.match, text.splitlines()) if match}


def _values(kind: str, key: str, value: str, before: Sequence[str]) -> list[Candidate]:
    if kind == "bool":
        return [Candidate("on"), Candidate("off")]
    if "|" in kind:
        return [Candidate(each) for each in kind.split("|")]
    name = key.rpartition(".")[2]
    if name in REFERENCES:
        return [Candidate(each) for each in _ids(REFERENCES[name], before)]
    return _files("", value) if name in PATH_KEYS else []


def _ids(option: str, before: Sequence[str]) -> list[str]:
    """The ids that options of that kind on the command line have."""
    given = [after for each, after in itertools.pairwise(before) if each.lstrip("-") == option]
    return [match[1] for text in given if (match := re.search(r"(?:^|,)id=([^,]+)", text))]


def _files(lead: str, prefix: str) -> list[Candidate]:
    """Files and folders; here the shell cannot find them itself."""
    folder, name = os.path.split(prefix)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda each: each.name)
    except OSError:
        return []
    return [
        Candidate(lead + os.path.join(folder, each.name) + ("/" if each.is_dir() else ""))
        for each in entries
        if each.name.startswith(name) and (name or not each.name.startswith("."))
    ]
