"""libvirt-python, which is imported late: it is an extra, and `vnic run` seldom needs it.

`scan.domains` calls `load` once and uses what it returns.
"""

from __future__ import annotations

import functools
import importlib
import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

MISSING = "libvirt-python is not installed: pip install 'vnic[libvirt]', or apt-get install python3-libvirt"


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


def start_thread(name: str, run: Callable[[], None]) -> None:
    """Start a thread that takes no signal and does not keep the process. Raises RuntimeError."""

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        run()

    threading.Thread(target=work, name=name, daemon=True).start()


def message(error: Exception) -> str:
    """The text of a libvirtError, in one line."""
    return " ".join(str(error).split())
