"""A vnic whose measured loop lag excludes the time without a processor, so that the machine's load has no effect.

Tests run it as a script.
"""

from __future__ import annotations

import os
import sys
import time

from vnic.cli import run
from vnic.cli.main import main
from vnic.observe.lag import Lag, LagLoop

SCHEDSTAT = (
    "/proc/thread-self/schedstat"  # proc(5), sched-stats: time on the processor, time waiting for it, slices
)


class TimedLoop(LagLoop):
    def __init__(self) -> None:
        self._stat = os.open(SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        super().__init__(Lag(self._own_time))

    def _own_time(self) -> int:
        return time.monotonic_ns() - int(os.pread(self._stat, 128, 0).split()[1])


if __name__ == "__main__":
    vars(run)["LagLoop"] = TimedLoop
    raise SystemExit(main(sys.argv[1:]))
