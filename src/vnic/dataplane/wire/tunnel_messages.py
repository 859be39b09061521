"""The control channel's messages about tunnels: receive sockets, CCMs, counters, and the state that is handed over.

`messages` parses them with all others, and the tunnel's netdev makes them. `program/protocol.h` has the same as C
structs.
"""

from __future__ import annotations

import enum
import struct
from typing import ClassVar, Final

import msgspec

from vnic.dataplane.wire.layout import MessageError, first, fixed
from vnic.protocol.cfm.ccm import MEP_IDS, InterfaceStatus

MAID_BYTES: Final = 48
KEY_BYTES: Final = 32

_U32: Final = struct.Struct("<I")
_PAIR: Final = struct.Struct("<II")
_STATE: Final = struct.Struct("<4Q3IH4BHI")
_CONFIG: Final = struct.Struct("<3I2BH48s6s2B32s")  # then the state
_CCM_STATE: Final = struct.Struct("<I4BII")  # port, heard, rdi, status, refused, silent_us, remote_sequence
_FRAME: Final = struct.Struct("<II10s2x")  # port, queue, virtio_net_hdr
_TUNNEL_STATS: Final = struct.Struct("<10Q")
_SOCKET_STATS: Final = struct.Struct("<4Q")
assert (_STATE.size, _CONFIG.size, _CCM_STATE.size) == (56, 104, 16)


class CcmMode(enum.IntEnum):
    """Whether CCMs are sent and judged."""

    OFF = 0
    ON = 1
    AUTO = 2
    """None is expected before the first one was heard."""


class Heard(enum.IntEnum):
    """What came of the peer's CCMs."""

    NEVER = 0
    YES = 1
    LOST = 2


class TunnelState(msgspec.Struct, frozen=True):
    """The part of a tunnel's port that changes: it goes with PortAdd, and comes with PortRemove's reply."""

    counter: int = 1
    """Of the key's trailer, to be sent next."""
    remote_counter: int = 0
    """The highest one accepted; 0: none was."""
    remote_window: int = 0
    """Bit i: `remote_counter - i` was accepted."""
    heard_ns: int = 0
    """CLOCK_MONOTONIC of the last CCM accepted; 0: never."""
    sequence: int = 0
    """Of the CCM to be sent next."""
    remote_sequence: int = 0
    remote_interval_us: int = 0
    """As the last CCM says; 0: none came."""
    remote_mep: int = 0
    heard: Heard = Heard.NEVER
    rdi: bool = False
    """The peer's last CCM says that it does not hear us."""
    remote_status: int = 0
    """The Interface Status of the last CCM; 0: it has none."""
    refused: bool = False
    """ICMP says that the peer does not listen, and no CCM came since."""

    def pack(self) -> bytes:
        return _STATE.pack(*msgspec.structs.astuple(self), 0, 0)

    @classmethod
    def parse(cls, data: bytes) -> TunnelState:
        """Raises MessageError."""
        *fields, heard, rdi, status, refused, _, _ = fixed(_STATE, data)
        if heard not in list(Heard):
            raise MessageError(f"heard {heard}")
        if status > max(InterfaceStatus):
            raise MessageError(f"an interface status of {status}")
        if fields[-1] and fields[-1] not in MEP_IDS:
            raise MessageError(f"a MEP id of {fields[-1]}")
        return cls(*(*fields, Heard(heard), bool(rdi), status, bool(refused)))


class TunnelConfig(msgspec.Struct, frozen=True):
    """What a port of kind TUNNEL is; PortAdd's `own`. Its `dest` is the peer's sockaddr."""

    socket: int
    """Where it receives (SocketAdd)."""
    vni: int
    interval_us: int
    """Of CCMs: 3333, 10000, 100000, … 600000000; 0 with CcmMode.OFF."""
    mode: CcmMode
    level: int
    mep: int
    """Our end: 1 to 8191."""
    maid: bytes
    mac: bytes
    """The source address of CCMs."""
    status: int
    """Our Interface Status."""
    key: bytes = b""
    """KEY_BYTES, or none."""
    state: TunnelState = TunnelState()

    def pack(self) -> bytes:
        head = _CONFIG.pack(
            *(self.socket, self.vni, self.interval_us, self.mode, self.level, self.mep, self.maid, self.mac),
            *(self.status, len(self.key), self.key),
        )
        return head + self.state.pack()

    @classmethod
    def parse(cls, data: bytes) -> TunnelConfig:
        """Raises MessageError."""
        *link, mode, level, mep, maid, mac, status, key_length, key = first(_CONFIG, data)
        if mode not in list(CcmMode) or key_length > KEY_BYTES:
            raise MessageError(f"mode {mode}, a key of {key_length} bytes")
        state = TunnelState.parse(data[_CONFIG.size :])
        return cls(*(*link, CcmMode(mode), level, mep, maid, mac, status, key[:key_length], state))


# -- requests -------------------------------------------------------------------------------------------------------


class SocketAdd(msgspec.Struct, frozen=True):
    """A UDP socket where tunnels receive; it comes as the one descriptor."""

    type: ClassVar[int] = 10
    socket: int

    def body(self) -> bytes:
        return _U32.pack(self.socket)

    @classmethod
    def parse(cls, body: bytes) -> SocketAdd:
        return cls(*fixed(_U32, body))


class SocketRemove(msgspec.Struct, frozen=True):
    """The program closes it before it replies. EBUSY while a port uses it."""

    type: ClassVar[int] = 11
    socket: int

    def body(self) -> bytes:
        return _U32.pack(self.socket)

    @classmethod
    def parse(cls, body: bytes) -> SocketRemove:
        return cls(*fixed(_U32, body))


class CcmSet(msgspec.Struct, frozen=True):
    """Our Interface Status. A CCM with it is sent at once."""

    type: ClassVar[int] = 12
    port: int
    status: int

    def body(self) -> bytes:
        return _PAIR.pack(self.port, self.status)

    @classmethod
    def parse(cls, body: bytes) -> CcmSet:
        return cls(*fixed(_PAIR, body))


class PortToControl(msgspec.Struct, frozen=True):
    """Whether the frames of a tunnel come as FrameReceived, instead of going into its wire."""

    type: ClassVar[int] = 13
    port: int
    on: bool

    def body(self) -> bytes:
        return _PAIR.pack(self.port, self.on)

    @classmethod
    def parse(cls, body: bytes) -> PortToControl:
        port, on = fixed(_PAIR, body)
        if on > 1:
            raise MessageError(f"on {on}")
        return cls(port, bool(on))


class GetTunnelStats(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 14
    port: int

    def body(self) -> bytes:
        return _U32.pack(self.port)

    @classmethod
    def parse(cls, body: bytes) -> GetTunnelStats:
        return cls(*fixed(_U32, body))


class GetSocketStats(msgspec.Struct, frozen=True):
    type: ClassVar[int] = 15
    socket: int

    def body(self) -> bytes:
        return _U32.pack(self.socket)

    @classmethod
    def parse(cls, body: bytes) -> GetSocketStats:
        return cls(*fixed(_U32, body))


# -- replies --------------------------------------------------------------------------------------------------------


class TunnelStats(msgspec.Struct, frozen=True):
    """Counters of a tunnel beside its PortStats. All but the first two count what was dropped."""

    ccm_sent: int = 0
    ccm_received: int = 0
    """Accepted ones."""
    wrong_level: int = 0
    wrong_maid: int = 0
    wrong_mep: int = 0
    """Our own number, in a CCM or a trailer."""
    bad_ccm: int = 0
    old_sequence: int = 0
    bad_key: int = 0
    replayed: int = 0
    truncated: int = 0
    """Without room for an Ethernet header or the trailer."""

    def pack(self) -> bytes:
        return _TUNNEL_STATS.pack(*msgspec.structs.astuple(self))

    @classmethod
    def parse(cls, data: bytes) -> TunnelStats:
        return cls(*fixed(_TUNNEL_STATS, data))


class SocketStats(msgspec.Struct, frozen=True):
    """Datagrams at a receive socket that belong to no tunnel."""

    unknown_vni: int = 0
    unknown_source: int = 0
    """A known VNI from another address."""
    truncated: int = 0
    not_vxlan: int = 0

    def pack(self) -> bytes:
        return _SOCKET_STATS.pack(*msgspec.structs.astuple(self))

    @classmethod
    def parse(cls, data: bytes) -> SocketStats:
        return cls(*fixed(_SOCKET_STATS, data))


# -- events ---------------------------------------------------------------------------------------------------------


class CcmState(msgspec.Struct, frozen=True):
    """Something of it has changed. One that was not read yet is brought up to date instead of a second one."""

    type: ClassVar[int] = 105
    port: int
    heard: Heard
    rdi: bool = False
    """The peer does not hear us."""
    status: int = 0
    """The peer's Interface Status; 0: it has said none."""
    refused: bool = False
    """ICMP says that the peer does not listen, and no CCM came since."""
    silent_us: int = 0
    """Since the last CCM; 0: none came."""
    remote_sequence: int = 0
    """Of the last CCM."""

    def body(self) -> bytes:
        return _CCM_STATE.pack(*msgspec.structs.astuple(self))

    @classmethod
    def parse(cls, body: bytes) -> CcmState:
        port, heard, rdi, status, refused, *numbers = fixed(_CCM_STATE, body)
        if heard not in list(Heard):
            raise MessageError(f"heard {heard}")
        return cls(*(port, Heard(heard), bool(rdi), status, bool(refused), *numbers))


class TunnelTrouble(msgspec.Struct, frozen=True):
    """A counter of its TunnelStats is not zero any more; once for each."""

    type: ClassVar[int] = 107
    port: int
    counter: int
    """Its number in TunnelStats."""

    @property
    def cause(self) -> str:
        """The counter's name."""
        return TunnelStats.__struct_fields__[self.counter]

    def body(self) -> bytes:
        return _PAIR.pack(self.port, self.counter)

    @classmethod
    def parse(cls, body: bytes) -> TunnelTrouble:
        port, counter = fixed(_PAIR, body)
        if not 2 <= counter < len(TunnelStats.__struct_fields__):  # the first two are no trouble
            raise MessageError(f"counter {counter}")
        return cls(port, counter)


class FrameReceived(msgspec.Struct, frozen=True):
    """A frame from the far end of a tunnel whose frames come to control (PortToControl). Nothing is pending in it."""

    type: ClassVar[int] = 106
    port: int
    frame: bytes

    def body(self) -> bytes:
        return _FRAME.pack(self.port, 0, b"") + self.frame

    @classmethod
    def parse(cls, body: bytes) -> FrameReceived:
        port, _, _ = first(_FRAME, body)
        return cls(port, body[_FRAME.size :])
