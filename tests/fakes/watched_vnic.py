"""A vnic whose keeper waits for three seconds only, where the usual ten make a long test.

Tests of control that hangs run it as a script.
"""

from __future__ import annotations

import sys

from vnic.cli.main import main
from vnic.keeper import supervisor

if __name__ == "__main__":
    vars(supervisor)["WATCHDOG_S"] = 3.0
    raise SystemExit(main(sys.argv[1:]))
