"""The trailer that authenticates a tunnel's datagrams where both ends have a key, with a window against replays.

The netdev `tunnel` puts it behind each frame, and vnic-wire's `key.c` does the same. Nothing is encrypted. Layout:
version (1 byte, 1), zero (1), MEP id of the sender (2), counter (8), MAC (16), all big-endian. The MAC is keyed
BLAKE2b (RFC 7693) over the VXLAN header, the frame and the 12 bytes before it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from typing import Final

from vnic.record import U64, Record

KEY_BYTES: Final = 32
MAC_BYTES: Final = 16
_HEAD: Final = struct.Struct(">BBHQ")
TRAILER_BYTES: Final = _HEAD.size + MAC_BYTES
assert TRAILER_BYTES == 28
_VERSION: Final = 1
_PERSON: Final = b"vnic tunnel key\0"
WINDOW: Final = 64
"""How far a datagram may come after one that was sent later."""
_MASK: Final = (1 << 64) - 1


class Refused(enum.Enum):
    """Why a datagram is dropped; the names are those of the counters."""

    TRUNCATED = "truncated"
    BAD_KEY = "bad_key"
    """The MAC or the version is not right."""
    WRONG_MEP = "wrong_mep"
    """It has this end's own MEP id: it came back, or both ends have the same."""
    REPLAYED = "replayed"


def derive(text: str) -> bytes:
    """The key of the MACs, from what the user gave."""
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, person=_PERSON).digest()


class TrailerRecord(Record, frozen=True):
    """The state of a Trailer; the key is not part of it."""

    counter: U64
    remote_counter: U64
    remote_window: U64


class Trailer:
    """One end of a tunnel. `counter` is that of its first datagram: it has to be ahead of all that were sent before, so
    it starts as the wall clock's nanoseconds."""

    def __init__(self, key: bytes, mep: int, counter: int) -> None:
        self._key = hashlib.blake2b(key=key, digest_size=MAC_BYTES)
        self._mep = mep
        self._counter = counter
        self._remote_counter = 0
        self._remote_window = 0
        """Bit i: the i-th before `_remote_counter` was received."""

    def seal(self, datagram: bytes) -> bytes:
        """The datagram with its trailer."""
        head = _HEAD.pack(_VERSION, 0, self._mep, self._counter)
        self._counter += 1
        mac = self._key.copy()
        mac.update(datagram)
        mac.update(head)
        return b"".join((datagram, head, mac.digest()))

    def open(self, datagram: bytes) -> bytes | Refused:
        """The datagram without its trailer, or why it is dropped."""
        at = len(datagram) - TRAILER_BYTES
        if at < 0:
            return Refused.TRUNCATED
        signed = datagram[:-MAC_BYTES]
        mac = self._key.copy()
        mac.update(signed)
        if not hmac.compare_digest(mac.digest(), datagram[-MAC_BYTES:]):
            return Refused.BAD_KEY
        version, zero, mep, counter = _HEAD.unpack_from(datagram, at)
        if version != _VERSION or zero:
            return Refused.BAD_KEY
        if mep == self._mep:
            return Refused.WRONG_MEP
        if not self._is_new(counter):
            return Refused.REPLAYED
        return datagram[:at]

    def _is_new(self, counter: int) -> bool:
        """RFC 6479's check, for a window of one word."""
        ahead = counter - self._remote_counter
        if ahead > 0:
            self._remote_window = (self._remote_window << ahead | 1) & _MASK if ahead < WINDOW else 1
            self._remote_counter = counter
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or self._remote_window & bit:
            return False
        self._remote_window |= bit
        return True

    def save(self) -> TrailerRecord:
        return TrailerRecord(
            counter=self._counter, remote_counter=self._remote_counter, remote_window=self._remote_window
        )

    def restore(self, record: TrailerRecord) -> None:
        self._counter = record.counter
        self._remote_counter, self._remote_window = record.remote_counter, record.remote_window
