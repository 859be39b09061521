"""The vfio-user wire format: header, commands, and every payload as a layout of known size.

`server` checks and builds messages only through this file. Names are those of libvfio-user's vfio-user.h and of
linux/vfio.h, whose structures most payloads are.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final

from vnic.protocol.frames import FrameAssembler


class ProtocolError(Exception):
    """The peer violated the protocol. Its connection must be closed; the text is the reason."""


class Refused(Exception):
    """A request is answered with an errno; the connection continues."""

    def __init__(self, errno: int, text: str) -> None:
        super().__init__(text)
        self.errno = errno


# --- Header: u16 message id, u16 command, u32 size with the header, u32 flags, u32 errno ---

HEADER: Final = struct.Struct("<HHIII")

FLAG_TYPE: Final = 0x0F
TYPE_COMMAND: Final = 0
TYPE_REPLY: Final = 1
FLAG_NO_REPLY: Final = 0x10
FLAG_ERROR: Final = 0x20

VERSION: Final = 1
DMA_MAP: Final = 2
DMA_UNMAP: Final = 3
DEVICE_GET_INFO: Final = 4
DEVICE_GET_REGION_INFO: Final = 5
DEVICE_GET_REGION_IO_FDS: Final = 6
DEVICE_GET_IRQ_INFO: Final = 7
DEVICE_SET_IRQS: Final = 8
REGION_READ: Final = 9
REGION_WRITE: Final = 10
DMA_READ: Final = 11
DMA_WRITE: Final = 12
DEVICE_RESET: Final = 13
DIRTY_PAGES: Final = 14
REGION_WRITE_MULTI: Final = 15
DEVICE_FEATURE: Final = 16
MIG_DATA_READ: Final = 17
MIG_DATA_WRITE: Final = 18

# --- Payloads ---

VERSION_NUMBERS: Final = struct.Struct("<HH")  # major, minor; then JSON with a NUL
DMA_MAP_LAYOUT: Final = struct.Struct("<IIQQQ")  # argsz, flags, offset into the fd, address, size
DMA_UNMAP_LAYOUT: Final = struct.Struct("<IIQQ")  # argsz, flags, address, size
DEVICE_INFO: Final = struct.Struct("<IIII")  # argsz, flags, regions, irqs
REGION_INFO: Final = struct.Struct("<IIIIQQ")  # argsz, flags, index, capability offset, size, offset
IRQ_INFO: Final = struct.Struct("<IIII")  # argsz, flags, index, count
SET_IRQS: Final = struct.Struct("<IIIII")  # argsz, flags, index, start, count; then booleans
REGION_ACCESS: Final = struct.Struct("<QII")  # offset, region, count; then data
DMA_ACCESS: Final = struct.Struct("<QQ")  # address, count; then data
WRITE_MULTI_COUNT: Final = struct.Struct("<Q")  # then as many of:
WRITE_MULTI_ONE: Final = struct.Struct("<QII8s")  # offset, region, count, data

for _layout, _size in (
    (HEADER, 16),
    (VERSION_NUMBERS, 4),
    (DMA_MAP_LAYOUT, 32),
    (DMA_UNMAP_LAYOUT, 24),
    (DEVICE_INFO, 16),
    (REGION_INFO, 32),
    (IRQ_INFO, 16),
    (SET_IRQS, 20),
    (REGION_ACCESS, 16),
    (DMA_ACCESS, 16),
    (WRITE_MULTI_COUNT, 8),
    (WRITE_MULTI_ONE, 24),
):
    assert _layout.size == _size, _layout.format

MAJOR: Final = 0
MINOR: Final = 0

MAX_FDS: Final = 16  # one message; QEMU's VFIO_USER_MAX_MAX_FDS
MAX_TRANSFER: Final = 1 << 20  # data bytes of one access; QEMU's VFIO_USER_DEF_MAX_XFER
MAX_MAPS: Final = 512  # what virtio.memory.GuestMemory takes
MAX_WRITES: Final = 200  # of one REGION_WRITE_MULTI; QEMU's VFIO_USER_MULTI_MAX
MAX_PAYLOAD: Final = MAX_TRANSFER + 64
MAX_VERSION: Final = 4096
"""Bytes of a VERSION payload; QEMU's has 200, and 1 MiB of JSON takes 50 ms to parse."""
PAGE_SIZE: Final = 4096

DMA_MAP_READ: Final = 1
DMA_MAP_WRITE: Final = 2
DMA_UNMAP_DIRTY_BITMAP: Final = 1
DMA_UNMAP_ALL: Final = 2

DEVICE_FLAG_RESET: Final = 1
DEVICE_FLAG_PCI: Final = 2

REGION_FLAG_READ: Final = 1
REGION_FLAG_WRITE: Final = 2

IRQ_FLAG_EVENTFD: Final = 1
IRQ_FLAG_MASKABLE: Final = 2
IRQ_FLAG_AUTOMASKED: Final = 4

IRQ_DATA_NONE: Final = 0x01
IRQ_DATA_BOOL: Final = 0x02
IRQ_DATA_EVENTFD: Final = 0x04
IRQ_DATA: Final = 0x07
IRQ_ACTION_MASK: Final = 0x08
IRQ_ACTION_UNMASK: Final = 0x10
IRQ_ACTION_TRIGGER: Final = 0x20
IRQ_ACTION: Final = 0x38

# linux/vfio.h: the regions and interrupts of a PCI device
REGION_ROM: Final = 6
REGION_CONFIG: Final = 7
REGION_COUNT: Final = 9
IRQ_INTX: Final = 0
IRQ_MSI: Final = 1
IRQ_MSIX: Final = 2
IRQ_ERR: Final = 3
IRQ_COUNT: Final = 5

CAPABILITIES: Final = {
    "max_msg_fds": MAX_FDS,
    "max_data_xfer_size": MAX_TRANSFER,
    "pgsizes": PAGE_SIZE,
    "max_dma_maps": MAX_MAPS,
    "write_multiple": True,
}
_DEFAULTS: Final = {"max_data_xfer_size": 1 << 20, "pgsizes": 4096}
"""A client's defaults for absent capabilities (vfio-user.rst, Version): omitted first."""


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """The description of one region; a size of 0 means that it does not exist."""

    size: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class IrqInfo:
    """The description of one kind of interrupt; a count of 0 means that it does not exist."""

    count: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class DmaMap:
    """Guest memory to map; `offset` is the offset in the file of the message's descriptor, if it has one."""

    address: int
    size: int
    offset: int
    readable: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class SetIrqs:
    """`action` (one IRQ_ACTION_*) on `count` interrupts from `start` on; `flags` for BOOL data, one each."""

    index: int
    start: int
    count: int
    action: int
    data: int
    booleans: bytes = b""


def payload_size(header: bytes) -> int:
    """For the FrameAssembler: bytes behind this header."""
    size: int = HEADER.unpack(header)[2]
    if size < HEADER.size:
        raise ProtocolError(f"a message of {size} bytes, the header alone has {HEADER.size}")
    return size - HEADER.size


def assembler() -> FrameAssembler:
    """Cuts a vfio-user byte stream into messages."""
    return FrameAssembler(HEADER.size, payload_size, max_payload=MAX_PAYLOAD, max_fds=MAX_FDS)


def encode(
    ident: int, command: int, payload: bytes = b"", *, flags: int = TYPE_COMMAND, errno: int = 0
) -> bytes:
    """A whole message."""
    return HEADER.pack(ident, command, HEADER.size + len(payload), flags, errno) + payload


def encode_version(room: int) -> bytes:
    """Our VERSION payload. `room`: QEMU takes no reply longer than its request was; where not all our capabilities
    fit, those do that matter most, and a client that named none gets the protocol's defaults."""
    told: dict[str, object] = {}
    payload = VERSION_NUMBERS.pack(MAJOR, MINOR) + b"{}\0"
    for name in sorted(CAPABILITIES, key=lambda name: CAPABILITIES[name] == _DEFAULTS.get(name)):
        more = {**told, name: CAPABILITIES[name]}
        text = json.dumps({"capabilities": more}, separators=(",", ":")).encode() + b"\0"
        if VERSION_NUMBERS.size + len(text) <= room:
            told, payload = more, VERSION_NUMBERS.pack(MAJOR, MINOR) + text
    return payload


def decode_version(payload: bytes) -> tuple[int, int, dict[str, Any]]:
    """(major, minor, capabilities) of a VERSION payload. Raises ProtocolError."""
    if len(payload) < VERSION_NUMBERS.size:
        raise ProtocolError(f"a VERSION of {len(payload)} bytes")
    if len(payload) > MAX_VERSION:
        raise ProtocolError(f"a VERSION of {len(payload)} bytes, at most {MAX_VERSION} are taken")
    major, minor = VERSION_NUMBERS.unpack_from(payload)
    text = payload[VERSION_NUMBERS.size :]
    if not text:
        return major, minor, {}
    if text[-1]:
        raise ProtocolError("the capabilities in VERSION do not end with a NUL")
    try:
        capabilities = json.loads(text[:-1].decode()).get("capabilities", {})
    except (ValueError, AttributeError, RecursionError):
        raise ProtocolError("the capabilities in VERSION are not a JSON object") from None
    if not isinstance(capabilities, dict):
        raise ProtocolError("the capabilities in VERSION are not a JSON object")
    return major, minor, capabilities
