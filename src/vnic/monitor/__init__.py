"""The monitor: QEMU's QMP and HMP over a machine of NICs and back-ends.

`Monitors` is what the machine opens; the machine itself comes as a `MonitoredMachine`. `schema` is the conversion
layer, `commands` and `hmp_commands` the tables of what can be asked, `qmp` and `hmp_session` the two languages.
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
