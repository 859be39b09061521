"""The QMP commands, which `qmp.Dispatcher` runs.

To add one, write its arguments' Struct and its function in one of these files. `control` is about the monitor itself,
`fds` about descriptors that clients pass, `net` about NICs, back-ends and links, `impair` about impairments of links,
`history` about the journal, `keeper` about the next process, `probes` about this QEMU's features, `vm_probes` about
features it lacks, `devices` about the rest.
"""

from vnic.monitor.commands import (
    control,
    fds,
    history,
    impair,
    keeper,
    net,
    probes,
    vm_probes,
)
from vnic.monitor.commands import (
    devices as machine,
)
from vnic.monitor.commands.table import COMMANDS, Caller, Command

__all__ = [
    "COMMANDS",
    "Caller",
    "Command",
    "control",
    "fds",
    "history",
    "impair",
    "keeper",
    "machine",
    "net",
    "probes",
    "vm_probes",
]
