"""How this process fares, for QMP's query-vnic: its age, its loop's lag, memory and descriptors."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable

from vnic import __version__
from vnic.lag import Lag
from vnic.monitor.machine import Descriptors, GuestMapping, LoopLag, Memory, VnicInfo

from .nics import PluggedNic

_DESCRIPTORS = "/proc/self/fd"


class Health:
    """One for each machine."""

    def __init__(self, lag: Lag | None) -> None:
        self._lag = lag or Lag()
        self._began = time.monotonic()

    def info(self, nics: Iterable[PluggedNic], restarts: int) -> VnicInfo:
        lag = self._lag.summary()
        guests = [GuestMapping(each.nic.name, each.attachment.mapped_bytes()) for each in nics]
        return VnicInfo(
            version=__version__,
            pid=os.getpid(),
            uptime=round(time.monotonic() - self._began, 3),
            restarts=restarts,
            loop_lag=LoopLag(lag.turns, lag.p50_us, lag.p99_us, lag.max_us),
            memory=Memory(_rss_bytes(), guests),
            descriptors=Descriptors(_open_descriptors(), _descriptor_limit()),
        )


def _rss_bytes() -> int:
    """The memory of this process that is in RAM; pages of guests that it touched are among it (proc(5): statm)."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _open_descriptors() -> int:
    """The folder's size is their number since Linux 6.2; before, they have to be counted."""
    return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))


def _descriptor_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
