"""The typed layer below the commands: msgspec Structs as QAPI types. The commands and the command line use it.

`shapes` reads a Struct as a QAPI type, `convert` checks arguments against it with QEMU's error texts, `introspect`
prints it for query-qmp-schema. One Struct describes a command, an option or an event.
"""

from vnic.monitor.schema.convert import compile_shape, convert, convert_to_shape
from vnic.monitor.schema.flat_chardev import parse_flat_chardev
from vnic.monitor.schema.unions import (
    chardev_backend,
    device_options,
    netdev_options,
    object_options,
)

__all__ = [
    "chardev_backend",
    "compile_shape",
    "convert",
    "convert_to_shape",
    "device_options",
    "netdev_options",
    "object_options",
    "parse_flat_chardev",
]
