"""A vnic with a longer wait for a guest to see link down: 200 ms are too short on a machine that stalls.

Tests of what the guest sees run it as a script.
"""

from __future__ import annotations

import sys

from vnic.cli.main import main
from vnic.machine import core, nic_table

if __name__ == "__main__":
    nic_table.GRACE_S = 30.0
    core.CLOSE_TIMEOUT_S = 60.0
    raise SystemExit(main(sys.argv[1:]))
