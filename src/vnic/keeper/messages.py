"""What a service tells its keeper (sd_notify(3)): one datagram of lines NAME=VALUE, with descriptors beside it.

Sans-IO; the supervisor receives the datagrams and checks who sent them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NAME_MAX: Final = 255
"""The longest name of a descriptor (sd_pid_notify_with_fds(3))."""

DEFAULT_NAME: Final = "stored"

UPGRADE: Final = "X_VNIC_UPGRADE"
"""vnic's own: the program to start in place of the sender; empty for the present one, which may have been replaced on
the disk. A name that begins with X_ is ignored by every keeper that does not know it."""


class Malformed(Exception):
    """A datagram that is refused as a whole; `str()` says why."""


class Message(NamedTuple):
    """One datagram's request. Everything else that it may say is ignored, as systemd does."""

    ready: bool = False
    watchdog: bool = False
    stopping: bool = False
    store: bool = False
    remove: bool = False
    name: str = DEFAULT_NAME
    """Of the descriptors that are stored or removed."""
    upgrade: str | None = None


def parse(data: bytes) -> Message:
    """Raises Malformed."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed("it is no text") from None
    said = dict(line.partition("=")[::2] for line in text.split("\n") if "=" in line)
    name = said.get("FDNAME", DEFAULT_NAME)
    if not is_name(name):
        raise Malformed(f"FDNAME={name[:40]!r} is no name of a descriptor")
    removes = said.get("FDSTOREREMOVE") == "1"
    if removes and "FDNAME" not in said:
        raise Malformed("FDSTOREREMOVE=1 without FDNAME=")
    return Message(
        ready=said.get("READY") == "1",
        watchdog=said.get("WATCHDOG") == "1",
        stopping=said.get("STOPPING") == "1",
        store=said.get("FDSTORE") == "1",
        remove=removes,
        name=name,
        upgrade=said.get(UPGRADE),
    )


def is_name(name: str) -> bool:
    """Whether LISTEN_FDNAMES can hold it: printable ASCII without a colon."""
    return 0 < len(name) <= NAME_MAX and all(" " <= char <= "~" and char != ":" for char in name)
