"""A vnic that waits longer for a guest to see its link go: 200 ms are enough for one that runs, not for one whose
machine stalls. For tests of what the guest sees then; it is run as a script.
"""

from __future__ import annotations

import sys

from vnic.cli.main import main
from vnic.machine import core

if __name__ == "__main__":
    core.GRACE_S = 30.0
    core.CLOSE_TIMEOUT_S = 60.0
    raise SystemExit(main(sys.argv[1:]))
