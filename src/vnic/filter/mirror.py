"""filter-mirror and filter-redirector: move frames to and from a chardev (QEMU's net/filter-mirror.c).

`registry` makes them. A mirror sends a copy of each frame; a redirector sends the frame itself, and injects frames that
it receives.
"""

from __future__ import annotations

from vnic.backend.base import BackendContext
from vnic.filter.options import MirrorOptions, RedirectorOptions
from vnic.filter.port import Port
from vnic.net.errors import NetError
from vnic.net.filters import Direction, Filter, WireEnd
from vnic.net.queue import Frame


class MirrorFilter(Filter):
    """Copies every frame to `outdev` and passes it on, whether a peer is connected there or not."""

    type = "filter-mirror"

    def __init__(self, context: BackendContext, options: MirrorOptions) -> None:
        super().__init__(options)
        self._context = context
        self._outdev = options.outdev
        self._vnet_hdr = options.vnet_hdr_support
        self._out: Port | None = None

    def setup(self) -> None:
        self._out = Port(self._context, self._outdev, self.id, vnet_hdr=self._vnet_hdr)

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        assert self._out is not None
        self._out.put(frame, offload, header=self.netdev.endpoint.wants_offload)
        return False

    def cleanup(self) -> None:
        if self._out is not None:
            self._out.close()

    def own_properties(self) -> dict[str, object]:
        return {"vnet_hdr_support": self._vnet_hdr, "outdev": self._outdev}


class RedirectorFilter(Filter):
    """Sends every frame to `outdev` and does not pass it on. Frames from `indev` continue from here in its direction,
    in both with `queue=all`. While the filter is off, frames from `indev` are dropped."""

    type = "filter-redirector"

    def __init__(self, context: BackendContext, options: RedirectorOptions) -> None:
        super().__init__(options)
        self._context = context
        self._indev, self._outdev = options.indev, options.outdev
        self._vnet_hdr = options.vnet_hdr_support
        self._in: Port | None = None
        self._out: Port | None = None

    def setup(self) -> None:
        if self._indev is None and self._outdev is None:
            raise NetError("filter redirector needs 'indev' or 'outdev' at least one property set")
        if self._indev == self._outdev:
            raise NetError("'indev' and 'outdev' could not be same for filter redirector")
        context, vnet_hdr = self._context, self._vnet_hdr
        if self._indev is not None:
            self._in = Port(
                context, self._indev, self.id, vnet_hdr=vnet_hdr, received=self._inject, whose="IN "
            )
        if self._outdev is not None:
            self._out = Port(context, self._outdev, self.id, vnet_hdr=vnet_hdr, whose="OUT ")

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        """With an `outdev` the frame ends here, even if no peer is connected."""
        if self._out is None:
            return False
        self._out.put(frame, offload, header=self.netdev.endpoint.wants_offload)
        return True

    def _inject(self, frame: bytes) -> None:
        """redirector_to_filter."""
        if not self.on:
            return
        if Direction.TX in self.directions:
            self.pass_on(self.netdev, 0, frame)
        peer = self.netdev.peer
        if Direction.RX in self.directions and peer is not None:
            self.pass_on(peer, 0, frame)

    def cleanup(self) -> None:
        for port in (self._in, self._out):
            if port is not None:
                port.close()

    def own_properties(self) -> dict[str, object]:
        return {"vnet_hdr_support": self._vnet_hdr, "indev": self._indev, "outdev": self._outdev}
