"""virtio-net's config space (virtio 1.2 §5.1.4); the offered features determine its size (QEMU's feature_sizes).

The device model owns it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from vnic.net.errors import NetError
from vnic.nic.virtio_net import features as f

LINK_UP: Final = 1
"""VIRTIO_NET_S_LINK_UP of `status`."""
ANNOUNCE: Final = 2
"""VIRTIO_NET_S_ANNOUNCE of `status`."""

SPEED_UNKNOWN: Final = 0xFFFFFFFF
DUPLEX_UNKNOWN: Final = 0xFF
DUPLEX: Final = {"half": 0, "full": 1}

QUEUE_SIZES = (256, 512, 1024)
"""The allowed maximum ring sizes (QEMU: 256 to VIRTQUEUE_MAX_SIZE); a driver may use smaller rings."""
MAX_PAIRS = 511
"""QEMU's: all rings are at most VIRTIO_QUEUE_MAX, 1024."""
MTU_RANGE = range(68, 65536)
"""§5.1.4.1."""

_LAYOUT = struct.Struct("<6sHHHIB")  # mac, status, max_virtqueue_pairs, mtu, speed, duplex
MAC_BYTES: Final = 6
STATUS_AT: Final = 6
STATUS_END: Final = 8
assert _LAYOUT.size == 17

_ENDS = ((f.MAC, 6), (f.STATUS, 8), (f.MQ, 10), (f.MTU, 12), (f.SPEED_DUPLEX, 17))


@dataclass(slots=True)
class NetConfig:
    """The fields; only `mac` and `status` change."""

    mac: bytes
    status: int = 0
    max_pairs: int = 1
    mtu: int = 0
    speed: int = SPEED_UNKNOWN
    duplex: int = DUPLEX_UNKNOWN

    def pack(self, size: int) -> bytes:
        """The first `size` bytes of config space."""
        whole = _LAYOUT.pack(self.mac, self.status, self.max_pairs, self.mtu, self.speed, self.duplex)
        return whole[:size]


def config_size(features: int) -> int:
    """Up to the last field that an offered feature makes valid."""
    return max((end for bit, end in _ENDS if features & bit), default=MAC_BYTES)


def check_properties(pairs: int, mtu: int, speed: int | None, duplex: str | None, queue_size: int) -> None:
    """Raise NetError, with QEMU's text, for a value that a device cannot have (virtio_net_device_realize)."""
    if not 1 <= pairs <= MAX_PAIRS:
        raise NetError(
            f"Invalid number of queue pairs (= {pairs}), must be a positive integer less than {MAX_PAIRS}."
        )
    if queue_size not in QUEUE_SIZES:
        least, most = QUEUE_SIZES[0], QUEUE_SIZES[-1]
        raise NetError(
            f"Invalid queue_size (= {queue_size}), must be a power of 2 between {least} and {most}."
        )
    if mtu and mtu not in MTU_RANGE:
        raise NetError(f"'mtu' must be from {MTU_RANGE.start} to {MTU_RANGE.stop - 1}")
    if duplex is not None and duplex not in DUPLEX:
        raise NetError("'duplex' must be 'half' or 'full'")
    if speed is not None and not 0 <= speed <= 0x7FFFFFFF:
        raise NetError("'speed' must be between 0 and INT_MAX")
