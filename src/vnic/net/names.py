"""QEMU's rules for identifiers of -netdev and -device, and for MAC addresses.

The command line, the monitor and `Network` check names here.
"""

from __future__ import annotations

import re

from vnic.net.errors import NetError

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}([:-])[0-9a-fA-F]{1,2}(\1[0-9a-fA-F]{1,2}){4}")

_HINT = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."


_FIRST_DEFAULT_MAC = 0x525400123456


def is_identifier(name: str) -> bool:
    """QEMU's id_wellformed (util/id.c)."""
    return _IDENTIFIER.fullmatch(name) is not None


def check_identifier(name: str) -> None:
    """Raise NetError if `name` is no identifier."""
    if not is_identifier(name):
        raise NetError("Parameter 'id' expects an identifier", hint=_HINT)


def parse_mac(text: str, driver: str) -> bytes:
    """The 6 bytes of `52:54:00:12:34:56` (or with dashes); NetError with QEMU's property text otherwise."""
    if not _MAC.fullmatch(text):
        raise NetError(f"Property '{driver}.mac' doesn't take value '{text}'")
    mac = bytes(int(part, 16) for part in re.split("[:-]", text))
    if mac[0] & 1:
        raise NetError(f"Property '{driver}.mac' doesn't take value '{text}': it is a multicast address")
    return mac


def default_mac(index: int) -> bytes:
    """The MAC of the index-th NIC without `mac=`, from 52:54:00:12:34:56 on (qemu_macaddr_default_if_unset).

    QEMU counts the last byte up to fe and gives ff to all later NICs; vnic continues with 12:35:00, so that no two
    NICs have the same MAC.
    """
    return (_FIRST_DEFAULT_MAC + index).to_bytes(6, "big")


def default_mac_index(mac: bytes) -> int:
    """The index of a default MAC; negative for a MAC below the first one."""
    return int.from_bytes(mac, "big") - _FIRST_DEFAULT_MAC
