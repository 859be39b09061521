"""What the driver sets by command blocks: the configuration, its address and the multicast table (SDM §6.4.2.3)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from vnic.nic.multicast import multicast_index
from vnic.record import U64, Mac, Record

MAX_BYTES: Final = 22
_DEFAULT: Final = bytes(6) + b"\x30" + bytes(MAX_BYTES - 7)
"""Standard transmit command blocks and counters."""
_LONGEST: Final = 1514 + 4
_CRC_BITS_AT: Final = 2
BROADCAST: Final = b"\xff" * 6

NOT_FOR_ME: Final = 0x0004
"""A bit of a receive descriptor's status: no individual address matched."""
GROUP: Final = 0x0002


class ConfigurationRecord(Record, frozen=True):
    data: Annotated[bytes, msgspec.Meta(min_length=MAX_BYTES, max_length=MAX_BYTES)]
    address: Mac
    table: U64


class Configuration:
    def __init__(self) -> None:
        self.reset(bytes(6))

    def reset(self, address: bytes) -> None:
        self._data = bytearray(_DEFAULT)
        self.address = address
        self._table = 0

    def configure(self, data: bytes) -> None:
        """As many bytes as the first of them says."""
        count = min(data[0] & 0x3F, MAX_BYTES) if data else 0
        self._data[:count] = data[:count]

    def set_multicast(self, addresses: bytes) -> None:
        self._table = 0
        for at in range(0, len(addresses) - 5, 6):
            self._table |= 1 << multicast_index(addresses[at : at + 6], _CRC_BITS_AT)

    @property
    def extended_blocks(self) -> bool:
        return not self._data[6] & 0x10

    @property
    def loops(self) -> bool:
        return bool(self._data[10] & 0xC0)

    def statistics_bytes(self, most: int) -> int:
        """How many bytes of counters a dump has, of a chip that has `most`."""
        if most == 80 and self._data[6] & 0x04:
            return 80
        return min(most, 64 if self._data[6] & 0x20 else 76)

    def takes(self, frame: bytes) -> int | None:
        """The bits of the status of a received frame; None: it is not received (SDM §6.4.3.1)."""
        if len(frame) > _LONGEST and not self._data[18] & 0x08:
            return None
        promiscuous = self._data[15] & 0x01
        target = frame[:6]
        if target == self.address:
            return 0
        if target == BROADCAST:
            return GROUP if promiscuous or not self._data[15] & 0x02 else None
        if target[0] & 1:
            if self._data[21] & 0x08 or self._table >> multicast_index(target, _CRC_BITS_AT) & 1:
                return GROUP
            return GROUP | NOT_FOR_ME if promiscuous else None
        if promiscuous:
            return NOT_FOR_ME
        several = self._data[20] & 0x40  # "multiple IA": the table is of individual addresses, too
        return 0 if several and self._table >> multicast_index(target, _CRC_BITS_AT) & 1 else None

    def save(self) -> ConfigurationRecord:
        return ConfigurationRecord(data=bytes(self._data), address=self.address, table=self._table)

    def restore(self, record: ConfigurationRecord) -> None:
        self._data[:] = record.data
        self.address, self._table = record.address, record.table
