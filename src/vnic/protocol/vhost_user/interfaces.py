"""What the device engine needs of the two sides around it: the device model, and the socket shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.rings import RingDevice


class Device(RingDevice, Protocol):
    """What the engine needs of the device model (vnic.virtio.device.VirtioDevice)."""

    status: int
    host_features: int

    def set_features(self, features: int) -> bool: ...
    def set_status(self, status: int) -> None: ...
    def reset(self, done: Callable[[], None] | None = None) -> None: ...
    def read_config(self, offset: int, length: int) -> bytes: ...
    def write_config(self, offset: int, data: bytes) -> None: ...


class DeviceShell(Protocol):
    """What the engine asks of the socket shell. A descriptor passed here stays the engine's own."""

    def watch_kick(self, index: int, fd: int | None) -> None:
        """Call the device's `kick(index)` when `fd` is readable; None: forget the one watched before."""

    def rings_changed(self) -> None:
        """A ring was started, stopped, enabled or disabled: `running` may differ."""

    def requests_changed(self) -> None:
        """The channel for back-end requests, `request_fd`, changed; the former is closed after the call."""

    def negotiated(self) -> None:
        """The client has chosen its features: it is now known whether it reads the config space."""

    def announce(self, mac: bytes) -> None:
        """The guest has this address and does not announce it: send a RARP in its name."""

    def resume(self, replies: bytes) -> None:
        """The engine is no longer `busy`: send the replies and feed it again."""

    def failed(self, error: ProtocolError) -> None:
        """As if `feed` had raised, for a message that was waiting."""
