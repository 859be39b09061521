"""Takes a lab down: guests, vnic, folder; `verb` and `up` call it. It works on what is left of a broken one, too."""

from __future__ import annotations

import contextlib
import shutil

from vnic.cli.client import Refused
from vnic.lab.live import guests, vnic
from vnic.lab.live.place import Place, Record


def clean(place: Place, record: Record | None) -> None:
    """End the lab's guests and its vnic, and empty its folder."""
    names = {path.stem for path in place.folder.glob("*.ctl")}
    guests.stop(place, names)
    if record is not None:
        vnic.end(place, record.vnic_pid)
        vnic.remove_leftovers(place)
    for path in place.folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def take_down(place: Place) -> None:
    """End the lab, and remove its folder."""
    with place.locked():
        record = None
        with contextlib.suppress(Refused):  # its record cannot be read
            record = place.read()
        clean(place, record)
        place.remove()
