"""What the 82574 tells of a received frame: packet type, checksums, RSS and the queue (datasheet §7.1).

`device.py` passes each frame. The bits are set as QEMU's e1000e sets them.
"""

from __future__ import annotations

from collections.abc import Mapping

from vnic.nic import packet, rss
from vnic.nic.intel.e1000e import registers as r
from vnic.nic.intel.e1000e.interrupts import ICR_ACK
from vnic.nic.intel.rx_formats import VP, Arrival, Extended, Format, Legacy, PacketSplit

# RCTL, §10.2.5.1
_RCTL_SPLIT = 1 << 10
_FLXBUF_SHIFT = 27
# RFCTL, §10.2.5.20
_IPV6_DIS = 1 << 10
_IPV6_XSUM_DIS = 1 << 11
_ACK_DIS = 1 << 12
_ACK_DATA_DIS = 1 << 13
_IPFRSP_DIS = 1 << 14
_EXTEN = 1 << 15
_IPV6_EX_DIS = 1 << 16
_NEW_IPV6_EXT_DIS = 1 << 17
# RXCSUM, §10.2.5.15
_IPOFL = 1 << 8
_TUOFL = 1 << 9
_PCSD = 1 << 13
# MRQC, §10.2.5.21
_MRQ_MASK, _MRQ_RSS = 3, 1
_RSS_TCP4, _RSS_IP4, _RSS_TCP6, _RSS_IP6_EX, _RSS_IP6 = (1 << bit for bit in range(16, 21))
# RSS type of a descriptor's MRQ
_TYPE_TCP4, _TYPE_IP4, _TYPE_TCP6, _TYPE_IP6_EX, _TYPE_IP6 = range(1, 6)
_MRQ_QUEUE_SHIFT = 8
_RETA_QUEUE = 1 << 7
_RETA_MASK = 0x7F
# Status and errors, §7.1.4.2
_UDPCS, _TCPCS, _IPCS = 1 << 4, 1 << 5, 1 << 6
_IPIDV = 1 << 9
_ACK = 1 << 15
_TYPE_SHIFT = 16
_TCPE, _IPE = 1 << 29, 1 << 30
_TCP_ACK = 1 << 4


def layout(values: Mapping[int, int], rctl: int, buffer_bytes: int) -> Format:
    """The descriptors that RFCTL, RCTL and PSRCTL choose; `buffer_bytes` is what RCTL.BSIZE says."""
    if values.get(r.RFCTL, 0) & _EXTEN and rctl & _RCTL_SPLIT:
        sizes = values.get(r.PSRCTL, 0)
        return PacketSplit(
            (
                (sizes & 0x7F) * 128,
                (sizes >> 8 & 0x3F) * 1024,
                (sizes >> 16 & 0x3F) * 1024,
                (sizes >> 24 & 0x3F) * 1024,
            )
        )
    size = (rctl >> _FLXBUF_SHIFT & 15) * 1024 or buffer_bytes
    return Extended(size) if values.get(r.RFCTL, 0) & _EXTEN else Legacy(size)


def arrival(values: Mapping[int, int], frame: bytes, tag: int | None, chosen: Format) -> Arrival:
    """What the descriptor of `frame` tells, whose VLAN tag was `tag` if one was taken from it."""
    rfctl, rxcsum = values.get(r.RFCTL, 0), values.get(r.RXCSUM, 0)
    found = packet.headers(frame)
    status = VP if tag is not None else 0
    mrq = second = queue = causes = 0
    if rxcsum & _PCSD:
        if _uses_rss(values):
            kind, flow = _flow(values, frame, found, rfctl)
            if kind:
                second = rss.toeplitz(_key(values), flow)
                entry = second & _RETA_MASK
                # RETA and RSSRK are bytes, four to a register.
                byte = values.get(r.RETA + (entry & ~3), 0) >> 8 * (entry & 3)
                queue = int(bool(byte & _RETA_QUEUE))
            mrq = kind | queue << _MRQ_QUEUE_SHIFT
    elif found.version == 4:
        status |= _IPIDV
        second = frame[found.l3 + 4] << 8 | frame[found.l3 + 5]
    ack = found.transport == packet.TCP and frame[found.l4 + 13] & _TCP_ACK
    if ack and not (rfctl & _ACK_DATA_DIS and found.payload < found.end):
        status |= _ACK
        causes = 0 if rfctl & _ACK_DIS else ICR_ACK
    status |= _type(found, rfctl) << _TYPE_SHIFT
    if found.version != 6 or not rfctl & _IPV6_XSUM_DIS:
        status |= _checksums(frame, found, rxcsum)
    header = 0
    if isinstance(chosen, PacketSplit):
        header = _split_at(found, rfctl)
        header = header if chosen.splits(header) else 0
    return Arrival(status, tag or 0, mrq, second, header, queue, causes)


def _type(found: packet.Headers, rfctl: int) -> int:
    """The packet type."""
    if not found.version or (found.version == 6 and rfctl & _IPV6_DIS):
        return 0
    return (1 if found.version == 4 else 5) + bool(found.transport)


def _checksums(frame: bytes, found: packet.Headers, rxcsum: int) -> int:
    bits = 0
    if rxcsum & _IPOFL and (right := packet.ip_checksum_right(frame, found)) is not None:
        bits |= _IPCS if right else _IPCS | _IPE
    if rxcsum & _TUOFL and (right := packet.transport_checksum_right(frame, found)) is not None:
        bits |= _TCPCS if right else _TCPCS | _TCPE
        if found.transport == packet.UDP:
            bits |= _UDPCS
    return bits


def _split_at(found: packet.Headers, rfctl: int) -> int:
    """How long the headers are that packet split separates: behind TCP or UDP, or else behind IP; 0 without IP."""
    if not found.version or (found.fragment and rfctl & _IPFRSP_DIS):
        return 0
    return found.payload or found.l4


def _uses_rss(values: Mapping[int, int]) -> bool:
    enabled = values.get(r.MRQC, 0) & _MRQ_MASK == _MRQ_RSS
    return enabled and bool(values.get(r.RFCTL, 0) & _EXTEN)


def _key(values: Mapping[int, int]) -> bytes:
    words = (values.get(r.RSSRK + 4 * at, 0) for at in range(r.RSSRK_COUNT))
    return b"".join(word.to_bytes(4, "little") for word in words)


def _flow(values: Mapping[int, int], frame: bytes, found: packet.Headers, rfctl: int) -> tuple[int, bytes]:
    """The RSS type and what is hashed; type 0 for a packet that MRQC leaves out."""
    mrqc, tcp = values.get(r.MRQC, 0), found.transport == packet.TCP
    if found.version == 4:
        if tcp and mrqc & _RSS_TCP4:
            return _TYPE_TCP4, rss.flow(frame, found, ports=True)
        if mrqc & _RSS_IP4:
            return _TYPE_IP4, rss.flow(frame, found, ports=False)
    elif found.version == 6:
        plain = not (rfctl & _IPV6_EX_DIS and found.extensions)
        if plain and not (rfctl & _NEW_IPV6_EXT_DIS and (found.home or found.routed)):
            if tcp and mrqc & _RSS_TCP6:
                return _TYPE_TCP6, rss.flow(frame, found, ports=True, extended=True)
            if mrqc & _RSS_IP6_EX:
                return _TYPE_IP6_EX, rss.flow(frame, found, ports=False, extended=True)
        if mrqc & _RSS_IP6:
            return _TYPE_IP6, rss.flow(frame, found, ports=False)
    return 0, b""
