"""The terminal at standard input while a readline monitor uses it: each key arrives at once, and the monitor echoes it.

`connection.StdioChannel` uses it; the settings are those of QEMU's chardev/char-stdio.c.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import termios
from collections.abc import Callable


def pass_on_keys(fd: int) -> Callable[[], None]:
    """Set the terminal up. Returns the function that restores it, which also runs at the end of the process.

    Ctrl-C stays a signal, and line ends are still written as CRLF.
    """
    terminal = os.dup(fd)
    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    changed[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    changed[1] |= termios.OPOST
    changed[2] = changed[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, changed)

    def restore() -> None:
        atexit.unregister(restore)
        with contextlib.suppress(OSError, termios.error):  # the terminal may have been hung up
            termios.tcsetattr(terminal, termios.TCSANOW, before)
        os.close(terminal)

    atexit.register(restore)
    return restore
