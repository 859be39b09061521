"""The monitor: QEMU's QMP and HMP for a machine with NICs and back-ends.

The machine makes one `Monitors`, which sees it as a `MonitoredMachine`. `schema` converts arguments, `commands` and
`hmp_commands` are the tables of commands, and `qmp` and `hmp_session` are the two languages.
"""

from vnic.monitor.interfaces import (
    MonitoredMachine,
    RunState,
    ShutdownCause,
)
from vnic.monitor.server import Mode, Monitors

__all__ = [
    "Mode",
    "MonitoredMachine",
    "Monitors",
    "RunState",
    "ShutdownCause",
]
