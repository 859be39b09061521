"""The vhost-user wire format: every message as a row of a table, every payload as a layout of known size.

Both engines build and check messages only through this file. Source: QEMU docs/interop/vhost-user.rst, whose
names are kept ("front-end" is the VM's side, "back-end" the device's).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from vnic.protocol.frames import FrameAssembler, Message


class ProtocolError(Exception):
    """The peer violated the protocol. Its connection must be closed; the text is the reason."""

    replies = b""
    """What answers the peer's messages before; it is still to be sent."""


# --- Header: u32 request, u32 flags, u32 payload size in bytes ---------------------------------------------

HEADER: Final = struct.Struct("<III")
assert HEADER.size == 12

VERSION: Final = 0x1
VERSION_MASK: Final = 0x3
FLAG_REPLY: Final = 1 << 2
FLAG_NEED_REPLY: Final = 1 << 3

MAX_PAYLOAD: Final = (
    4096  # the longest legal payload is GET_CONFIG's 12 + 256; the rest is room for a bad one
)
MAX_FDS: Final = 8  # VHOST_MEMORY_BASELINE_NREGIONS: one per region of SET_MEM_TABLE
MAX_CONFIG: Final = 256  # VHOST_USER_MAX_CONFIG_SIZE
READ_BYTES: Final = 1024
"""The most to read at once: the start of a device with two rings is some 600 bytes, and 85 empty messages are some
milliseconds of work."""

# --- Payloads ----------------------------------------------------------------------------------------------

U64: Final = struct.Struct("<Q")
VRING_STATE: Final = struct.Struct("<II")  # index, number
VRING_ADDR: Final = struct.Struct(
    "<IIQQQQ"
)  # index, flags, descriptor, used, available, log (user addresses)
MEM_TABLE: Final = struct.Struct("<II")  # regions, padding; then the regions
MEM_REGION: Final = struct.Struct("<QQQQ")  # guest address, size, user address, offset into the fd
SINGLE_REGION: Final = struct.Struct("<QQQQQ")  # padding, then one region
CONFIG: Final = struct.Struct("<III")  # offset, size, flags; then `size` bytes

for _layout, _size in (
    (U64, 8),
    (VRING_STATE, 8),
    (VRING_ADDR, 40),
    (MEM_TABLE, 8),
    (MEM_REGION, 32),
    (SINGLE_REGION, 40),
    (CONFIG, 12),
):
    assert _layout.size == _size, _layout.format

VRING_INDEX_MASK: Final = 0xFF  # SET_VRING_KICK/CALL/ERR: bits 0–7 are the ring's index …
VRING_NOFD: Final = 1 << 8  # … and bit 8 says that no descriptor comes along
VRING_ADDR_LOG: Final = 1 << 0  # VHOST_VRING_F_LOG

# --- Feature bits ------------------------------------------------------------------------------------------

F_LOG_ALL: Final = 1 << 26  # VHOST_F_LOG_ALL: dirty logging for migration
F_PROTOCOL_FEATURES: Final = 1 << 30  # VHOST_USER_F_PROTOCOL_FEATURES, among the virtio features

P_MQ: Final = 1 << 0
P_LOG_SHMFD: Final = 1 << 1
P_RARP: Final = 1 << 2
P_REPLY_ACK: Final = 1 << 3
P_MTU: Final = 1 << 4
P_BACKEND_REQ: Final = 1 << 5
P_CONFIG: Final = 1 << 9
P_RESET_DEVICE: Final = 1 << 13
P_INBAND_NOTIFICATIONS: Final = 1 << 14
P_CONFIGURE_MEM_SLOTS: Final = 1 << 15
P_STATUS: Final = 1 << 16

# --- Requests of the front-end -----------------------------------------------------------------------------

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
RESET_OWNER: Final = 4
SET_MEM_TABLE: Final = 5
SET_LOG_BASE: Final = 6
SET_LOG_FD: Final = 7
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
SET_VRING_ERR: Final = 14
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
SEND_RARP: Final = 19
NET_SET_MTU: Final = 20
SET_BACKEND_REQ_FD: Final = 21
GET_CONFIG: Final = 24
SET_CONFIG: Final = 25
RESET_DEVICE: Final = 34
GET_MAX_MEM_SLOTS: Final = 36
ADD_MEM_REG: Final = 37
REM_MEM_REG: Final = 38
SET_STATUS: Final = 39
GET_STATUS: Final = 40


@dataclass(frozen=True, slots=True)
class Request:
    """The limits of a valid message: payload bytes (both ends included) and descriptors."""

    number: int
    name: str
    min_size: int = 0
    max_size: int = 0
    min_fds: int = 0
    max_fds: int = 0
    replies: bool = False  # has a reply payload, so NEED_REPLY has no effect

    def check(self, size: int, fds: int) -> None:
        """Raise ProtocolError unless `size` payload bytes with `fds` descriptors are a legal message."""
        if not self.min_size <= size <= self.max_size:
            wanted = (
                f"{self.min_size}" if self.min_size == self.max_size else f"{self.min_size}–{self.max_size}"
            )
            raise ProtocolError(f"{self.name} with a payload of {size} bytes instead of {wanted}")
        if not self.min_fds <= fds <= self.max_fds:
            wanted = f"{self.min_fds}" if self.min_fds == self.max_fds else f"{self.min_fds}–{self.max_fds}"
            raise ProtocolError(f"{self.name} with {fds} descriptors instead of {wanted}")


def _row(number: int, name: str, size: int = 0, fds: tuple[int, int] = (0, 0), **more: int) -> Request:
    return Request(
        number,
        name,
        size,
        more.get("max_size", size),
        *fds,
        replies=bool(more.get("replies")),
    )


_MANY_REGIONS: Final = MEM_TABLE.size + MAX_FDS * MEM_REGION.size
_MANY_CONFIG: Final = CONFIG.size + MAX_CONFIG

# Every request of the specification, also those that this project refuses: a name says more than a number.
REQUESTS: Final[dict[int, Request]] = {
    row.number: row
    for row in (
        _row(GET_FEATURES, "GET_FEATURES", replies=1),
        _row(SET_FEATURES, "SET_FEATURES", U64.size),
        _row(SET_OWNER, "SET_OWNER"),
        _row(RESET_OWNER, "RESET_OWNER"),
        _row(SET_MEM_TABLE, "SET_MEM_TABLE", MEM_TABLE.size, (0, MAX_FDS), max_size=_MANY_REGIONS),
        _row(SET_LOG_BASE, "SET_LOG_BASE", U64.size, (0, 1), max_size=16),
        _row(SET_LOG_FD, "SET_LOG_FD", 0, (0, 1), max_size=U64.size),
        _row(SET_VRING_NUM, "SET_VRING_NUM", VRING_STATE.size),
        _row(SET_VRING_ADDR, "SET_VRING_ADDR", VRING_ADDR.size),
        _row(SET_VRING_BASE, "SET_VRING_BASE", VRING_STATE.size),
        _row(GET_VRING_BASE, "GET_VRING_BASE", VRING_STATE.size, replies=1),
        _row(SET_VRING_KICK, "SET_VRING_KICK", U64.size, (0, 1)),
        _row(SET_VRING_CALL, "SET_VRING_CALL", U64.size, (0, 1)),
        _row(SET_VRING_ERR, "SET_VRING_ERR", U64.size, (0, 1)),
        _row(GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", replies=1),
        _row(SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", U64.size),
        _row(GET_QUEUE_NUM, "GET_QUEUE_NUM", replies=1),
        _row(SET_VRING_ENABLE, "SET_VRING_ENABLE", VRING_STATE.size),
        _row(SEND_RARP, "SEND_RARP", U64.size),
        _row(NET_SET_MTU, "NET_SET_MTU", U64.size),
        _row(SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", 0, (1, 1)),
        _row(GET_CONFIG, "GET_CONFIG", CONFIG.size, max_size=_MANY_CONFIG, replies=1),
        _row(SET_CONFIG, "SET_CONFIG", CONFIG.size, max_size=_MANY_CONFIG),
        _row(RESET_DEVICE, "RESET_DEVICE"),
        _row(GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", replies=1),
        _row(ADD_MEM_REG, "ADD_MEM_REG", SINGLE_REGION.size, (1, 1)),
        _row(REM_MEM_REG, "REM_MEM_REG", SINGLE_REGION.size, (0, 1)),
        _row(SET_STATUS, "SET_STATUS", U64.size),
        _row(GET_STATUS, "GET_STATUS", replies=1),
    )
}

# Known by name only: nothing here offers the features that they need, so each is refused (see BackendEngine).
UNSUPPORTED: Final[dict[int, str]] = {
    22: "IOTLB_MSG",
    23: "SET_VRING_ENDIAN",
    26: "CREATE_CRYPTO_SESSION",
    27: "CLOSE_CRYPTO_SESSION",
    28: "POSTCOPY_ADVISE",
    29: "POSTCOPY_LISTEN",
    30: "POSTCOPY_END",
    31: "GET_INFLIGHT_FD",
    32: "SET_INFLIGHT_FD",
    33: "GPU_SET_SOCKET",
    35: "VRING_KICK",
    41: "GET_SHARED_OBJECT",
    42: "SET_DEVICE_STATE_FD",
    43: "CHECK_DEVICE_STATE",
    44: "GET_SHMEM_CONFIG",
}

# --- Requests of the back-end, on the channel of SET_BACKEND_REQ_FD -----------------------------------------

BACKEND_CONFIG_CHANGE: Final = 2


# --- Building and cutting ----------------------------------------------------------------------------------


class MemRegion(NamedTuple):
    """One region as the front-end declares it; `user_addr` is where the front-end itself has it mapped."""

    guest_addr: int
    size: int
    user_addr: int
    mmap_offset: int


def request_name(number: int) -> str:
    """The specification's name of a front-end request, for log lines."""
    row = REQUESTS.get(number)
    return row.name if row else UNSUPPORTED.get(number, f"request {number}")


def encode(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One whole message; `flags` are those beside the version."""
    return HEADER.pack(request, VERSION | flags, len(payload)) + payload


def payload_size(header: bytes) -> int:
    """What a header announces, for FrameAssembler; an unknown protocol version is refused here already."""
    _, flags, size = HEADER.unpack(header)
    if flags & VERSION_MASK != VERSION:
        raise ProtocolError(f"message with flags {flags:#x}, which is not version 1")
    return int(size)


def needs_fds(message: Message) -> bool:
    """Whether a message is illegal without descriptors, for FrameAssembler."""
    number = int.from_bytes(message.header[:4], "little")
    if number in _RING_FDS:
        return len(message.payload) == U64.size and not U64.unpack(message.payload)[0] & VRING_NOFD
    return number in _NEED_FDS


_RING_FDS: Final = frozenset({SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR})
_NEED_FDS: Final = frozenset({SET_MEM_TABLE, SET_BACKEND_REQ_FD, ADD_MEM_REG})


def assembler() -> FrameAssembler:
    """Cuts either direction of a vhost-user connection into messages."""
    return FrameAssembler(
        HEADER.size, payload_size, max_payload=MAX_PAYLOAD, max_fds=MAX_FDS, needs_fds=needs_fds
    )
