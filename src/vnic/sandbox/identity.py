"""`-run-with user=`: become that user before anything is opened, with the capabilities that the options need.

capabilities(7). Everything that vnic makes belongs to the user then, and can be removed and opened again. Capabilities
for the set-up are given up when it is done; those that an option needs later stay.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vnic.net.errors import NetError

_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT = 8, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_HEADER: Final = struct.Struct("Ii")
_DATA: Final = struct.Struct("6I")
"""Effective, permitted and inheritable, for capabilities 0 to 31, and again for 32 to 63."""
ID_MAX: Final = (1 << 32) - 2


class Capability(IntEnum):
    """Of linux/capability.h."""

    CAP_SETGID = 6
    CAP_SETUID = 7
    CAP_NET_BIND_SERVICE = 10
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_SYS_PTRACE = 19
    CAP_SYS_ADMIN = 21


_changed = False
"""Whether this process has become another user."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, and the groups that the process is in."""

    name: str
    """As the option has it."""
    uid: int
    gid: int
    home: str | None
    """None: this machine has no name for the user."""
    named: bool = False
    """The option has the name, so that the process is in all groups of the user, not in `gid` alone."""

    @classmethod
    def parse(cls, text: str) -> Identity:
        """`NAME` or `UID:GID`. Raises NetError."""
        uid, colon, gid = text.partition(":")
        if colon and _is_id(uid) and _is_id(gid):
            return cls(text, int(uid), int(gid), _home_of(int(uid)))
        try:
            found = pwd.getpwnam(text)
        except (KeyError, ValueError):
            raise NetError(f"User '{text}' doesn't exist (and is not <uid>:<gid>)") from None
        return cls(text, found.pw_uid, found.pw_gid, found.pw_dir, named=True)

    def become(self, capabilities: Iterable[Capability]) -> None:
        """Be that user, with these capabilities and no others. There may be one thread only. Raises NetError."""
        if (self.uid, self.gid) == (os.geteuid(), os.getegid()) and os.geteuid():
            return  # what it has is what it keeps
        libc = _libc()
        kept = frozenset(capabilities)
        try:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
            if self.named:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise NetError(f"Failed to become user '{self.name}': {error.strerror}") from None
        os.environ.pop("HOME", None)
        if self.home is not None:
            os.environ["HOME"] = self.home
        hold(kept)
        global _changed
        _changed = True


def _home_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= ID_MAX


def hold(capabilities: Iterable[Capability], *, ambient: bool = False) -> None:
    """Have these capabilities and no others, for good; those that this process lacks are left out. `ambient`: programs
    that it starts have them as well."""
    libc = _libc()
    kept = frozenset(capabilities)
    libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    wanted = sum(1 << capability for capability in kept) & _permitted()
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    inherited = (low, high) if ambient else (0, 0)
    header = _HEADER.pack(_CAPABILITY_VERSION_3, 0)
    data = _DATA.pack(low, low, inherited[0], high, high, inherited[1])
    if libc.capset(header, data):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if ambient:
        for capability in kept:
            libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, int(capability), 0, 0)


def hold_none_in_this_thread() -> None:
    """For threads that start during the set-up and stay: `hold` is for the thread that calls it. Without -run-with, it
    does nothing."""
    if _changed:
        hold(())


def _permitted() -> int:
    with contextlib.suppress(OSError, StopIteration, ValueError), open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("CapPrm:"))
        return int(line.split()[1], 16)
    return 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
