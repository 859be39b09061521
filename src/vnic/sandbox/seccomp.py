"""The seccomp filter of a sandboxed vnic: a list of the system calls that it may make, as a BPF program.

seccomp(2), linux/filter.h. A call that is not in the list fails with EPERM, and the kernel logs it (`audit:
type=1326`); the process goes on, so that a library that tries something new is no outage. Calls of another architecture
end the process. The program is written here, since libseccomp is not on every machine and its binding is not on PyPI.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

from vnic.sandbox.calls import ALLOWED, CHECKED, Number

_SYS_SECCOMP: Final = Number(317, 277)
_AUDIT_ARCH: Final = Number(0xC000003E, 0xC00000B7)
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC, _FLAG_LOG = 1, 2
_PR_SET_NO_NEW_PRIVS: Final = 38

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
"""SECCOMP_RET_…"""
_X32_BIT: Final = 0x40000000
_NEWEST: Final = 470
"""Calls beyond it came after this list: their caller is told that the kernel lacks them, and does without."""

# struct seccomp_data: number, architecture, instruction, and six arguments, of which the low halves are looked at.
_NR_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_JMP|JSET|K, BPF_ALU|AND|K, BPF_RET|K."""
_INSTRUCTION: Final = struct.Struct("HBBI")
"""struct sock_filter: code, jump if true, jump if false, operand."""
assert _INSTRUCTION.size == 8

_CLONE_THREAD: Final = 0x10000
_PROT_WRITE, _PROT_EXEC = 2, 4
_FAMILIES: Final = (1, 2, 10, 16, 17)
"""UNIX, INET, INET6, NETLINK, PACKET."""
_PRCTL: Final = (3, 15, 16, 21, 39, 0x53564D41)
"""PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, and PR_SET_VMA of the C library."""
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put words into the mouth of the user at the terminal."""


class Unsupported(Exception):
    """There is no such sandbox here; `str()` is the reason."""


class _Program:
    """Instructions, in order. All jumps are within one rule."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self.code = b""

    def add(self, code: int, operand: int, if_true: int = 0, if_false: int = 0) -> None:
        self.code += _INSTRUCTION.pack(code, if_true, if_false, operand)

    def number(self, number: Number) -> int | None:
        return number.x86_64 if self._machine == "x86_64" else number.aarch64

    def rule(self, number: Number, *body: tuple[int, int, int, int]) -> None:
        """For this call, the instructions of `body`, which end with a return."""
        nr = self.number(number)
        if nr is not None:
            self.add(_EQUAL, nr, 0, len(body))
            for code, operand, if_true, if_false in body:
                self.add(code, operand, if_true, if_false)


def _argument(n: int) -> tuple[int, int, int, int]:
    return (_LOAD, _ARGS_AT + 8 * n, 0, 0)


def _answer(action: int) -> tuple[int, int, int, int]:
    return (_RETURN, action, 0, 0)


_REFUSE: Final = ERRNO | errno.EPERM
_UNKNOWN: Final = ERRNO | errno.ENOSYS


def _one_of(n: int, values: tuple[int, ...], found: int, other: int) -> tuple[tuple[int, int, int, int], ...]:
    """The answer `found` where argument `n` is one of the values."""
    tests = [(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)]
    return (_argument(n), *tests, _answer(other), _answer(found))


def program(machine: str) -> bytes:
    """The filter for a processor, `x86_64` or `aarch64`. Raises Unsupported."""
    if machine not in Number._fields:
        raise Unsupported(f"the system calls of this processor ({machine}) are not known")
    made = _Program(machine)
    made.add(_LOAD, _ARCH_AT)
    made.add(_EQUAL, made.number(_AUDIT_ARCH) or 0, 1, 0)
    made.add(_RETURN, KILL)
    made.add(_LOAD, _NR_AT)
    if machine == "x86_64":
        made.add(_AT_LEAST, _X32_BIT, 0, 1)  # x32 has numbers of its own under the same architecture
        made.add(_RETURN, KILL)
    for number in ALLOWED.values():
        made.rule(number, _answer(ALLOW))
    checked = CHECKED
    both = (_AND, _PROT_WRITE | _PROT_EXEC, 0, 0)
    not_both = (both, (_EQUAL, _PROT_WRITE | _PROT_EXEC, 1, 0), _answer(ALLOW), _answer(_REFUSE))
    made.rule(checked["mmap"], _argument(2), *not_both)
    made.rule(
        checked["mprotect"], _argument(2), (_ANY_BIT, _PROT_EXEC, 1, 0), _answer(ALLOW), _answer(_REFUSE)
    )
    # A thread, but no process. The flags of clone3 are in memory, where no filter can look: the C library uses clone.
    made.rule(
        checked["clone"], _argument(0), (_ANY_BIT, _CLONE_THREAD, 0, 1), _answer(ALLOW), _answer(_REFUSE)
    )
    made.rule(checked["clone3"], _answer(_UNKNOWN))
    made.rule(checked["socket"], *_one_of(0, _FAMILIES, ALLOW, ERRNO | errno.EAFNOSUPPORT))
    made.rule(checked["prctl"], *_one_of(0, _PRCTL, ALLOW, _REFUSE))
    made.rule(checked["prlimit64"], *_one_of(0, (0,), ALLOW, _REFUSE))  # its own limits
    made.rule(checked["ioctl"], *_one_of(1, _TERMINAL_INPUT, _REFUSE, ALLOW))
    made.add(_AT_LEAST, _NEWEST, 0, 1)
    made.add(_RETURN, _UNKNOWN)
    made.add(_RETURN, _REFUSE)
    return made.code


class _SockFprog(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict() -> None:
    """From now on, for all threads. Raises Unsupported, where the kernel or the processor has no such filter."""
    machine = platform.machine()
    code = program(machine)
    number = _SYS_SECCOMP.x86_64 if machine == "x86_64" else _SYS_SECCOMP.aarch64
    held = ctypes.create_string_buffer(code, len(code))
    fprog = _SockFprog(len(code) // _INSTRUCTION.size, ctypes.cast(held, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Unsupported(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    if libc.syscall(number, _SET_MODE_FILTER, _FLAG_TSYNC | _FLAG_LOG, ctypes.byref(fprog)):
        raise Unsupported(f"seccomp: {os.strerror(ctypes.get_errno())}")
