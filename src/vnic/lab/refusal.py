"""What the verbs of labs refuse, as lines on stderr and exit code 1. `vnic lab` and `vnic rehearse` use it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from vnic.cli.client import Refused
from vnic.printable import lines

EXIT_REFUSED: Final = 1


def told(verb: Callable[[], int]) -> int:
    """The exit code of what a verb does."""
    from vnic.lab.file.problems import BadLab
    from vnic.lab.guest.errors import GuestError
    from vnic.sockets.rundir import RunDirError

    try:
        return verb()
    except BadLab as bad:
        print(lines(str(bad)), file=sys.stderr)
    except (Refused, GuestError, RunDirError) as refused:
        print(f"vnic: {lines(str(refused))}", file=sys.stderr)
    return EXIT_REFUSED
