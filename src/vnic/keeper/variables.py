"""The environment by which the keeper tells control what it holds, beside systemd's own variables.

systemd's are NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES. Three more are
vnic's, for what systemd has no word for.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple

KEEPER: Final = "VNIC_KEEPER"
"""The fields of `Keeper`, one a line."""

FIRST: Final = "VNIC_LISTEN_FDS_START"
"""The number of the first stored descriptor, where it is not 3: the user's own (`fd=3`) stay at their numbers."""

NAMES_FD: Final = "VNIC_LISTEN_FDNAMES_FD"
"""In place of LISTEN_FDNAMES: the descriptor of a file with that text, where it is too long for a variable."""

NAMES_BYTES_MAX: Final = 100_000
"""Linux takes no variable of more than 128 KiB (execve(2), MAX_ARG_STRLEN)."""


class Keeper(NamedTuple):
    """The supervisor that started this process."""

    pid: int
    starts: int
    """Of control, this one included."""
    last_end: str
    """How the process before ended, as a text for people; empty: there was none."""
    ended_ns: int
    """When, by CLOCK_MONOTONIC; 0: there was none."""
    upgrade: str
    """What became of the newest upgrade: empty for none, `done PROGRAM`, or `failed PROGRAM: TEXT`."""


def encoded(keeper: Keeper) -> str:
    """The variable's value."""
    return "\n".join(str(field).replace("\n", " ") for field in keeper)


def is_orphaned(environment: Mapping[str, str], parent: int) -> bool:
    """Whether the supervisor that started this process has been killed since."""
    pid = environment.get(KEEPER, "").partition("\n")[0]
    if not pid.isdecimal() or pid == str(parent):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"  # proc_pid_stat(5): it has ended
    except OSError:
        return True


def take_keeper(environment: MutableMapping[str, str], parent: int) -> Keeper | None:
    """What the supervisor said; None if this process has none: the variable was inherited from further above than its
    `parent`. It is removed, since it is not for the children of this process."""
    fields = environment.pop(KEEPER, "").split("\n")
    if len(fields) != len(Keeper._fields) or fields[0] != str(parent):
        return None
    try:
        pid, starts, last_end, ended_ns, upgrade = fields
        return Keeper(int(pid), int(starts), last_end, int(ended_ns), upgrade)
    except ValueError:
        return None
