"""The events that clients may hear, by name, with the type of their data; None: they carry none.

Whoever has one to tell calls `Network.emit`; the monitor's server sends it to every negotiated QMP client.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vnic.monitor.interfaces import ShutdownCause
from vnic.net.records import LinkChanged, LinkHoldsChanged, LinkImpaired, LinkSeen
from vnic.sockets.address import SocketAddress


class NicRxFilterChanged(msgspec.Struct):
    path: str
    name: str | None = None


class NetdevStreamConnected(msgspec.Struct, rename="kebab"):
    netdev_id: str
    addr: SocketAddress


class NetdevStreamDisconnected(msgspec.Struct, rename="kebab"):
    netdev_id: str


class NetdevVhostUserConnected(msgspec.Struct, rename="kebab"):
    netdev_id: str
    chardev_id: str


class NetdevVhostUserDisconnected(msgspec.Struct, rename="kebab"):
    netdev_id: str


class DeviceDeleted(msgspec.Struct):
    path: str
    device: str | None = None


class Shutdown(msgspec.Struct):
    guest: bool
    reason: ShutdownCause


class Reset(msgspec.Struct):
    guest: bool
    reason: Literal["host-qmp-system-reset"]


EVENTS: dict[str, type[msgspec.Struct] | None] = {
    "LINK_CHANGED": LinkChanged,
    "LINK_HOLDS_CHANGED": LinkHoldsChanged,
    "LINK_SEEN": LinkSeen,
    "LINK_IMPAIRED": LinkImpaired,
    "NIC_RX_FILTER_CHANGED": NicRxFilterChanged,
    "NETDEV_STREAM_CONNECTED": NetdevStreamConnected,
    "NETDEV_STREAM_DISCONNECTED": NetdevStreamDisconnected,
    "NETDEV_VHOST_USER_CONNECTED": NetdevVhostUserConnected,
    "NETDEV_VHOST_USER_DISCONNECTED": NetdevVhostUserDisconnected,
    "DEVICE_DELETED": DeviceDeleted,
    "STOP": None,
    "RESUME": None,
    "RESET": Reset,
    "SHUTDOWN": Shutdown,
}
