"""Which receive queue of the 82576 a frame goes to, and what its descriptor tells (datasheet §7.1.1, §7.1.2, §7.1.5).

The receive unit (`nic/intel/rx.py`) asks `Steering` for each frame; `QueuedReceiver` drops a frame whose queue is full.
"""

from __future__ import annotations

from typing import Final

from vnic.nic import packet, rss
from vnic.nic.intel import regs
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.rx import RCTL_EN, Receiver, buffer_bytes
from vnic.nic.intel.rx_formats import VP, Arrival, Extended, Format, Legacy

# Status and errors of an advanced descriptor, §7.1.5.2
_UDPCS: Final = 1 << 4
_L4CS: Final = 1 << 5
_IPCS: Final = 1 << 6
_L4E: Final = 1 << 29
_IPE: Final = 1 << 30
# Packet type, from bit 4 of the first dword on
_IPV4, _IPV6, _IPV6_EXTENDED = 1 << 4, 1 << 6, 1 << 7
_TRANSPORT = {packet.TCP: 1 << 8, packet.UDP: 1 << 9}
_BY_ETHERTYPE: Final = 1 << 15
# RXCSUM, §8.10.6; MRQC, §8.10.15
_IPOFLD, _TUOFLD, _PCSD = 1 << 8, 1 << 9, 1 << 13
MRQC_VMDQ: Final = 1 << 0
_MRQC_MODE, _MRQC_RSS = 7, 2
_RSS_TYPES: Final = {
    # Of MRQC's bits by IP version and transport: those that are looked at in turn, and the type that each means.
    (4, packet.TCP): ((1 << 16, 1), (1 << 17, 2)),
    (4, packet.UDP): ((1 << 22, 7), (1 << 17, 2)),
    (4, 0): ((1 << 17, 2),),
    (6, packet.TCP): ((1 << 18, 3), (1 << 21, 6), (1 << 19, 4), (1 << 20, 5)),
    (6, packet.UDP): ((1 << 24, 9), (1 << 23, 8), (1 << 19, 4), (1 << 20, 5)),
    (6, 0): ((1 << 19, 4), (1 << 20, 5)),
}
_WITH_PORTS: Final = frozenset({1, 3, 6, 7, 8, 9})
_EXTENDED_ADDRESSES: Final = frozenset({3, 4, 9})
# ETQF, §8.10.18
_ETQF_FILTER, _ETQF_QUEUE = 1 << 26, 1 << 31
# SRRCTL, §8.10.2
_BSIZE_PACKET: Final = 0x7F
_DESCTYPE_SHIFT: Final = 25
_SPLIT_TYPES: Final = (2, 5)
_RDMTS_SHIFT: Final = 20
# RCTL
_RCTL_SBP, _RCTL_LPE = 1 << 2, 1 << 5
_FCS_BYTES: Final = 4


class Steering:
    """Reads the registers of RSS, of the EtherType filters and of checksums."""

    def __init__(self, values: dict[int, int]) -> None:
        self._values = values

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        """What the descriptor says of a frame, from which a tag was taken or not, and its queue."""
        values = self._values
        found = packet.headers(frame)
        rxcsum = values.get(r.RXCSUM, 0x300)
        status, queue, kind, hashed = self._checksums(frame, found, rxcsum), 0, 0, 0
        if rxcsum & _PCSD and values.get(r.MRQC, 0) & _MRQC_MODE == _MRQC_RSS:
            kind, hashed = self._hash(frame, found)
            if kind:
                table = values.get(r.RETA + (hashed & 0x7C), 0)
                queue = table >> 8 * (hashed & 3) & 0xF
        kind |= _TRANSPORT.get(found.transport, 0)
        if found.version == 4:
            kind |= _IPV4
        elif found.version == 6:
            kind |= _IPV6 | _IPV6_EXTENDED * found.extensions
        ethertype = int.from_bytes(frame[12:14], "big")
        for number in range(8):
            filtered = values.get(r.ETQF + 4 * number, 0)
            if filtered & _ETQF_FILTER and filtered & 0xFFFF == ethertype:
                kind = kind & 0xF | _BY_ETHERTYPE | number << 4
                queue = filtered >> 16 & 7 if filtered & _ETQF_QUEUE else queue
                break
        return Arrival(status | VP * (tag is not None), tag or 0, kind, hashed, queue=queue)

    def _hash(self, frame: bytes, found: packet.Headers) -> tuple[int, int]:
        """The RSS type of a packet, 0 for none, and its hash."""
        enabled = self._values.get(r.MRQC, 0)
        for bit, kind in _RSS_TYPES.get((found.version, found.transport), ()):
            if enabled & bit:
                flow = rss.flow(frame, found, ports=kind in _WITH_PORTS, extended=kind in _EXTENDED_ADDRESSES)
                return kind, rss.toeplitz(self._key(), flow)
        return 0, 0

    def _key(self) -> bytes:
        values = self._values
        return b"".join(values.get(r.RSSRK + 4 * at, 0).to_bytes(4, "little") for at in range(10))

    @staticmethod
    def _checksums(frame: bytes, found: packet.Headers, rxcsum: int) -> int:
        status = 0
        if rxcsum & _IPOFLD:
            right = packet.ip_checksum_right(frame, found)
            if right is not None:
                status |= _IPCS | _IPE * (not right)
        if rxcsum & _TUOFLD:
            right = packet.transport_checksum_right(frame, found)
            if right is not None:
                status |= _L4CS | _L4E * (not right) | _UDPCS * (found.transport == packet.UDP)
        return status

    # --- A queue's own registers ---

    def enabled(self, queue: int) -> bool:
        return bool(self._values.get(r.RX + r.QUEUE_BYTES * queue + r.RXDCTL, 0) & r.QUEUE_ENABLE)

    def _control(self, queue: int) -> int:
        return self._values.get(r.RX + r.QUEUE_BYTES * queue + r.SRRCTL, 0)

    def format(self, queue: int, rctl: int) -> Format:
        """The layout that SRRCTL chooses: legacy, or advanced with one buffer."""
        control = self._control(queue)
        size = (control & _BSIZE_PACKET) << 10 or buffer_bytes(rctl)
        return Extended(size) if control >> _DESCTYPE_SHIFT & 7 else Legacy(size)

    def splits(self, queue: int) -> bool:
        """The guest asks for header split, which is not done: as if no header was recognized, SPH stays clear and all
        of a frame is in the packet buffer (§7.1.10)."""
        return self._control(queue) >> _DESCTYPE_SHIFT & 7 in _SPLIT_TYPES

    def threshold(self, queue: int) -> int:
        """RDMTS: at so many free descriptors there is an interrupt cause."""
        return (self._control(queue) >> _RDMTS_SHIFT & 31) * 16


class QueuedReceiver(Receiver):
    """A queue without room does not hold up the others: as long as any has some, its frames are dropped."""

    def receive(self, frame: bytes | bytearray | memoryview, *, looped: bool = False) -> bool:
        values = self._device.values
        long_ones = self.rctl & (RCTL_EN | _RCTL_LPE | _RCTL_SBP) == RCTL_EN | _RCTL_LPE
        if long_ones and len(frame) + _FCS_BYTES > values.get(r.RLPML, 0):
            self._device.statistics.add(regs.ROC)
            return True
        return super().receive(frame, looped=looped)

    def _store(self, data: bytes, size: int, destination: bytes, arrival: Arrival) -> bool:
        values, number = self._device.values, arrival.queue
        steering = Steering(values)
        if not steering.enabled(number):
            return True
        if super()._store(data, size, destination, arrival):
            return True
        others = (each for each in self.queues if each.number != number and steering.enabled(each.number))
        if not any(each.ring.usable and each.ring.available for each in others):
            return False
        self.queues[number].waits = False
        self.missed()
        count = r.RX + r.QUEUE_BYTES * number + r.RQDPC
        values[count] = min(values.get(count, 0) + 1, 0xFFF)
        return True
