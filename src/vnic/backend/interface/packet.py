"""Packet sockets (packet(7)): their set-up, and what the kernel says of a frame beside it.

`interface.backend` sets a socket up and binds it; `interface.queue` moves its frames.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Final

from vnic.net.offload import HEADER_BYTES

ETH_P_ALL: Final = 3
ETH_P_8021Q: Final = 0x8100
PACKET_OUTGOING: Final = 4
"""The type of a frame that this host sends (linux/if_packet.h)."""
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_AUXDATA: Final = 8
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_PACKET_MR_PROMISC: Final = 1
_SO_RCVBUFFORCE: Final = 33
_SO_NETNS_COOKIE: Final = 71
_COOKIE_BYTES: Final = 8
_TP_STATUS_VLAN_VALID: Final = 1 << 4
_TP_STATUS_VLAN_TPID_VALID: Final = 1 << 6
_MEMBERSHIP = struct.Struct("=iHH8s")
"""struct packet_mreq."""
_AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid."""
assert (_MEMBERSHIP.size, _AUXDATA.size) == (16, 20)

ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_AUXDATA.size)
RECEIVE_BUFFER_BYTES: Final = 4 << 20
"""Room for bursts of segments of 64 KiB, while the guest is slow."""
TAG_BYTES: Final = 4
MAC_BYTES: Final = 12
"""Both addresses: a VLAN tag stands behind them."""
_TAG = struct.Struct(">HH")
_OFFSETS = struct.Struct("<HHHH")
"""hdr_len, gso_size, csum_start and csum_offset of a virtio_net_hdr."""
_OFFSETS_AT: Final = 2


def open_packet_socket() -> socket.socket:
    """A socket that receives nothing until it is bound."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)


def is_of_this_namespace(sock: socket.socket) -> bool:
    """Whether it is of this process's network namespace; False if the kernel does not tell (before Linux 5.14)."""
    with socket.socket(socket.AF_UNIX) as own:
        try:
            theirs, ours = (
                each.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES) for each in (sock, own)
            )
        except OSError:
            return False
    return theirs == ours


def set_up(sock: socket.socket) -> bool:
    """Set up a new socket. Returns whether its frames have a virtio_net_hdr. OSError if the kernel cannot restore VLAN
    tags (before Linux 2.6.27)."""
    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    with contextlib.suppress(OSError):  # before Linux 4.20: the queue drops such frames
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # without CAP_NET_ADMIN, up to net.core.rmem_max
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    except OSError:
        return False
    return True


def bind(sock: socket.socket, name: str, index: int) -> None:
    """Receive all frames of an interface, also those to other addresses. OSError: it is gone, or another one has its
    name now."""
    sock.bind((name, ETH_P_ALL))
    membership = _MEMBERSHIP.pack(index, _PACKET_MR_PROMISC, 0, b"")
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    except OSError as error:
        if error.errno != errno.EALREADY:
            raise


def vlan_tag(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The VLAN tag that the kernel has taken out of a frame, with its type; b"" if there was none."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
            if status & _TP_STATUS_VLAN_VALID:
                return _TAG.pack(tpid if status & _TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q, tci)
    return b""


def behind_tag(offload: bytes) -> bytes:
    """The virtio_net_hdr of a frame whose VLAN tag is in its place again: the headers are that much longer."""
    header, size, start, offset = _OFFSETS.unpack_from(offload, _OFFSETS_AT)
    longer = min(header + TAG_BYTES, 0xFFFF), size, min(start + TAG_BYTES, 0xFFFF), offset
    return offload[:_OFFSETS_AT] + _OFFSETS.pack(*longer)


assert _OFFSETS_AT + _OFFSETS.size == HEADER_BYTES
