"""The control channel's messages, without a socket: each as a dataclass that packs itself, and the parser of the rest.

`channel` sends requests and parses what vnic-wire sends; a program written in Python (the tests' fake) uses the other
direction. Layouts are little-endian, version 2; `program/protocol.h` has the same as C structs.
"""

from __future__ import annotations

import enum
import struct
from typing import ClassVar, Final, TypeAlias, get_args

import msgspec

from vnic.dataplane.wire import tunnel_messages as t
from vnic.dataplane.wire.impair_messages import GetImpairment, Impair
from vnic.dataplane.wire.layout import MessageError, cut, first, fixed
from vnic.dataplane.wire.recall_messages import Hold, LinesDrop, LineTake, PortRecall

VERSION: Final = 2
MAX_MESSAGE_BYTES: Final = 160 * 1024
"""The longest message, either way."""
ALL_PORTS: Final = 0xFFFF_FFFF
STATS_PORTS: Final = 700
"""The most ports in a reply to GetStats."""
MAX_QUEUES: Final = 128
"""The most queues of a port."""
MAX_WORKERS: Final = 64
"""The most threads that move frames."""
MAX_SPIN_US: Final = 1_000_000
"""The longest time that a thread may poll after its last frame."""

HEAD: Final = struct.Struct("<II")  # type, serial
_HELLO: Final = struct.Struct("<IIII")  # version, workers, spin_us, reserved
_PORT: Final = struct.Struct("<7I")  # port, kind, queues, flags, max_frame, dest and own lengths
_LENGTHS: Final = struct.Struct("<II")
_U32: Final = struct.Struct("<I")
_FILTER: Final = struct.Struct("<II6sHHH")  # port, bits, mac, unicast, multicast, overflow
_DUMP: Final = struct.Struct("<IIII")  # port, dump, snaplen, direction
_INJECT: Final = struct.Struct("<III")  # port, queue, direction
_REPLY: Final = struct.Struct("<iI")  # error, about
_PORT_LOST: Final = struct.Struct("<IiI")
_RING: Final = struct.Struct("<II")
_DUMP_FAILED: Final = struct.Struct("<Ii")
_DOORBELL: Final = struct.Struct("<IIQQI4x")  # port, region, first, bytes, stride
_RETURNED: Final = struct.Struct("<II10s2x")  # port, queue, virtio_net_hdr
VLAN_BYTES: Final = 512
"""One bit for each of 4096 VLANs."""
assert (HEAD.size, _PORT.size, _FILTER.size) == (8, 28, 20)


class Kind(enum.IntEnum):
    """What a port is."""

    VHOST = 1
    TAP = 2
    STREAM = 3
    DGRAM = 4
    PACKET = 5
    TUNNEL = 6


class PortFlag(enum.IntFlag):
    VNET_HDR = 1
    """Each frame comes behind a virtio_net_hdr of 10 bytes (TAP, PACKET)."""
    MULTICAST_OWN = 2
    """Datagrams from the port's own address are dropped."""
    OFFLOAD = 4
    """The far end takes frames with a pending checksum or segmentation."""


class FilterBit(enum.IntFlag):
    """The modes of a receive filter (nic/virtio_net/rx_filter.py)."""

    PROMISC = 1
    ALLMULTI = 2
    ALLUNI = 4
    NOMULTI = 8
    NOUNI = 16
    NOBCAST = 32
    ENABLED = 64
    """Not set: all frames pass."""


class Overflow(enum.IntFlag):
    """Tables with more addresses than fit: all of that kind pass."""

    UNICAST = 1
    MULTICAST = 2


class Direction(enum.IntEnum):
    """What a dump writes."""

    NONE = 0
    RX = 1
    """Frames that the port is given."""
    TX = 2
    """Frames that come from the port."""
    ALL = 3


# -- requests -------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 1
    version: int = VERSION
    workers: int = 1
    spin_us: int = 0

    def body(self) -> bytes:
        return _HELLO.pack(self.version, self.workers, self.spin_us, 0)

    @classmethod
    def parse(cls, body: bytes) -> Hello:
        version, workers, spin_us, _ = fixed(_HELLO, body)
        return cls(version, workers, spin_us)


class PortAdd(msgspec.Struct, frozen=True):
    """One more port. `dest` and `own` are sockaddrs (DGRAM). A STREAM comes with its `StreamMemory`, too. The `own` of
    a TUNNEL is its packed `TunnelConfig`."""

    type: ClassVar[int] = 2
    port: int
    kind: Kind
    queues: int = 1
    flags: PortFlag = PortFlag(0)
    max_frame: int = 0
    dest: bytes = b""
    own: bytes = b""

    def body(self) -> bytes:
        lengths = len(self.dest), len(self.own)
        head = _PORT.pack(self.port, self.kind, self.queues, self.flags, self.max_frame, *lengths)
        return head + self.dest + self.own

    @classmethod
    def parse(cls, body: bytes) -> PortAdd:
        port, kind, queues, flags, max_frame, *lengths = first(_PORT, body)
        dest, own = cut(body[_PORT.size :], lengths)
        if kind not in list(Kind):
            raise MessageError(f"kind {kind}")
        return cls(port, Kind(kind), queues, PortFlag(flags), max_frame, dest, own)


class PortRemove(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 3
    port: int

    def body(self) -> bytes:
        return _U32.pack(self.port)

    @classmethod
    def parse(cls, body: bytes) -> PortRemove:
        return cls(*fixed(_U32, body))


class AddDoorbell(msgspec.Struct, frozen=True):
    """The kicks of a VHOST port's VM are messages on a vfio-user connection: writes to `size` bytes from `first` on in
    a region, `stride` bytes for each ring. Comes with the connection and the two eventfds of its turns."""

    type: ClassVar[int] = 16
    port: int
    region: int
    first: int
    size: int
    stride: int

    def body(self) -> bytes:
        return _DOORBELL.pack(self.port, self.region, self.first, self.size, self.stride)

    @classmethod
    def parse(cls, body: bytes) -> AddDoorbell:
        return cls(*fixed(_DOORBELL, body))


class WireSet(msgspec.Struct, frozen=True):
    """The ports of a wire; none removes it. Other wires, and frames between ports that stay, are not affected."""

    type: ClassVar[int] = 4
    wire: int
    ports: tuple[int, ...]

    def body(self) -> bytes:
        return struct.pack(f"<{2 + len(self.ports)}I", self.wire, len(self.ports), *self.ports)

    @classmethod
    def parse(cls, body: bytes) -> WireSet:
        wire, count = first(_LENGTHS, body)
        if len(body) != _LENGTHS.size + 4 * count:
            raise MessageError(f"{count} ports in {len(body)} bytes")
        return cls(wire, struct.unpack_from(f"<{count}I", body, _LENGTHS.size))


class SetFilter(msgspec.Struct, frozen=True):
    """The receive filter of a VHOST port's driver."""

    type: ClassVar[int] = 5
    port: int
    bits: FilterBit
    mac: bytes = bytes(6)
    unicast: tuple[bytes, ...] = ()
    multicast: tuple[bytes, ...] = ()
    overflow: Overflow = Overflow(0)
    vlans: bytes = b"\xff" * VLAN_BYTES
    """Bit v & 7 of byte v >> 3: VLAN v passes."""

    def body(self) -> bytes:
        lengths = len(self.unicast), len(self.multicast)
        head = _FILTER.pack(self.port, self.bits, self.mac, *lengths, self.overflow)
        return head + b"".join((*self.unicast, *self.multicast)) + self.vlans

    @classmethod
    def parse(cls, body: bytes) -> SetFilter:
        port, bits, mac, unicast, multicast, overflow = first(_FILTER, body)
        lists, vlans = cut(body[_FILTER.size :], (6 * (unicast + multicast), VLAN_BYTES))
        macs = tuple(lists[at : at + 6] for at in range(0, len(lists), 6))
        return cls(
            port, FilterBit(bits), mac, macs[:unicast], macs[unicast:], Overflow(overflow), bytes(vlans)
        )


class Dump(msgspec.Struct, frozen=True):
    """Copy the frames of `port` to the pcap file that comes with it; no direction ends that."""

    type: ClassVar[int] = 6
    port: int
    dump: int
    snaplen: int = 0
    direction: Direction = Direction.NONE

    def body(self) -> bytes:
        return _DUMP.pack(self.port, self.dump, self.snaplen, self.direction)

    @classmethod
    def parse(cls, body: bytes) -> Dump:
        port, dump, snaplen, direction = fixed(_DUMP, body)
        if direction not in list(Direction):
            raise MessageError(f"direction {direction}")
        return cls(port, dump, snaplen, Direction(direction))


class Inject(msgspec.Struct, frozen=True):
    """One frame: out at the port, or with `inward` into its wire, as if the port had received it."""

    type: ClassVar[int] = 7
    port: int
    queue: int
    frame: bytes
    inward: bool = False

    def body(self) -> bytes:
        return _INJECT.pack(self.port, self.queue, self.inward) + self.frame

    @classmethod
    def parse(cls, body: bytes) -> Inject:
        port, queue, inward = first(_INJECT, body)
        if inward > 1:
            raise MessageError(f"direction {inward}")
        return cls(port, queue, body[_INJECT.size :], bool(inward))


class GetStats(msgspec.Struct, frozen=True):
    """The counters of one port, or of STATS_PORTS ports from `start` on in ascending order."""

    type: ClassVar[int] = 8
    port: int = ALL_PORTS
    start: int = 0

    def body(self) -> bytes:
        return _LENGTHS.pack(self.port, self.start)

    @classmethod
    def parse(cls, body: bytes) -> GetStats:
        return cls(*fixed(_LENGTHS, body))


_OfTunnels: TypeAlias = (
    t.SocketAdd | t.SocketRemove | t.CcmSet | t.PortToControl | t.GetTunnelStats | t.GetSocketStats
)
_OfImpairments: TypeAlias = Impair | GetImpairment | LineTake | LinesDrop
Request: TypeAlias = (
    Hello
    | PortAdd
    | PortRemove
    | AddDoorbell
    | WireSet
    | SetFilter
    | Dump
    | Inject
    | GetStats
    | Hold
    | PortRecall
    | _OfTunnels
    | _OfImpairments
)
_REQUESTS: Final = {each.type: each for each in get_args(Request)}


def pack_request(serial: int, request: Request) -> bytes:
    """The message. ValueError if it is longer than a message may be."""
    return _message(request.type, serial, request.body())


def parse_request(data: bytes) -> tuple[int, Request]:
    """(serial, request). Raises MessageError."""
    number, serial, body = _split(data)
    if number not in _REQUESTS:
        raise MessageError(f"there is no request {number}")
    return serial, _REQUESTS[number].parse(body)


# -- replies and events ---------------------------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True):
    """The answer to the request of that serial. `error` is 0 or an errno, and `data` its text then."""

    type: ClassVar[int] = 0
    serial: int
    error: int = 0
    data: bytes = b""
    about: int = 0
    """The request's type and the number of its port, for who did not send it."""

    @property
    def request(self) -> int:
        return self.about >> 24

    @property
    def port(self) -> int:
        return self.about & 0xFF_FFFF


class PortLost(msgspec.Struct, frozen=True):
    """The port's descriptor failed (`error`), or has come to its end (0); the port is idle until it is removed."""

    type: ClassVar[int] = 100
    port: int
    error: int
    queue: int = 0


class RingBroken(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 101
    port: int
    ring: int
    text: str


class Log(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 102
    level: int
    text: str


class DumpFailed(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 103
    dump: int
    error: int


class FrameReturned(msgspec.Struct, frozen=True):
    """A frame that a removed port had read and not passed on; it comes before the reply to PortRemove. `header` is its
    virtio_net_hdr."""

    type: ClassVar[int] = 104
    port: int
    queue: int
    header: bytes
    frame: bytes
    number: int = 0
    """The running number of this frame."""


_EventOfTunnels: TypeAlias = t.CcmState | t.FrameReceived | t.TunnelTrouble
Event: TypeAlias = PortLost | RingBroken | Log | DumpFailed | FrameReturned | _EventOfTunnels


def pack_answer(answer: Reply | Event) -> bytes:
    """What vnic-wire sends."""
    match answer:
        case Reply(serial, error, data, about):
            return _message(Reply.type, serial, _REPLY.pack(error, about) + data)
        case PortLost(port, error, queue):
            body = _PORT_LOST.pack(port, error, queue)
        case RingBroken(port, ring, text):
            body = _RING.pack(port, ring) + text.encode()
        case Log(level, text):
            body = _U32.pack(level) + text.encode()
        case DumpFailed(dump, error):
            body = _DUMP_FAILED.pack(dump, error)
        case FrameReturned(port, queue, header, frame, number):
            return _message(answer.type, number, _RETURNED.pack(port, queue, header) + frame)
        case t.CcmState() | t.FrameReceived() | t.TunnelTrouble():
            body = answer.body()
    return _message(answer.type, 0, body)


def parse_answer(data: bytes) -> Reply | Event:
    """Raises MessageError."""
    number, serial, body = _split(data)
    match number:
        case Reply.type:
            error, about = first(_REPLY, body)
            return Reply(serial, error, body[_REPLY.size :], about)
        case PortLost.type:
            return PortLost(*fixed(_PORT_LOST, body))
        case RingBroken.type:
            port, ring = first(_RING, body)
            return RingBroken(port, ring, _text(body[_RING.size :]))
        case Log.type:
            (level,) = first(_U32, body)
            return Log(level, _text(body[_U32.size :]))
        case DumpFailed.type:
            return DumpFailed(*fixed(_DUMP_FAILED, body))
        case FrameReturned.type:
            port, queue, header = first(_RETURNED, body)
            return FrameReturned(port, queue, header, body[_RETURNED.size :], serial)
        case t.CcmState.type:
            return t.CcmState.parse(body)
        case t.FrameReceived.type:
            return t.FrameReceived.parse(body)
        case t.TunnelTrouble.type:
            return t.TunnelTrouble.parse(body)
    raise MessageError(f"there is no event {number}")


# -- parts ----------------------------------------------------------------------------------------------------------


def _message(number: int, serial: int, body: bytes) -> bytes:
    if HEAD.size + len(body) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"a message of {HEAD.size + len(body)} bytes, at most {MAX_MESSAGE_BYTES} may be sent"
        )
    return HEAD.pack(number, serial) + body


def _split(data: bytes) -> tuple[int, int, bytes]:
    number, serial = first(HEAD, data)
    return number, serial, data[HEAD.size :]


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
