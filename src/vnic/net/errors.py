"""Errors that a monitor client or the command line shows to a person.

One type serves the whole of net/, the back-ends and the device models; the monitor turns it into
QMP's `{"error": {"class": …, "desc": …}}` and the command line into one line on stderr.
"""

from __future__ import annotations

GENERIC_ERROR = "GenericError"
DEVICE_NOT_FOUND = "DeviceNotFound"
COMMAND_NOT_FOUND = "CommandNotFound"
DEVICE_NOT_ACTIVE = "DeviceNotActive"


class NetError(Exception):
    """A request that was refused; `desc` is QEMU's text where QEMU has one.

    `hint` is an additional line (error_append_hint): HMP and the command line print it, QMP does not.
    """

    def __init__(self, desc: str, error_class: str = GENERIC_ERROR, hint: str = "") -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class
        self.hint = hint


class DeviceNotFound(NetError):
    """No client, netdev or device has that name (QEMU's ERROR_CLASS_DEVICE_NOT_FOUND)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Device '{name}' not found", DEVICE_NOT_FOUND)
        self.name = name
