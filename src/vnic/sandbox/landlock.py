"""Landlock: from `confine` on, the kernel refuses this thread, and all that it starts, files outside of some folders.

landlock(7). It has to be called while there is one thread only. The system calls have the same numbers on all
processors. Not restricted: descriptors that are open, stat(2), and connect(2) to sockets at paths, which `paths`
refuses clients.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from enum import IntFlag
from typing import Final, NamedTuple

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_ONLY: Final = 1
_RULE_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class Right(IntFlag):
    """LANDLOCK_ACCESS_FS_… of linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_SINCE: Final = {Right.REFER: 2, Right.TRUNCATE: 3, Right.IOCTL_DEV: 5}
"""The version of landlock that has a right; the others are of the first."""
OF_FILES: Final = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
"""The rights that a rule for a file may have; the others are those of folders."""

READ: Final = Right.READ_FILE | Right.READ_DIR
WRITE: Final = (
    READ
    | Right.WRITE_FILE
    | Right.TRUNCATE
    | Right.REMOVE_FILE
    | Right.REMOVE_DIR
    | Right.MAKE_DIR
    | Right.MAKE_REG
    | Right.MAKE_SOCK
    | Right.REFER
)
DEVICE: Final = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV


class Rule(NamedTuple):
    """What is allowed beneath a folder, or of a file."""

    path: str
    rights: Right


def version() -> int:
    """The kernel's version of landlock; 0: it has none, or it is switched off."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION_ONLY)), 0)


def confine(rules: Iterable[Rule]) -> None:
    """Allow what the rules allow, and nothing else of what this kernel can refuse. A path that does not exist is left
    out. Raises OSError."""
    handled = Right(0)
    for right in Right:
        if _SINCE.get(right, 1) <= version():
            handled |= right
    attributes = struct.pack("Q", handled)
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: Rule, handled: Right) -> None:
    try:
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rule.rights & handled
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            rights &= OF_FILES
        if rights:
            beneath = struct.pack("=Qi", rights, fd)  # struct landlock_path_beneath_attr is packed
            _checked(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, beneath, 0))
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
