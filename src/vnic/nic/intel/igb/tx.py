"""The 82576's transmit queues: advanced descriptors (datasheet §7.2.2), as the shared transmit unit carries them out.

An advanced data descriptor says the same as an extended one of the 82540EM with other bits, so that it is carried out
as that; contexts are other ones, two for each queue, and the data descriptor names the one that counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.offloads import Context
from vnic.nic.intel.tx import Transmitter

# The command dword, §7.2.2.2 and §7.2.2.3
_TYPE_MASK, _TYPE_CONTEXT, _TYPE_DATA = 0xF << 20, 2 << 20, 3 << 20
_MAC_TSTAMP: Final = 1 << 19
_EOP, _RS, _DEXT, _VLE, _TSE = 1 << 24, 1 << 27, 1 << 29, 1 << 30, 1 << 31
_LENGTH: Final = 0xFFFF
# The same in an extended descriptor of the 82540EM (SDM §3.3.7)
_EXTENDED_DATA, _EXTENDED_TSE = 1 << 20, 1 << 26
_POPTS: Final = 3
_TXSM: Final = 2
_INDEX: Final = 1 << 2
"""Among the options of a frame: which context counts."""
_TCP, _SCTP = 1, 2
_CHECKSUM_AT = {0: 6, _TCP: 16, _SCTP: 8}
"""Where the transport's checksum is in its header: UDP, TCP, SCTP."""
_MOST: Final = 0xFF


def buffer_of(descriptor: bytes) -> tuple[int, int]:
    """Where a descriptor's buffer is, and its length; 0 for one that has none."""
    lower = int.from_bytes(descriptor[8:12], "little")
    if lower & _DEXT and lower & _TYPE_MASK != _TYPE_DATA:
        return 0, 0
    return int.from_bytes(descriptor[:8], "little"), lower & _LENGTH


def context_of(address: int, lower: int, upper: int) -> Context | None:
    """A context descriptor (§7.2.2.3): lengths of the headers, where the 82540EM has places. None: its headers are
    longer than those of any packet that has a transport."""
    l3 = address >> 9 & 0x7F
    l4 = l3 + (address & 0x1FF)
    header = l4 + (upper >> 8 & 0xFF)
    kind = lower >> 11 & 3
    at = l4 + _CHECKSUM_AT.get(kind, 0)
    if max(header, at) > _MOST:
        return None
    return Context(
        ip_start=l3,
        ip_at=l3 + 10,
        ip_end=max(l4 - 1, 0),
        start=l4,
        at=at,
        ipv4=bool(lower & 1 << 10),
        tcp=kind == _TCP,
        header_bytes=header,
        mss=upper >> 16,
        tag=address >> 16 & 0xFFFF,
        sctp=kind == _SCTP,
    )


class AdvancedTransmitter(Transmitter):
    """One transmit queue."""

    buffer_of = staticmethod(buffer_of)

    @property
    def enabled(self) -> bool:
        """Both the transmit unit and the queue are (§7.2.1.2)."""
        control = self._device.values.get(r.TX + r.QUEUE_BYTES * self.queue + r.TXDCTL, 0)
        return super().enabled and bool(control & r.QUEUE_ENABLE)

    def _descriptor(self, address: int, lower: int, upper: int) -> int:
        if not lower & _DEXT:
            return super()._descriptor(address, lower, upper)  # a legacy one, §7.2.2.1
        kind = lower & _TYPE_MASK
        number = upper >> 4 & 1
        if kind == _TYPE_CONTEXT:
            context = context_of(address, lower, upper)
            if context is None:
                self._device.complain("TX context", f"headers of more than {_MOST} bytes are not offloaded")
            self._set_context(bool(number), context or Context())
        if kind != _TYPE_DATA:
            return 0
        if lower & _MAC_TSTAMP:
            self._device.complain("TX timestamp", "packets get no timestamps")
        same = lower & (_LENGTH | _EOP | _RS | _DEXT | _VLE) | _EXTENDED_DATA
        if lower & _TSE:
            same |= _EXTENDED_TSE
        options = upper >> 8 & _POPTS | _INDEX * number
        return super()._descriptor(address, same, options << 8 | self._contexts[number].tag << 16)

    def _context(self) -> Context:
        return self._contexts[bool(self._options & _INDEX)]

    @property
    def inserts_tags(self) -> bool:
        """The descriptor asks for the tag (§7.4.1); CTRL.VME is about received frames."""
        return True

    def _send(self, legacy_checksum: Context | None) -> int:
        context = self._context()
        if legacy_checksum is None and context.sctp and self._options & _TXSM:
            self._options &= ~_TXSM
            self._parts = [with_crc32c(b"".join(self._parts), context)]
        return super()._send(legacy_checksum)

    # --- Head write-back, §7.2.3 ---

    def _head_at(self) -> int:
        """Where the head is written, in place of Descriptor Done; 0: nowhere."""
        values, first = self._device.values, r.TX + r.QUEUE_BYTES * self.queue
        low = values.get(first + r.TDWBAL, 0)
        return low & ~3 | values.get(first + r.TDWBAH, 0) << 32 if low & 1 else 0

    def _write_back(self) -> int:
        at = self._head_at()
        if not at or not self._owed:
            return super()._write_back()
        self._owed = []
        self._device.dma.write(at, self.ring.head.to_bytes(4, "little"))
        self.ring.keep_written(self._device.shadow)
        return self._device.transmit_causes(self.queue)

    def take_up(self, cells: memoryview) -> None:
        super().take_up(cells)
        at = self._head_at()
        if at and self.ring.usable:
            try:
                self._device.dma.write(at, self.ring.head.to_bytes(4, "little"))
            except GuestMemoryError as error:
                self._device.bus_error("TX", error)


@lru_cache(maxsize=1)
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
        table.append(byte)
    return tuple(table)


def with_crc32c(frame: bytes, context: Context) -> bytes:
    """The frame with SCTP's checksum (RFC 9260 §6.8, appendix A); unchanged where its header is not whole."""
    start, at = context.start, context.at
    if at + 4 > len(frame):
        return frame
    whole = bytearray(frame)
    whole[at : at + 4] = bytes(4)
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in whole[start:]:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    whole[at : at + 4] = (crc ^ 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(whole)
