"""The seccomp filter, run by a BPF interpreter of the test's own; and its numbers, against the kernel's headers."""

from __future__ import annotations

import errno
import re
import struct
import subprocess

import pytest

from vnic.sandbox.calls import ALLOWED, CHECKED, Number
from vnic.sandbox.seccomp import ALLOW, ERRNO, KILL, Unsupported, program

X86, ARM = 0xC000003E, 0xC00000B7
EPERM, ENOSYS, EAFNOSUPPORT = (ERRNO | code for code in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))


def verdict(number: int, *arguments: int, machine: str = "x86_64", arch: int = X86) -> int:
    """What the filter answers to a call (linux/filter.h)."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("HBBI", program(machine)))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x06:
                return int(operand)
            case _:
                holds = {
                    0x15: accumulator == operand,
                    0x35: accumulator >= operand,
                    0x45: bool(accumulator & operand),
                }[operation]
                at += if_true if holds else if_false


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", X86), ("aarch64", ARM)])
def test_calls_of_the_list_are_allowed_and_no_others(machine: str, arch: int) -> None:
    index = Number._fields.index(machine)
    allowed = {number[index] for number in ALLOWED.values()}
    checked = {number[index] for number in CHECKED.values()}
    for number in range(470):
        if number not in checked:
            wanted = ALLOW if number in allowed else EPERM
            assert verdict(number, machine=machine, arch=arch) == wanted, number


@pytest.mark.parametrize(
    "name",
    [
        *(
            "execve",
            "execveat",
            "fork",
            "vfork",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "unshare",
        ),
        *("setns", "mount", "umount2", "pivot_root", "chroot", "setuid", "setgid", "setresuid", "setresgid"),
        *("capset", "init_module", "finit_module", "kexec_load", "bpf", "perf_event_open", "userfaultfd"),
        *(
            "keyctl",
            "add_key",
            "io_uring_setup",
            "reboot",
            "swapon",
            "mknod",
            "mknodat",
            "symlink",
            "quotactl",
        ),
        *("pidfd_getfd", "seccomp", "open_by_handle_at", "personality", "iopl", "ioperm", "settimeofday"),
    ],
)
def test_dangerous_calls_are_in_no_list(name: str) -> None:
    assert name not in ALLOWED
    assert name not in CHECKED


def test_other_architectures_end_the_process() -> None:
    assert verdict(0, arch=0x40000003) == KILL
    assert verdict(0x40000000 | 1) == KILL  # x32


def test_threads_may_be_started_and_processes_not() -> None:
    clone = CHECKED["clone"].x86_64 or 0
    assert verdict(clone, 0x3D0F00) == ALLOW  # the C library's flags of a thread
    assert verdict(clone, 17) == EPERM  # SIGCHLD: a fork
    assert verdict(CHECKED["clone3"].x86_64 or 0) == ENOSYS


def test_memory_is_never_writable_and_executable() -> None:
    mmap, mprotect = CHECKED["mmap"].x86_64 or 0, CHECKED["mprotect"].x86_64 or 0
    assert verdict(mmap, 0, 4096, 7) == verdict(mmap, 0, 4096, 6) == EPERM
    assert verdict(mmap, 0, 4096, 5) == verdict(mmap, 0, 4096, 3) == ALLOW
    assert verdict(mprotect, 0, 4096, 5) == EPERM
    assert verdict(mprotect, 0, 4096, 1) == ALLOW


def test_sockets_are_those_of_netdevs_and_monitors() -> None:
    socket = CHECKED["socket"].x86_64 or 0
    for family in range(64):
        assert verdict(socket, family) == (ALLOW if family in (1, 2, 10, 16, 17) else EAFNOSUPPORT)


def test_words_cannot_be_put_into_a_terminal() -> None:
    ioctl = CHECKED["ioctl"].x86_64 or 0
    assert verdict(ioctl, 0, 0x5412) == verdict(ioctl, 0, 0x541C) == EPERM
    assert verdict(ioctl, 0, 0x400454CA) == ALLOW  # TUNSETIFF


def test_limits_of_other_processes_are_left_alone() -> None:
    prlimit = CHECKED["prlimit64"].x86_64 or 0
    assert verdict(prlimit, 0) == ALLOW
    assert verdict(prlimit, 4711) == EPERM


def test_newer_calls_are_unknown_rather_than_forbidden() -> None:
    assert verdict(480) == ENOSYS


def test_other_processors_are_refused() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        program("riscv64")


@pytest.mark.needs("cc")
def test_numbers_are_those_of_the_kernels_headers() -> None:
    command = ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    defined = {name: int(value) for name, value in re.findall(r"#define __NR_(\w+) (\d+)$", text, re.M)}
    if "__x86_64__" not in text:
        pytest.skip("the headers of this machine are another processor's")
    for name, number in {**ALLOWED, **CHECKED}.items():
        assert defined.get(name, number.x86_64) == number.x86_64, name
