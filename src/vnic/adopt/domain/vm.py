"""`-object libvirt`: a VM that libvirt manages, by its URI and its name. The registry of objects calls `make`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vnic.adopt.domain.library import LibraryMissing, load_with_events
from vnic.adopt.domain.options import LibvirtOptions
from vnic.adopt.domain.session import DomainSession
from vnic.adopt.vm import AdoptedVm
from vnic.net.errors import NetError

if TYPE_CHECKING:
    from vnic.backend.base import BackendContext

TEXT_MAX = 1024
"""The longest URI or name."""


class LibvirtVm(AdoptedVm):
    """The object."""

    def __init__(self, context: BackendContext, options: LibvirtOptions) -> None:
        """Raises NetError."""
        for name, value in (("uri", options.uri), ("domain", options.domain)):
            if not value or len(value) > TEXT_MAX or "\0" in value:
                raise NetError(f"Parameter '{name}' expects a text of 1 to {TEXT_MAX} characters")
        try:
            library = load_with_events()
        except LibraryMissing as missing:
            raise NetError(f"object type 'libvirt': {missing}") from None
        session = DomainSession(context.loop, library, options.uri, options.domain)
        super().__init__(context, options.id, "libvirt", session, agent=True)
        self.options = options

    def options_shown(self) -> dict[str, object]:
        return {"uri": self.options.uri, "domain": self.options.domain}


def make(context: BackendContext, options: Any) -> LibvirtVm:
    """Raises NetError for options that cannot be, and without libvirt-python."""
    return LibvirtVm(context, options)
