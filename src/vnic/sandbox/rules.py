"""Which files a sandboxed vnic needs, as rules of landlock. `cli.confine` calls it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from vnic.sandbox.landlock import DEVICE, READ, WRITE, Right, Rule
from vnic.sandbox.paths import Purpose, Use

_TO_READ: Final = ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/run/systemd/resolve")
"""Libraries, the resolver's files, and what the kernel says of processes and interfaces."""
_DEVICES: Final = ("/dev/null", "/dev/urandom", "/dev/net/tun", "/dev/vhost-net")


def rules(uses: Iterable[Use], files: Iterable[str], folders: Iterable[str]) -> Iterator[Rule]:
    """`uses`: what the options name. `files`: what vnic itself writes. `folders`: where it may write anything.

    A file can be made anew, and SQLite makes others beside it, so its folder is allowed.
    """
    for path in (*_TO_READ, *_of_python(), *_of_resolver()):
        yield Rule(path, READ)
    for path in (*_DEVICES, *_of_terminal()):
        yield Rule(path, DEVICE)
    for folder in folders:
        yield Rule(folder, WRITE)
    for use in uses:
        if use.purpose in (Purpose.SOCKET, Purpose.FILE):
            yield Rule(_folder(use.path), WRITE)
            if use.purpose is Purpose.FILE and os.path.exists(use.path):
                yield Rule(use.path, Right.WRITE_FILE | Right.TRUNCATE)  # a FIFO, or a device, is elsewhere
        elif use.purpose is Purpose.KEY:
            yield Rule(use.path, Right.READ_FILE)
    for file in files:
        yield Rule(_folder(file), WRITE)


def _folder(path: str) -> str:
    try:
        return os.path.dirname(os.path.realpath(path))
    except ValueError:  # a NUL byte, which its option refuses later
        return "/nowhere"


def _of_python() -> Iterator[str]:
    """Modules are imported when they are first needed."""
    yield from {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path)}


def _of_resolver() -> Iterator[str]:
    yield os.path.dirname(os.path.realpath("/etc/resolv.conf"))


def _of_terminal() -> Iterator[str]:
    """That of a monitor on stdio, which opens it again."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            yield os.ttyname(fd)
