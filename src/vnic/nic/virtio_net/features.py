"""virtio-net's feature bits (virtio 1.2 §5.1.3): which ones a NIC offers, and their effect on its rings.

The device model calls it; the machine and the command line use the names.
"""

from __future__ import annotations

from typing import Final

from vnic.dataplane.engine import RingFormat
from vnic.net.offload import GSO_ECN, GSO_TCPV4, GSO_TCPV6
from vnic.virtio import features as common
from vnic.virtio.features import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT_DESC,
    RING_RESET,
    VERSION_1,
)

CSUM: Final = 1 << 0
GUEST_CSUM: Final = 1 << 1
MTU: Final = 1 << 3
MAC: Final = 1 << 5
GUEST_TSO4: Final = 1 << 7
GUEST_TSO6: Final = 1 << 8
GUEST_ECN: Final = 1 << 9
HOST_TSO4: Final = 1 << 11
HOST_TSO6: Final = 1 << 12
HOST_ECN: Final = 1 << 13
MRG_RXBUF: Final = 1 << 15
STATUS: Final = 1 << 16
CTRL_VQ: Final = 1 << 17
CTRL_RX: Final = 1 << 18
CTRL_VLAN: Final = 1 << 19
CTRL_RX_EXTRA: Final = 1 << 20
GUEST_ANNOUNCE: Final = 1 << 21
MQ: Final = 1 << 22
CTRL_MAC_ADDR: Final = 1 << 23
SPEED_DUPLEX: Final = 1 << 63

ALWAYS: Final = (
    VERSION_1
    | INDIRECT_DESC
    | MAC
    | STATUS
    | MRG_RXBUF
    | CTRL_VQ
    | CTRL_RX
    | CTRL_RX_EXTRA
    | CTRL_VLAN
    | CTRL_MAC_ADDR
    | GUEST_ANNOUNCE
)
"""Offered with every back-end."""

OFFLOADS: Final = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN
"""Offered if the back-end supports packets with pending checksum or segmentation."""

WITH_RING_BACKEND: Final = OFFLOADS | IN_ORDER
"""Offered where a RingBackend has them. Our own rings are always used in order (§2.7.9); saying so by ourselves would
only keep back-ends that do not promise it from taking over, and DPDK's fastest driver wants it."""

OF_THE_RINGS: Final = (
    WITH_RING_BACKEND | VERSION_1 | INDIRECT_DESC | EVENT_IDX | MRG_RXBUF | MTU | GUEST_ANNOUNCE | MQ
)
"""Features that depend on the process that runs the rings: a RingBackend must support them, too (user_feature_bits of
QEMU's net/vhost-user.c). The device model implements all others."""


SWITCHES: Final = {
    "csum": CSUM,
    "guest_csum": GUEST_CSUM,
    "guest_tso4": GUEST_TSO4,
    "guest_tso6": GUEST_TSO6,
    "guest_ecn": GUEST_ECN,
    "host_tso4": HOST_TSO4,
    "host_tso6": HOST_TSO6,
    "host_ecn": HOST_ECN,
    "mrg_rxbuf": MRG_RXBUF,
    "status": STATUS,
    "ctrl_vq": CTRL_VQ,
    "ctrl_rx": CTRL_RX,
    "ctrl_vlan": CTRL_VLAN,
    "ctrl_rx_extra": CTRL_RX_EXTRA,
    "ctrl_mac_addr": CTRL_MAC_ADDR,
    "guest_announce": GUEST_ANNOUNCE,
    "indirect_desc": INDIRECT_DESC,
    "event_idx": EVENT_IDX,
    "in_order": IN_ORDER,
    "queue_reset": RING_RESET,
}
"""The properties, under QEMU's names, that withhold a feature from the driver."""

_NEEDS: Final = (
    (GUEST_TSO4 | GUEST_TSO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (HOST_TSO4 | HOST_TSO6, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
    (CTRL_RX | CTRL_RX_EXTRA | CTRL_VLAN | GUEST_ANNOUNCE | MQ | CTRL_MAC_ADDR, CTRL_VQ),
)
"""Features, and those of which they need one (§5.1.3.1), in order of dependence."""


def consistent(features: int) -> int:
    """Without the features that lack one they need."""
    for bits, needed in _NEEDS:
        if not features & needed:
            features &= ~bits
    return features


def ring_format(features: int) -> RingFormat:
    """How packets lie in the rings of a driver that negotiated `features` (§5.1.6)."""
    gso = set()
    for bit, kind in ((GUEST_TSO4, GSO_TCPV4), (GUEST_TSO6, GSO_TCPV6)):
        if features & bit:
            gso |= {kind, kind | GSO_ECN} if features & GUEST_ECN else {kind}
    return RingFormat(
        # The legacy header has num_buffers only with mergeable buffers (§5.1.6.1).
        header_bytes=12 if features & (VERSION_1 | MRG_RXBUF) else 10,
        mergeable=bool(features & MRG_RXBUF),
        tx_offload=bool(features & CSUM),
        rx_offload=bool(features & GUEST_CSUM),
        rx_gso_types=frozenset(gso),
    )


def names(mask: int) -> str:
    """The features of a mask by the specification's names, for people: `CSUM, MRG_RXBUF`."""
    known = {
        value: name
        for name, value in {**vars(common), **globals()}.items()
        if isinstance(value, int) and value.bit_count() == 1
    }
    bits = [1 << bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return ", ".join(known.get(bit, f"bit {bit.bit_length() - 1}") for bit in bits)
