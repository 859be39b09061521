"""The typed layer under the commands: msgspec Structs as QAPI types.

`shapes` reads a Struct as a QAPI type, `convert` checks arguments against it with QEMU's error texts, `introspect`
prints it for query-qmp-schema. A command, an option or an event is described once, by its Struct.
"""

from .choices import Choice, chardev_choice, device_choice, netdev_choice, object_choice
from .convert import convert

__all__ = ["Choice", "chardev_choice", "convert", "device_choice", "netdev_choice", "object_choice"]
