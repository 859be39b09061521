"""libvirt-python, which is imported late: it is an extra, and `vnic run` seldom needs it.

`session` and `scan.domains` call `load` once and use what it returns. Events are delivered by one thread for all
connections, which begins with the first `load_with_events`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import time
from typing import Any, NamedTuple

from vnic.threads import thread_beside

log = logging.getLogger(__name__)

MISSING = "libvirt-python is not installed: pip install 'vnic[libvirt]', or apt-get install python3-libvirt"

EVENT_LOOP_PAUSE_S = 1.0
"""After an error of libvirt's event loop."""


STATES = ("unknown", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended")
"""By the number of virDomainState."""


class LibraryMissing(Exception):
    """There is no libvirt-python here; `str()` says so, and how to get it."""


class Library(NamedTuple):
    """The two modules. They have no types."""

    libvirt: Any
    qemu: Any
    """libvirt_qemu: the guest agent, and QEMU's own events."""


@functools.cache
def load() -> Library:
    """Raises LibraryMissing."""
    try:
        libvirt = importlib.import_module("libvirt")
        qemu = importlib.import_module("libvirt_qemu")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "libvirt":
            raise LibraryMissing(MISSING) from None
        raise LibraryMissing(f"libvirt-python cannot be loaded: {error}") from None
    libvirt.registerErrorHandler(_be_silent, None)
    return Library(libvirt, qemu)


def _be_silent(_: object, error: object) -> None:
    """Each error arrives as an exception; without a handler libvirt prints it to stderr, too."""


@functools.cache
def load_with_events() -> Library:
    """As `load`, for connections that are made after this call: they deliver events. Raises LibraryMissing."""
    library = load()
    library.libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            try:
                library.libvirt.virEventRunDefaultImpl()
            except library.libvirt.libvirtError as error:
                log.warning("libvirt's events: %s", message(error))
                time.sleep(EVENT_LOOP_PAUSE_S)

    thread_beside("vnic-libvirt-events", run).start()
    return library


def message(error: Exception) -> str:
    """The text of a libvirtError, in one line."""
    return " ".join(str(error).split())


def version_text(number: int) -> str:
    """Of libvirt's form, 1000000 * major + 1000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def state_word(number: int) -> str:
    """Of a virDomainState."""
    return STATES[number] if 0 <= number < len(STATES) else STATES[0]
