"""How this process fares, for QMP's query-vnic: its age, its loop's lag, memory and descriptors.

`Machine` asks it for each answer."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator

from vnic import __version__
from vnic.machine.builder import PluggedNic
from vnic.memory.address_space import SPACE
from vnic.monitor.interfaces import (
    Descriptors,
    GuestDescriptors,
    LoopLag,
    Memory,
    Restarted,
    SharedMemory,
    VnicInfo,
)
from vnic.observe.lag import Lag
from vnic.quota import QUOTA, soft_limit

_DESCRIPTORS = "/proc/self/fd"


class Health:
    """One for each machine."""

    def __init__(self, lag: Lag | None) -> None:
        self._lag = lag or Lag()
        self._began = time.monotonic()

    def info(self, nics: Iterable[PluggedNic], programs: int, restarted: Restarted | None) -> VnicInfo:
        """`programs`: how often others were started again."""
        nics = list(nics)
        lag = self._lag.summary()
        return VnicInfo(
            version=__version__,
            pid=os.getpid(),
            uptime=round(time.monotonic() - self._began, 3),
            restarts=programs + (0 if restarted is None else restarted.times),
            loop_lag=LoopLag(lag.turns, lag.p50_us, lag.p99_us, lag.max_us),
            memory=Memory(
                _rss_bytes(),
                _touched_bytes(),
                SPACE.mapped_bytes,
                [_shared_memory(each) for each in nics],
                _charged_shared_bytes(),
            ),
            descriptors=Descriptors(
                _open_descriptors(),
                [GuestDescriptors(each.nic.name, QUOTA.held(each.nic.name)) for each in nics],
                soft_limit(),
            ),
            restarted=restarted,
        )


def _rss_bytes() -> int:
    """The memory of this process that is in RAM; pages of guests that it touched are among it (proc(5): statm)."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _touched_bytes() -> int:
    """Pages of shared files in this process's page tables; those are guests' memory (proc(5): status). It costs the
    same for any amount; telling guests apart would take a walk over all pages (smaps)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return sum(int(fields.get(name, "0").split()[0]) << 10 for name in ("RssShmem", "HugetlbPages"))


def _charged_shared_bytes() -> int | None:
    for folder in _memory_groups():
        try:
            with open(f"{folder}/memory.stat", encoding="ascii") as stat:
                return int(dict(line.split() for line in stat)["shmem"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _memory_groups() -> Iterator[str]:
    """Where the control group of this process may be found, of version 1 or 2 (cgroups(7))."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as groups:
            lines = [line.rstrip("\n").split(":", 2) for line in groups]
    except OSError:
        return
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{path}"
        elif not controllers:
            yield f"/sys/fs/cgroup{path}"


def _shared_memory(plugged: PluggedNic) -> SharedMemory:
    memory = plugged.attachment.guest_memory()
    if memory is None:
        return SharedMemory(plugged.nic.name, 0, 0)
    return SharedMemory(plugged.nic.name, memory.mapped_bytes, memory.unsealed_bytes)


def _open_descriptors() -> int:
    """The folder's size is their number since Linux 6.2; before, they have to be counted."""
    return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))
