"""`vnic device add DRIVER,key=value… | del ID`: QMP's device_add and device_del, with the option strings of -device.

`del` waits for DEVICE_DELETED, so that the NIC's socket and id are free when it returns.
"""

from __future__ import annotations

import argparse

from vnic.cli.additions import add_verb

EPILOG = "As on the command line of `vnic run`: `vnic device add help` and `vnic device add DRIVER,help` tell more."


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add_verb(verbs, "device", "a NIC", "DRIVER,attach.type=…,attach.path=…[,key=value]...", "driver", EPILOG)
