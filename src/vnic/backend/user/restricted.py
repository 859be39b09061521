"""restrict=on of a user netdev with hostfwd=: the guest answers on its forwarded ports, and can open no connection.

`user.backend` filters the guest's frames with it, because passt can either forward or isolate: passt forwards, and
frames that the guest may not send are dropped here. The filter keeps no state: opening a TCP connection needs a SYN
without an acknowledgement (RFC 9293 §3.5).
"""

from __future__ import annotations

from collections.abc import Iterable

from vnic.backend.user.host_forward import HostForward
from vnic.net.queue import Frame

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_SYN, _ACK = 0x02, 0x10
_DHCP_CLIENT, _DHCP_SERVER = 68, 67
_NEIGHBOUR_DISCOVERY = range(133, 138)
"""ICMPv6 types (RFC 4861 §4)."""
_FRAGMENT = 0x3FFF
"""MF and the offset: a fragment may hide its header, and is dropped."""


class RestrictedGuest:
    """Decides which frames a restricted guest may send."""

    def __init__(self, forwards: Iterable[HostForward]) -> None:
        self._ports = {
            protocol: {each.guest_port for each in forwards if each.protocol == protocol}
            for protocol in ("tcp", "udp")
        }

    def may_send(self, frame: Frame) -> bool:
        """Whether the frame answers on a forwarded port, or belongs to address configuration."""
        data = memoryview(frame)
        kind = int.from_bytes(data[12:14], "big")
        if kind == _ARP:
            return True
        if kind == _IPV4 and len(data) >= 34:
            header = 14 + 4 * (data[14] & 0xF)
            fragment = int.from_bytes(data[20:22], "big") & _FRAGMENT
            return header >= 34 and not fragment and self._answers(data[23], data[header:])
        if kind == _IPV6 and len(data) >= 54:
            payload = data[54:]
            if data[20] == _ICMPV6:
                return len(payload) > 0 and payload[0] in _NEIGHBOUR_DISCOVERY
            return self._answers(data[20], payload)
        return False

    def _answers(self, protocol: int, segment: memoryview) -> bool:
        source = int.from_bytes(segment[:2], "big")
        if protocol == _TCP and len(segment) >= 20:
            return source in self._ports["tcp"] and segment[13] & (_SYN | _ACK) != _SYN
        if protocol == _UDP and len(segment) >= 8:
            target = int.from_bytes(segment[2:4], "big")
            return source in self._ports["udp"] or (source, target) == (_DHCP_CLIENT, _DHCP_SERVER)
        return False
