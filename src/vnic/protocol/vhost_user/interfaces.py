"""The interfaces of the device model and of the socket shell, as Protocols. `backend.BackendEngine` calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.rings import RingDevice


class Device(RingDevice, Protocol):
    """The device model (vnic.virtio.device.VirtioDevice), as the engine sees it."""

    status: int
    host_features: int

    def set_features(self, features: int) -> bool: ...
    def set_status(self, status: int) -> None: ...
    def reset(self, done: Callable[[], None] | None = None) -> None: ...
    def read_config(self, offset: int, length: int) -> bytes: ...
    def write_config(self, offset: int, data: bytes) -> None: ...


class DeviceShell(Protocol):
    """The socket shell, as the engine sees it. The engine keeps ownership of descriptors passed here."""

    def watch_kick(self, index: int, fd: int | None) -> None:
        """Call the device's `kick(index)` when `fd` is readable; None: forget the one watched before."""

    def rings_changed(self) -> None:
        """A ring was started, stopped, enabled or disabled: `running` may differ."""

    def requests_changed(self) -> None:
        """The channel for back-end requests, `request_fd`, changed; the former is closed after the call."""

    def negotiated(self) -> None:
        """The client has set its features, which determine whether it reads the config space."""

    def announce(self, mac: bytes) -> None:
        """The guest has this address and does not announce it: send a RARP for it."""

    def resume(self, replies: bytes) -> None:
        """The engine is no longer `busy`: send the replies and feed it again."""

    def failed(self, error: ProtocolError) -> None:
        """A message that was waiting failed, as if `feed` had raised."""
