"""`vnic netdev add TYPE,key=value… | del ID`: QMP's netdev_add and netdev_del, with the option strings of -netdev.

The string is checked and typed here, by the same Struct that `vnic run` uses, and sent as QMP's JSON.
"""

from __future__ import annotations

import argparse

from vnic.cli.additions import add_verb

EPILOG = (
    "As on the command line of `vnic run`: `vnic netdev add help` and `vnic netdev add TYPE,help` tell more."
)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add_verb(verbs, "netdev", "a back-end", "TYPE,id=ID[,key=value]...", "type", EPILOG)
