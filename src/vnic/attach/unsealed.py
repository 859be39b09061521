"""Warns about a VM that could truncate the memory it shares. Both attachments call it for each VM."""

from __future__ import annotations

import logging

from vnic.memory.address_space import in_units
from vnic.memory.guest import GuestMemory

log = logging.getLogger(__name__)


def warn_of_unsealed(memory: GuestMemory, name: str) -> None:
    """Log once, as soon as a VM shares memory that it could truncate, what the consequence would be."""

    def changed() -> None:
        if size := memory.unsealed_bytes:
            memory.on_change.remove(changed)
            log.info(
                "%s: the VM shares %s of memory that is not sealed against shrinking (F_SEAL_SHRINK): it is cut off if"
                " it truncates the file",
                name,
                in_units(size),
            )

    memory.on_change.append(changed)
