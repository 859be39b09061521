"""TransportBackend: the base of netdevs whose frames pass over one socket at a time.

stream, socket, dgram and passt derive from it. Its transport is a FramedConnection or a DatagramPort.
"""

from __future__ import annotations

from typing import Protocol

from vnic.backend.base import Backend, BackendContext
from vnic.net.queue import Frame


class Transport(Protocol):
    """A connected socket that carries frames."""

    def send(self, frame: Frame, /) -> bool:
        """False: no room; the frame is not taken, and the client is flushed when there is room again."""

    def resume(self) -> None:
        """The client behind has room again: read on."""

    def close(self) -> None: ...


class TransportBackend(Backend):
    """Frames are dropped while there is no transport."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._transport: Transport | None = None

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self._transport is None or self._transport.send(frame)

    def sent(self, queue: int) -> None:
        if self._transport is not None:
            self._transport.resume()

    def close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
