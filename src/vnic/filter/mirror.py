"""filter-mirror and filter-redirector: move frames to and from a chardev (QEMU's net/filter-mirror.c).

`registry` makes them. A mirror sends a copy of each frame; a redirector sends the frame itself, and injects frames that
it receives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from vnic.backend.base import BackendContext
from vnic.filter.options import MirrorOptions, RedirectorOptions
from vnic.filter.port import NO_PORT_FDS, Port, PortFds, PortHandles, PortRecord
from vnic.net.errors import NetError
from vnic.net.filters import Direction, Filter, FilterRecord, WireEnd
from vnic.net.queue import Frame
from vnic.record import RecordError, require, within
from vnic.sockets.take_up import TakeUp

NO_SOCKETS: Final = PortHandles()


class MirrorFilterRecord(FilterRecord, frozen=True):
    """The state of a MirrorFilter."""

    out: PortRecord | None
    """None before `setup`."""


class RedirectorFilterRecord(FilterRecord, frozen=True):
    """The state of a RedirectorFilter."""

    indev: PortRecord | None
    outdev: PortRecord | None


class RedirectorHandles(NamedTuple):
    """The sockets of a RedirectorFilter."""

    indev: PortHandles = NO_SOCKETS
    outdev: PortHandles = NO_SOCKETS


NO_PORTS: Final = RedirectorHandles()


class RedirectorFds(NamedTuple):
    """The descriptors of a RedirectorFilter."""

    indev: PortFds
    outdev: PortFds


class MirrorFilter(Filter):
    """Copies every frame to `outdev` and passes it on, whether a peer is connected there or not."""

    type = "filter-mirror"
    kept_type = MirrorFilterRecord, PortFds

    def __init__(self, context: BackendContext, options: MirrorOptions) -> None:
        super().__init__(options)
        self._context = context
        self._outdev = options.outdev
        self._vnet_hdr = options.vnet_hdr_support
        self._out: Port | None = None

    def setup(self) -> None:
        self._make_port().open()

    def _make_port(self) -> Port:
        self._out = Port(self._context, self._outdev, self.id, vnet_hdr=self._vnet_hdr, changed=self._changed)
        return self._out

    def _changed(self) -> None:
        self.kept.handles_changed()

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        assert self._out is not None
        self._out.put(frame, offload, header=self.netdev.endpoint.wants_offload)
        return False

    def save(self) -> MirrorFilterRecord:
        return MirrorFilterRecord(on=self.on, out=None if self._out is None else self._out.save())

    @property
    def handles(self) -> PortHandles:
        """The sockets that belong to the record."""
        return NO_SOCKETS if self._out is None else self._out.handles

    def save_kept(self) -> tuple[MirrorFilterRecord, PortFds]:
        return self.save(), NO_PORT_FDS if self._out is None else self._out.fds

    def take_up(self, record: MirrorFilterRecord, handles: PortFds) -> None:
        with TakeUp(handles) as taking:
            self._restore(record, lambda port, each: port.taken_up(taking, each, handles))

    def restore(self, record: MirrorFilterRecord, handles: PortHandles = NO_SOCKETS) -> None:
        self._restore(record, lambda port, each: handles)

    def _restore(
        self, record: MirrorFilterRecord, sockets: Callable[[Port, PortRecord], PortHandles]
    ) -> None:
        out = record.out
        if out is None:
            raise RecordError("out", "is missing")
        try:
            with within("out"):
                port = self._make_port()
                port.restore(out, sockets(port, out))
        except RecordError:
            self.cleanup()
            raise
        self.on = record.on

    def cleanup(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None

    def own_properties(self) -> dict[str, object]:
        return {"vnet_hdr_support": self._vnet_hdr, "outdev": self._outdev}


class RedirectorFilter(Filter):
    """Sends every frame to `outdev` and does not pass it on. Frames from `indev` continue from here in its direction,
    in both with `queue=all`. While the filter is off, frames from `indev` are dropped."""

    type = "filter-redirector"
    kept_type = RedirectorFilterRecord, RedirectorFds

    def __init__(self, context: BackendContext, options: RedirectorOptions) -> None:
        super().__init__(options)
        self._context = context
        self._indev, self._outdev = options.indev, options.outdev
        self._vnet_hdr = options.vnet_hdr_support
        self._in: Port | None = None
        self._out: Port | None = None

    def setup(self) -> None:
        self._make_ports()
        for port in (self._in, self._out):
            if port is not None:
                port.open()

    def _make_ports(self) -> None:
        if self._indev is None and self._outdev is None:
            raise NetError("filter redirector needs 'indev' or 'outdev' at least one property set")
        if self._indev == self._outdev:
            raise NetError("'indev' and 'outdev' could not be same for filter redirector")
        context, vnet_hdr = self._context, self._vnet_hdr
        if self._indev is not None:
            self._in = Port(
                context,
                self._indev,
                self.id,
                vnet_hdr=vnet_hdr,
                received=self._inject,
                whose="IN ",
                changed=self._changed,
            )
        if self._outdev is not None:
            self._out = Port(
                context, self._outdev, self.id, vnet_hdr=vnet_hdr, whose="OUT ", changed=self._changed
            )

    def _changed(self) -> None:
        self.kept.handles_changed()

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

    def save(self) -> RedirectorFilterRecord:
        indev, outdev = (None if port is None else port.save() for port in (self._in, self._out))
        return RedirectorFilterRecord(on=self.on, indev=indev, outdev=outdev)

    @property
    def handles(self) -> RedirectorHandles:
        """The sockets that belong to the record."""
        return RedirectorHandles(
            *(NO_SOCKETS if port is None else port.handles for port in (self._in, self._out))
        )

    def save_kept(self) -> tuple[RedirectorFilterRecord, RedirectorFds]:
        fds = (NO_PORT_FDS if port is None else port.fds for port in (self._in, self._out))
        return self.save(), RedirectorFds(*fds)

    def take_up(self, record: RedirectorFilterRecord, handles: RedirectorFds) -> None:
        def sockets(name: str, port: Port, each: PortRecord) -> PortHandles:
            return port.taken_up(taking, each, getattr(handles, name))

        with TakeUp(handles) as taking:
            self._restore(record, sockets)

    def restore(self, record: RedirectorFilterRecord, handles: RedirectorHandles = NO_PORTS) -> None:
        self._restore(record, lambda name, port, each: getattr(handles, name))

    def _restore(
        self,
        record: RedirectorFilterRecord,
        sockets_of: Callable[[str, Port, PortRecord], PortHandles],
    ) -> None:
        self._make_ports()
        ports: list[tuple[Port, PortRecord, PortHandles]] = []
        try:
            for name, port, each in (("indev", self._in, record.indev), ("outdev", self._out, record.outdev)):
                with within(name):
                    require((port is None) is (each is None), "", "does not go with the options")
                    if port is not None and each is not None:
                        sockets = sockets_of(name, port, each)
                        port.check(each, sockets)
                        ports.append((port, each, sockets))
        except RecordError:
            self.cleanup()
            raise
        for port, each, sockets in ports:
            port.restore(each, sockets)
        self.on = record.on

    def cleanup(self) -> None:
        for port in (self._in, self._out):
            if port is not None:
                port.close()
        self._in = self._out = None

    def own_properties(self) -> dict[str, object]:
        return {"vnet_hdr_support": self._vnet_hdr, "indev": self._indev, "outdev": self._outdev}
