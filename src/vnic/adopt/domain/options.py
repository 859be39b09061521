"""The options of `-object libvirt`.

The command line, HMP and QMP fill them in, `query-qmp-schema` prints them, and `vm.make` reads them.
"""

from __future__ import annotations

from vnic.net.objects import ObjectOptions


class LibvirtOptions(ObjectOptions, tag="libvirt", frozen=True, kw_only=True):
    """`domain` is the name or the UUID of a domain of the libvirt at `uri`. Neither has to exist yet."""

    domain: str
    uri: str = "qemu:///system"
