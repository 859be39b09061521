"""`vnic guest SOCKET…`: boots a small Linux guest on NICs of a running vnic, for a person's shell or for scripts.

It is the guest of `vnic demo`, User-Mode Linux. `cli.main` calls it. If stdin is no terminal, it is read as a script.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import shlex
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import NoReturn

from vnic.lab.guest import kit
from vnic.lab.guest.cache import cache_folder
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.uml import UmlGuest

EXIT_REFUSED = 1

SCRIPT = "/script"
"""Where a script is in the guest: a file has no limit of length, as a line of its console has."""

# The first default MAC address has 10.0.2.15, as QEMU's user network gives it; the others follow.
_FIRST_MAC = 0x525400123456
_NETWORK = ipaddress.IPv4Network("10.0.2.0/24")
_FIRST_HOST, _HOSTS = 15, 240


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "guest",
        help="boot a small Linux guest on NIC sockets, with a shell",
        usage="vnic guest [--address IP/BITS]... SOCKET... [-- COMMAND...]",
        description="Boot User-Mode Linux on NICs of a running vnic and give you its shell; `exit` ends the guest."
        " With a COMMAND, or a script on stdin, that is run instead, and the exit code is its own."
        " eth0 is the first socket's NIC. Needs no root; what is not installed is downloaded.",
    )
    parser.add_argument("socket", nargs="+", help="the attach.path of a NIC with attach.type=vhost-user")
    parser.add_argument(
        "--address",
        metavar="IP/BITS",
        action="append",
        default=[],
        type=_address,
        help="eth0's address; given again, eth1's, and so on. Without it eth0 has one of 10.0.2.15/24 to .254 that"
        " follows from its MAC address",
    )
    parser.set_defaults(run=run)


def split_command(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What comes before the first `--`, and the COMMAND after it; None without a `--`."""
    words = list(words)
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def run(args: argparse.Namespace) -> int:
    if len(args.address) > len(args.socket):
        print(f"vnic: {len(args.address)} addresses for {len(args.socket)} NICs", file=sys.stderr)
        return EXIT_REFUSED
    script = _script(args.command)
    try:
        found = kit.find_uml()
        if found is None:
            print(f"downloading User-Mode Linux into {cache_folder()} …", file=sys.stderr)
            found = kit.download_kit()
        files = None if script is None else {SCRIPT: script}
        guest = UmlGuest(args.socket, kit=found, modules=["ipv6"], files=files, shell=script is None)
        with ended_by_signals(), kept_terminal(), guest:
            set_addresses(guest, args.address)
            if script is not None:
                return guest.follow(f"exec sh {SCRIPT}", _write)
            guest.start_shell()
            guest.wait_end()
    except GuestError as error:
        print(f"vnic: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _script(command: Sequence[str] | None) -> bytes | None:
    """What is to be run, as a shell script; None if a person wants a shell."""
    if command:
        return os.fsencode(shlex.join(command)) + b"\n"
    return None if sys.stdin.isatty() else sys.stdin.buffer.read()


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return address.with_prefixlen


def set_addresses(guest: UmlGuest, addresses: Sequence[str]) -> None:
    """Those that were given, eth0's first; else one for eth0 that no other guest on its cable has."""
    if not addresses:
        addresses = [default_address(guest.run("cat /sys/class/net/eth0/address"))]
    for index, address in enumerate(addresses):
        guest.set_address(address, f"eth{index}")


def default_address(mac: str) -> str:
    """The address that follows from a MAC address: two NICs of one cable differ in it anyway."""
    offset = (int(mac.replace(":", ""), 16) - _FIRST_MAC) % _HOSTS
    return f"{_NETWORK[_FIRST_HOST + offset]}/{_NETWORK.prefixlen}"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is within in order, as Ctrl-C does: the guest ends, and its folder is removed."""

    def end(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
