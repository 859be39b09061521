"""What can be asked over QMP. To add a command, write its arguments' Struct and its function in one of these files.

`control` is about the monitor itself, `fds` about descriptors that clients pass, `net` about NICs, back-ends and links,
`probes` about what this QEMU can do, `machine` about the rest.
"""

from . import control, fds, machine, net, probes
from .table import COMMANDS, Caller, Command

__all__ = ["COMMANDS", "Caller", "Command", "control", "fds", "machine", "net", "probes"]
