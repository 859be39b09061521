"""`python -m vnic` is `vnic`."""

import sys

from vnic.cli.main import main

sys.exit(main())
