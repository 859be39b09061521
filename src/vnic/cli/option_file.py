"""`vnic run @FILE`: options from a file, as the systemd unit takes them, one or several a line.

The file's words are a shell's (quotes, backslashes), and `#` begins a comment. They take the place of `@FILE`; a file
names no further files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vnic.plainfile import open_plain

BYTES_MAX = 64 << 20
"""The options of 10 000 NICs are some 5 MB."""


class OptionFileError(Exception):
    """The file cannot be read; `str()` is a line for the user."""


def expand(words: Sequence[str]) -> list[str]:
    """The words of the command line, with those of its files. Raises OptionFileError."""
    found: list[str] = []
    after_option = False
    for word in words:
        # Only where an option may begin: `-D @log` names a file of the log.
        if word.startswith("@") and not after_option:
            found += _words_of(word[1:])
        else:
            found.append(word)
        after_option = word.startswith("-") and word not in _FLAGS
    return found


_FLAGS = ("--keep", "-keep", "-S", "--S", "-daemonize", "--daemonize")
"""Options without an argument that may stand before a file."""


def _words_of(path: str) -> list[str]:
    import shlex

    try:
        fd = open_plain(path, os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise ValueError(f"it is larger than {BYTES_MAX >> 20} MiB")
        return shlex.split(os.fsdecode(data), comments=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OptionFileError(f"@{path}: {why}") from None
