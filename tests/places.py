"""Folders of the tests: private, and so short that the path of a UNIX socket (at most 107 bytes, unix(7)) fits.

All temporary files of a run, also those that vnic and its guests make, lie in one folder that conftest.py makes and
removes; how long TMPDIR, LOGNAME or a test's name are has no influence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.needs import runs_programs

SHORT = 24
"""Bytes of a folder's path with which all socket paths below it fit."""


def _candidates() -> Iterator[Path]:
    """Where the run's folder may be made, the user's choice first."""
    for text in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")):
        if (
            text
            and text.startswith("/")
            and len(os.fsencode(text)) <= SHORT
            and os.access(text, os.W_OK | os.X_OK)
        ):
            yield Path(text)


def make_run_folder() -> Path:
    """The folder of all that this run makes: $TMPDIR from now on. One where programs may be run comes first."""
    second = None
    for parent in _candidates():
        folder = Path(tempfile.mkdtemp(prefix="vnic-t-", dir=parent))
        if runs_programs(folder):
            break
        if second is None:
            second = folder
        else:
            folder.rmdir()
    else:
        if second is None:
            raise FileNotFoundError(
                "no folder with a short path is writable here: export TMPDIR=A_SHORT_FOLDER"
            )
        folder, second = second, None
    if second is not None:
        second.rmdir()
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # to be looked for anew
    return folder


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder in the run's, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=""))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
