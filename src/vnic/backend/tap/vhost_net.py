"""The kernel's /dev/vhost-net: the ioctls of linux/vhost.h that a tap needs.

One open descriptor serves the two rings of one queue pair, in the memory of the process that called `own`. No call but
`stop` waits for the kernel's worker.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from vnic.descriptors import Kind, kind_of
from vnic.net.errors import NetError

PATH: Final = "/dev/vhost-net"
_MISC_MAJOR: Final = 10
_MINOR: Final = 238  # VHOST_NET_MINOR of linux/miscdevice.h

GET_FEATURES: Final = 0x8008AF00
SET_FEATURES: Final = 0x4008AF00
SET_OWNER: Final = 0xAF01
SET_MEM_TABLE: Final = 0x4008AF03
SET_VRING_NUM: Final = 0x4008AF10
SET_VRING_ADDR: Final = 0x4028AF11
SET_VRING_BASE: Final = 0x4008AF12
GET_VRING_BASE: Final = 0xC008AF12
SET_VRING_KICK: Final = 0x4008AF20
SET_VRING_CALL: Final = 0x4008AF21
SET_VRING_ERR: Final = 0x4008AF22
SET_VRING_BUSYLOOP_TIMEOUT: Final = 0x4008AF23
NET_SET_BACKEND: Final = 0x4008AF30

NET_F_VIRTIO_NET_HDR: Final = 1 << 27
"""VHOST_NET_F_VIRTIO_NET_HDR: the socket's frames have no virtio_net_hdr, vhost adds and removes it."""

_STATE = struct.Struct("II")
"""struct vhost_vring_state: index, number."""
_FILE = struct.Struct("Ii")
"""struct vhost_vring_file: index, descriptor."""
_ADDRESSES = struct.Struct("IIQQQQ")
"""struct vhost_vring_addr: index, flags, descriptors, used, available, log."""
_FEATURES = struct.Struct("Q")
_TABLE = struct.Struct("II")
_REGION = struct.Struct("QQQQ")
"""struct vhost_memory_region: guest address, size, address in this process, flags."""
RINGS: Final = 2
"""Of one descriptor: RX, then TX."""


class MemoryRange(NamedTuple):
    """A range of guest memory, and where it is mapped in this process."""

    guest_addr: int
    size: int
    address: int


class RingPlace(NamedTuple):
    """Where the parts of a ring are in this process."""

    desc: int
    used: int
    avail: int


def open_vhost_net() -> int:
    """Raises NetError (QEMU's error_setg_file_open)."""
    try:
        return os.open(PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NetError(f"Could not open '{PATH}': {error.strerror}") from None


def check_vhost_net(fd: int) -> None:
    """Raise NetError for a passed descriptor of anything else: an ioctl of an unknown file could block."""
    info = os.fstat(fd)
    device = os.major(info.st_rdev), os.minor(info.st_rdev)
    if kind_of(fd) is not Kind.FILE or not stat.S_ISCHR(info.st_mode) or device != (_MISC_MAJOR, _MINOR):
        raise NetError(f"the descriptor {fd} of vhostfd= is not that of {PATH}")


class VhostNet:
    """One descriptor, which it owns. The methods raise OSError."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def features(self) -> int:
        """What the kernel has."""
        return int(_FEATURES.unpack(fcntl.ioctl(self.fd, GET_FEATURES, bytes(_FEATURES.size)))[0])

    def own(self) -> None:
        """Start the worker. Its memory is that of this process from now on; no other one may use the descriptor."""
        fcntl.ioctl(self.fd, SET_OWNER)

    def set_features(self, features: int) -> None:
        fcntl.ioctl(self.fd, SET_FEATURES, _FEATURES.pack(features))

    def set_memory(self, ranges: Iterable[MemoryRange]) -> None:
        """No ring uses the earlier ranges when this returns, once its addresses are in the new ones."""
        regions = [_REGION.pack(*each, 0) for each in ranges]
        # A bytearray, since fcntl copies what cannot be changed, and no more than 1024 bytes.
        fcntl.ioctl(self.fd, SET_MEM_TABLE, bytearray(_TABLE.pack(len(regions), 0) + b"".join(regions)))

    def set_ring(self, ring: int, size: int, base: int) -> None:
        """Of a ring without a backend."""
        fcntl.ioctl(self.fd, SET_VRING_NUM, _STATE.pack(ring, size))
        fcntl.ioctl(self.fd, SET_VRING_BASE, _STATE.pack(ring, base))

    def set_addresses(self, ring: int, place: RingPlace) -> None:
        fcntl.ioctl(self.fd, SET_VRING_ADDR, _ADDRESSES.pack(ring, 0, *place, 0))

    def set_eventfds(self, ring: int, kick: int, call: int, err: int) -> None:
        """-1: none."""
        for request, fd in ((SET_VRING_KICK, kick), (SET_VRING_CALL, call), (SET_VRING_ERR, err)):
            fcntl.ioctl(self.fd, request, _FILE.pack(ring, fd))

    def set_busy_poll(self, ring: int, microseconds: int) -> None:
        fcntl.ioctl(self.fd, SET_VRING_BUSYLOOP_TIMEOUT, _STATE.pack(ring, microseconds))

    def run(self, ring: int, tap: int) -> None:
        """Move packets between the ring and this queue of a tap."""
        fcntl.ioctl(self.fd, NET_SET_BACKEND, _FILE.pack(ring, tap))

    def stop(self) -> list[int | None]:
        """Stop both rings, and wait until the worker does not access them; the bases to resume them from. None: it was
        not told."""
        bases: list[int | None] = []
        for ring in range(RINGS):
            try:
                fcntl.ioctl(self.fd, NET_SET_BACKEND, _FILE.pack(ring, -1))
                answer = fcntl.ioctl(self.fd, GET_VRING_BASE, _STATE.pack(ring, 0))
                bases.append(int(_STATE.unpack(answer)[1]) & 0xFFFF)
            except OSError:
                bases.append(None)
        return bases
