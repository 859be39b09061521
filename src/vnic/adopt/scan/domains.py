"""The domains that the libvirts of this host know. `find` calls `domains` here.

Only libvirts that run already are asked: a connection to another would start one.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from vnic.adopt.domain.library import LibraryMissing, load, message, state_word
from vnic.threads import thread_beside

ANSWER_S = 5.0
"""The time that a libvirt has for its answer."""
SYSTEM = "qemu:///system"
SESSION = "qemu:///session"
SOCKETS = ("libvirt-sock", "virtqemud-sock")
"""Those of the monolithic daemon and of the one for QEMU alone."""


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """One domain."""

    name: str
    uuid: str
    uri: str
    state: str


Answers: TypeAlias = "queue.Queue[tuple[str, list[Domain] | str]]"


def local_uris(environ: Mapping[str, str] = os.environ, run: Path = Path("/run")) -> list[str]:
    """The URIs of the libvirts that listen on this host, for this user, and the one that the environment names."""
    found = []
    if any((run / "libvirt" / name).is_socket() for name in SOCKETS):
        found.append(SYSTEM)
    runtime = environ.get("XDG_RUNTIME_DIR")
    if os.getuid() and runtime and any(Path(runtime, "libvirt", name).is_socket() for name in SOCKETS):
        found.append(SESSION)
    default = environ.get("LIBVIRT_DEFAULT_URI")
    if default and default not in found:
        found.append(default)
    return found


def domains(uris: Sequence[str]) -> tuple[list[Domain], list[str]]:
    """All domains of these libvirts, and what went wrong, a sentence each. It takes at most ANSWER_S."""
    if not uris:
        return [], []
    try:
        load()
    except LibraryMissing as missing:
        return [], [f"the domains of {', '.join(uris)} are not listed: {missing}"]
    answers: Answers = queue.Queue()
    for uri in dict.fromkeys(uris):
        thread_beside(f"vnic-libvirt {uri}", partial(_answer, uri, answers)).start()
    found: list[Domain] = []
    problems: list[str] = []
    waiting = list(dict.fromkeys(uris))
    while waiting:
        try:
            uri, answer = answers.get(timeout=ANSWER_S)
        except queue.Empty:
            problems += [f"{uri} does not answer" for uri in waiting]
            break
        waiting.remove(uri)
        if isinstance(answer, str):
            problems.append(f"{uri}: {answer}")
        else:
            found += answer
    found.sort(key=lambda domain: (uris.index(domain.uri), domain.name))
    return found, problems


def _answer(uri: str, answers: Answers) -> None:
    answers.put((uri, _ask(uri)))


def _ask(uri: str) -> list[Domain] | str:
    """The domains, or why they cannot be had."""
    libvirt = load().libvirt
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            return [
                Domain(name=each.name(), uuid=each.UUIDString(), uri=uri, state=state_word(each.state()[0]))
                for each in connection.listAllDomains()
            ]
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        return message(error)
