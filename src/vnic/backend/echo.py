"""echo: a host with one address of each family that answers requests, so that a guest has a host to ping.

The registry makes it, and `vnic demo` puts it at the far end of its wires. It answers ARP (RFC 826), neighbour
solicitations (RFC 4861) and echo requests of ICMP and ICMPv6 only; malformed requests get no answer.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import deque
from typing import Annotated, Final

import msgspec

from vnic.backend.base import Backend, BackendContext
from vnic.backend.options import EchoOptions
from vnic.keep import NO_HANDLES, NoHandles
from vnic.net.errors import NetError
from vnic.net.names import parse_mac
from vnic.net.offload import checksum
from vnic.net.queue import Frame
from vnic.record import U16, Record, require

ETH_BYTES = 14
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
ETH_MIN_BYTES = 60
"""The shortest Ethernet frame, without FCS: shorter answers are padded, as by a physical NIC."""

_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ARP_ETHERNET_IPV4 = (1, ETH_P_IP, 6, 4)
_ARP_REQUEST = 1
_ARP_REPLY = 2
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_ICMP = 1
_ICMPV6 = 58
_ICMP_ECHO_REQUEST = 8
_ICMP_ECHO_REPLY = 0
_ICMPV6_ECHO_REQUEST = 128
_ICMPV6_ECHO_REPLY = 129
_ICMPV6_NEIGHBOR_SOLICITATION = 135
_ICMPV6_NEIGHBOR_ADVERTISEMENT = 136
_NA_SOLICITED = 0x40000000
_NA_OVERRIDE = 0x20000000
_OPTION_TARGET_LINK_ADDRESS = 2
_HOP_LIMIT = 64
_NDP_HOP_LIMIT = 255
"""The hop limit of every valid NDP message, which proves that it was not routed (RFC 4861 §7.1)."""

ALL_NODES_IP6 = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")

MAX_ANSWERS_WAITING = 256
"""The answers that are kept while the guest has no room for them; newer ones are dropped."""


class Responder:
    """The host without a wire: takes a frame and returns the answer. It has no side effects; tests and the demo use
    it."""

    def __init__(self, mac: bytes, ip: str, ip6: str) -> None:
        """Raises ValueError for an invalid address."""
        self.mac = mac
        self.ip = ipaddress.IPv4Address(ip).packed
        self.ip6 = ipaddress.IPv6Address(ip6).packed
        self._multicast = {b"\xff" * 6, bytes.fromhex("3333ff") + self.ip6[-3:], ALL_NODES_MAC}
        self._solicited_ip6 = bytes.fromhex("ff0200000000000000000001ff") + self.ip6[-3:]

    def answer(self, frame: Frame) -> bytes | None:
        """The answer to `frame`. None if it is for another host, no request, or malformed."""
        data = bytes(frame)
        if len(data) < ETH_BYTES or (data[:6] != self.mac and data[:6] not in self._multicast):
            return None
        target = data[6:12]
        if target[0] & 1:
            return None
        ether_type = int.from_bytes(data[12:14], "big")
        payload = data[ETH_BYTES:]
        reply: bytes | None = None
        if ether_type == ETH_P_ARP:
            reply = self._arp(payload)
        elif ether_type == ETH_P_IP:
            reply = self._ipv4(payload)
        elif ether_type == ETH_P_IPV6:
            reply = self._ipv6(payload)
            if reply is not None and reply[24:40] == ALL_NODES_IP6:
                target = ALL_NODES_MAC
        if reply is None:
            return None
        return (target + self.mac + data[12:14] + reply).ljust(ETH_MIN_BYTES, b"\0")

    def _arp(self, data: bytes) -> bytes | None:
        if len(data) < _ARP.size:
            return None
        *kind, operation, sender_mac, sender_ip, _, target_ip = _ARP.unpack_from(data)
        if tuple(kind) != _ARP_ETHERNET_IPV4 or operation != _ARP_REQUEST or target_ip != self.ip:
            return None
        return _ARP.pack(*_ARP_ETHERNET_IPV4, _ARP_REPLY, self.mac, self.ip, sender_mac, sender_ip)

    def _ipv4(self, data: bytes) -> bytes | None:
        """An echo reply. Fragments and options get no answer, because ping does not need them."""
        if len(data) < _IPV4.size:
            return None
        version_ihl, tos, total, ident, fragment, _ttl, protocol, _sum, source, target = _IPV4.unpack_from(
            data
        )
        if version_ihl != 0x45 or fragment & 0x3FFF or protocol != _ICMP or target != self.ip:
            return None
        if not _IPV4.size + 8 <= total <= len(data) or checksum(data[: _IPV4.size]) != 0xFFFF:
            return None
        message = data[_IPV4.size : total]
        if message[0] != _ICMP_ECHO_REQUEST or message[1] != 0 or checksum(message) != 0xFFFF:
            return None
        reply = bytes((_ICMP_ECHO_REPLY, 0, 0, 0)) + message[4:]
        reply = reply[:2] + checksum(reply).to_bytes(2, "big") + reply[4:]
        header = _IPV4.pack(0x45, tos, total, ident, 0, _HOP_LIMIT, _ICMP, 0, self.ip, source)
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + reply

    def _ipv6(self, data: bytes) -> bytes | None:
        if len(data) < _IPV6.size:
            return None
        first_word, length, next_header, hop_limit, source, target = _IPV6.unpack_from(data)
        if first_word >> 28 != 6 or next_header != _ICMPV6 or target not in (self.ip6, self._solicited_ip6):
            return None
        message = data[_IPV6.size : _IPV6.size + length]
        if len(message) != length or length < 8 or source[0] == 0xFF:
            return None
        if checksum(_pseudo_header(source, target, length) + message) != 0xFFFF:
            return None
        if message[0] == _ICMPV6_ECHO_REQUEST and target == self.ip6:
            reply = bytes((_ICMPV6_ECHO_REPLY, 0, 0, 0)) + message[4:]
            return self._icmpv6(source, reply, _HOP_LIMIT)
        if message[0] == _ICMPV6_NEIGHBOR_SOLICITATION and hop_limit == _NDP_HOP_LIMIT:
            return self._neighbor_advertisement(source, message)
        return None

    def _neighbor_advertisement(self, source: bytes, message: bytes) -> bytes | None:
        """RFC 4861 §7.2.4. A sender at :: probes whether the address is in use: the answer goes to all nodes."""
        if len(message) < 24 or message[1] != 0 or message[8:24] != self.ip6:
            return None
        nameless = source == bytes(16)
        flags = _NA_OVERRIDE if nameless else _NA_SOLICITED | _NA_OVERRIDE
        reply = struct.pack(">BBHI", _ICMPV6_NEIGHBOR_ADVERTISEMENT, 0, 0, flags)
        reply += self.ip6 + bytes((_OPTION_TARGET_LINK_ADDRESS, 1)) + self.mac
        return self._icmpv6(ALL_NODES_IP6 if nameless else source, reply, _NDP_HOP_LIMIT)

    def _icmpv6(self, target: bytes, message: bytes, hop_limit: int) -> bytes:
        """Wrap an ICMPv6 message whose checksum field is 0."""
        value = checksum(_pseudo_header(self.ip6, target, len(message)) + message)
        message = message[:2] + value.to_bytes(2, "big") + message[4:]
        return _IPV6.pack(6 << 28, len(message), _ICMPV6, hop_limit, self.ip6, target) + message


def _pseudo_header(source: bytes, target: bytes, length: int) -> bytes:
    """RFC 8200 §8.1."""
    return source + target + struct.pack(">II", length, _ICMPV6)


class EchoAnswerRecord(Record, frozen=True):
    """An answer that waits."""

    queue: U16
    frame: bytes


class EchoRecord(Record, frozen=True):
    """The state of an EchoBackend."""

    answers: Annotated[list[EchoAnswerRecord], msgspec.Meta(max_length=MAX_ANSWERS_WAITING)]


class _KeptAnswers:
    """Answers in memory that outlives the process, from the moment in which the guest's request is taken: it is never
    asked again. One that is given out in the moment of a kill is given out twice."""

    SLOTS: Final = 16
    CELLS: Final = 192
    """Of one answer, which is kept if it is not longer than 1536 bytes."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self._data = cells.cast("B")
        self._next = 1 + max((self._cells[self._head(slot)] >> 32 for slot in range(self.SLOTS)), default=0)

    @classmethod
    def size(cls) -> int:
        """In cells."""
        return cls.SLOTS * (1 + cls.CELLS)

    def _head(self, slot: int) -> int:
        return slot * (1 + self.CELLS)

    def put(self, queue: int, frame: bytes) -> int | None:
        """The slot; None: there is no room."""
        if len(frame) > 8 * self.CELLS:
            return None
        for slot in range(self.SLOTS):
            head = self._head(slot)
            if not self._cells[head]:
                start = 8 * (head + 1)
                self._data[start : start + len(frame)] = frame
                self._cells[head] = self._next << 32 | queue << 16 | len(frame)
                self._next = self._next + 1 & 0xFFFF_FFFF
                return slot
        return None

    def free(self, slot: int) -> None:
        self._cells[self._head(slot)] = 0

    def answers(self, queues: int) -> list[tuple[int, bytes, int]]:
        """Those of the process before, the oldest first: the queue, the frame and the slot."""
        found = []
        for slot in range(self.SLOTS):
            head = self._head(slot)
            word = self._cells[head]
            queue, length = word >> 16 & 0xFFFF, word & 0xFFFF
            if word and queue < queues and 0 < length <= 8 * self.CELLS:
                start = 8 * (head + 1)
                found.append((word >> 32, (queue, bytes(self._data[start : start + length]), slot)))
            else:
                self.free(slot)
        return [each for _, each in sorted(found)]


class EchoBackend(Backend):
    """The host as a netdev."""

    kept_type = EchoRecord, NoHandles

    def __init__(self, context: BackendContext, options: EchoOptions) -> None:
        super().__init__(context)
        self._text = f"ip={options.ip},ip6={options.ip6},mac={options.mac}"
        for key, kind in (("ip", ipaddress.IPv4Address), ("ip6", ipaddress.IPv6Address)):
            try:
                kind(getattr(options, key))
            except ValueError as error:
                raise NetError(f"Parameter '{key}': {error}") from None
        self.host = Responder(parse_mac(options.mac, "echo"), options.ip, options.ip6)
        self._answers: deque[tuple[int, bytes, int | None]] = deque()
        """The queue, the frame, and its slot if it is among the kept ones."""
        self._kept_answers: _KeptAnswers | None = None
        self._scheduled = False

    def start(self) -> None:
        if self.context.keep.active:
            self._kept_answers = _KeptAnswers(self.context.keep.cells(self.key, _KeptAnswers.size()))

    def save(self) -> EchoRecord:
        return EchoRecord(
            answers=[
                EchoAnswerRecord(queue=queue, frame=frame)
                for queue, frame, slot in self._answers
                if slot is None
            ]
        )

    def save_kept(self) -> tuple[EchoRecord, NoHandles]:
        return self.save(), NO_HANDLES

    def take_up(self, record: EchoRecord, handles: NoHandles) -> None:
        self.start()
        self.restore(record)
        if self._kept_answers is not None:
            self._answers.extendleft(reversed(self._kept_answers.answers(self.queues)))
            if self._answers:
                self._schedule()

    def restore(self, record: EchoRecord) -> None:
        """Send the answers that waited, in the next turn. Called instead of `start`, which opens nothing."""
        for at, each in enumerate(record.answers):
            require(each.queue < self.queues, f"answers[{at}].queue", f"is {each.queue}, of {self.queues}")
        self._answers = deque((each.queue, each.frame, None) for each in record.answers)
        if self._answers:
            self._schedule()

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Answer in the loop's next turn: the guest must not receive a frame within its own send."""
        reply = self.host.answer(frame)
        if reply is not None and len(self._answers) < MAX_ANSWERS_WAITING:
            slot = None if self._kept_answers is None else self._kept_answers.put(queue, reply)
            self._answers.append((queue, reply, slot))
            self._schedule()
            if slot is None:
                self.kept.changed()
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        while self._answers:
            queue, reply, slot = self._answers.popleft()
            taken = self.client.send(queue, reply)
            if slot is None:
                self.kept.changed()
            elif self._kept_answers is not None:
                self._kept_answers.free(slot)
            if not taken:
                return  # it waits at the peer; `sent` continues with the others

    def sent(self, queue: int) -> None:
        if self._answers:
            self._schedule()

    def info_text(self, queue: int) -> str:
        return self._text

    def cleanup(self) -> None:
        self._answers.clear()
