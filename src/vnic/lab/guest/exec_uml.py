"""Replaces itself by User-Mode Linux, having made ptrace's PTRACE_GETREGSET fail for it; run as a program.

Kernels before 6.13 keep the floating-point state in a buffer of fixed size. On CPUs with AMX that is too small:
PTRACE_SETREGSET fails, and init dies ("ptrace set fp regs failed, errno = 14"). Where PTRACE_GETREGSET fails when the
kernel starts, UML uses the 512-byte FXSAVE area instead (arch/x86/um/os-Linux/registers.c), which every CPU has. The
upper halves of AVX registers are not in it: vnic.lab.guest.uml turns AVX off in the guest's C library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# linux/filter.h, linux/seccomp.h, linux/prctl.h, linux/audit.h
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_AUDIT_ARCH_X86_64 = 0xC000003E
_NR_PTRACE_X86_64 = 101
_PTRACE_GETREGSET = 0x4204
_RET_ERRNO, _RET_ALLOW = 0x00050000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

# (code, jump if true, jump if false, k) over struct seccomp_data: nr at 0, arch at 4, args[0] at 16
_PROGRAM = (
    (_LOAD_WORD, 0, 0, 4),
    (_JUMP_IF_EQUAL, 0, 5, _AUDIT_ARCH_X86_64),
    (_LOAD_WORD, 0, 0, 0),
    (_JUMP_IF_EQUAL, 0, 3, _NR_PTRACE_X86_64),
    (_LOAD_WORD, 0, 0, 16),
    (_JUMP_IF_EQUAL, 0, 1, _PTRACE_GETREGSET),
    (_RETURN, 0, 0, _RET_ERRNO | errno.ENODEV),
    (_RETURN, 0, 0, _RET_ALLOW),
)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_getregset() -> None:
    """Install the filter for this process and what it starts; needs no privilege."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _PROGRAM)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _FilterProgram(len(_PROGRAM), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, word(1), word(0), word(0), word(0)) or libc.prctl(
        _PR_SET_SECCOMP, word(_SECCOMP_MODE_FILTER), ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), f"seccomp filter: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    refuse_getregset()
    os.execv(sys.argv[1], sys.argv[1:])
