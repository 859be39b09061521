"""The options of `-object qemu`.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and `qemu.make` reads them.
"""

from __future__ import annotations

from vnic.net.objects import ObjectOptions


class QemuOptions(ObjectOptions, tag="qemu", frozen=True, kw_only=True):
    """`qmp` is the path of a QMP socket that QEMU listens on, and vnic's alone; `qga` that of its guest agent. Neither
    has to exist yet."""

    qmp: str
    qga: str | None = None
