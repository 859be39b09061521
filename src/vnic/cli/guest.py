"""`vnic guest SOCKET…`: boots a small Linux guest on NICs of a running vnic and gives a person its shell.

It is the guest of `vnic demo`, User-Mode Linux, for trying things by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import termios
from collections.abc import Iterator

from vnic.guest import kit
from vnic.guest.cache import cache_folder
from vnic.guest.errors import GuestError
from vnic.guest.uml import UmlGuest

EXIT_REFUSED = 1


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "guest",
        help="boot a small Linux guest on NIC sockets, with a shell",
        description="Boot User-Mode Linux on NICs of a running vnic and give you its shell; `exit` ends the guest."
        " eth0 is the first socket's NIC. Needs no root; what is not installed is downloaded.",
    )
    parser.add_argument("socket", nargs="+", help="the attach.path of a NIC with attach.type=vhost-user")
    parser.add_argument(
        "--address",
        metavar="IP/BITS",
        default="10.0.2.15/24",
        help="eth0's address (10.0.2.15/24, beside the `echo` at 10.0.2.2)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        found = kit.find_uml()
        if found is None:
            print(f"downloading User-Mode Linux into {cache_folder()} …", file=sys.stderr)
            found = kit.download_kit()
        guest = UmlGuest(args.socket, kit=found, modules=["ipv6"], shell=True)
        with kept_terminal(), guest:
            guest.set_address(args.address)
            guest.start_shell()
            guest.wait_end()
    except GuestError as error:
        print(f"vnic: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


@contextlib.contextmanager
def kept_terminal() -> Iterator[None]:
    """Put the terminal's modes back at the end: the kernel sets it raw, and may not come to undo that."""
    if not sys.stdin.isatty():
        yield
        return
    modes = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)
