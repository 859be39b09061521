"""Finds probes in the pcap files that filter-dump writes. Pure but for the reading of a file; `run` calls it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vnic.filter.dump import FILE_HEADER, RECORD_HEADER

TOKEN_BYTES: Final = 8
_REST: Final = struct.Struct(">IQ")
"""What follows the token in a probe: its number, and the sender's time in microseconds (program/probe.c)."""
HEADERS_MAX: Final = 160
"""Ethernet, VLAN tags, tunnels, IPv6 and UDP; a probe behind more is not found."""
CAPTURED_BYTES: Final = HEADERS_MAX + TOKEN_BYTES + _REST.size


class Sighting(NamedTuple):
    """A probe at a NIC. Times are microseconds: of this host's wall clock, and of the sender's own clock."""

    token: int
    """Its place among the tokens that were looked for."""
    time: int
    number: int
    sent: int


def sightings(path: Path, tokens: Sequence[bytes]) -> Iterator[Sighting]:
    """The probes of a capture in their order. A record that is not whole ends it."""
    data = path.read_bytes()
    at = FILE_HEADER.size
    while at + RECORD_HEADER.size <= len(data):
        seconds, us, kept, _ = RECORD_HEADER.unpack_from(data, at)
        start = at + RECORD_HEADER.size
        at = start + kept
        if at > len(data):
            return
        for index, token in enumerate(tokens):
            found = data.find(token, start, at)
            if found >= 0 and found + TOKEN_BYTES + _REST.size <= at:
                number, sent = _REST.unpack_from(data, found + TOKEN_BYTES)
                yield Sighting(index, seconds * 1_000_000 + us, number, sent)
                break
