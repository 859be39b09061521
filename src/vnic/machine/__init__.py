"""The machine: the composition root that holds the network, its NICs and their sockets, chardevs and objects.

`vnic run` makes one from its options; the monitor changes it through `monitor.interfaces.MonitoredMachine`.
"""

from vnic.machine.core import Machine

__all__ = ["Machine"]
