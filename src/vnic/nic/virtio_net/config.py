"""virtio-net's config space (virtio 1.2 §5.1.4); the offered features determine its size (QEMU's feature_sizes).

The device model owns it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from vnic.nic.virtio_net import features as f

LINK_UP: Final = 1
"""VIRTIO_NET_S_LINK_UP of `status`."""
ANNOUNCE: Final = 2
"""VIRTIO_NET_S_ANNOUNCE of `status`."""

SPEED_UNKNOWN: Final = 0xFFFFFFFF
DUPLEX_UNKNOWN: Final = 0xFF
DUPLEX: Final = {"half": 0, "full": 1}

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
