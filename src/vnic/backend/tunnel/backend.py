"""tunnel: a cable to another vnic, or to any VXLAN end point, over UDP. The registry makes it.

Frames travel in VXLAN (RFC 7348). Link state travels with them, on the same path, in continuity check messages
(IEEE 802.1Q): each end tells how its wire is, and holds its own link while the other says that it is not up, or is not
heard.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Coroutine
from typing import Any, NamedTuple

from vnic.backend.base import Backend, BackendContext
from vnic.backend.options import TunnelOptions
from vnic.backend.tunnel.config import INTERVALS_MS, Place, is_numeric, parse
from vnic.backend.tunnel.info import CcmInfo, RemoteInfo, TunnelInfo
from vnic.backend.tunnel.link import TunnelLink, own_status
from vnic.backend.tunnel.port import TunnelPort
from vnic.backend.tunnel.record import TunnelRecord
from vnic.backend.tunnel.sockets import Tunnels, TunnelSockets, check_sockets, open_sockets
from vnic.net.errors import NetError
from vnic.net.follow import Undecided
from vnic.net.lending import LentEnd
from vnic.net.queue import Frame
from vnic.protocol.cfm.ccm import INTERVALS_US, InterfaceStatus
from vnic.protocol.cfm.mep import Heard
from vnic.record import require
from vnic.sockets.address import InetAddress
from vnic.sockets.lookup import LookupFailed, look_up
from vnic.sockets.resolve import lookup
from vnic.sockets.take_up import TakeUp, fileno


class TunnelHandles(NamedTuple):
    """The sockets of a TunnelBackend; after `restore` they are its own. Tunnels share the receiving one: each may get
    a duplicate."""

    receiving: socket.socket | None
    sending: socket.socket | None


class TunnelFds(NamedTuple):
    """The descriptors of TunnelHandles."""

    receiving: int | None
    sending: int | None


class TunnelBackend(Backend):
    """One tunnel netdev."""

    kept_type = TunnelRecord, TunnelFds

    def __init__(self, context: BackendContext, options: TunnelOptions) -> None:
        super().__init__(context)
        self._config = parse(options)
        self._tunnels = Tunnels(self.loop, context.tunnel_sockets)
        self._places: tuple[Place | None, Place] | None = None
        """The resolved addresses: local and remote."""
        self._interval = next(ms for ms, code in INTERVALS_MS.items() if code == self._config.interval)
        self._port: TunnelPort | None = None
        self._link: TunnelLink | None = None
        self._remote = self._local = ""

    # -- addresses ----------------------------------------------------------------------------------------------

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """The lookup of host names."""
        local, remote = self._config.local, self._config.remote
        if is_numeric(remote) and (local is None or is_numeric(local)):
            return None
        return self._look_up()

    async def _look_up(self) -> None:
        remote = await self._resolved(self._config.remote, socket.AF_UNSPEC)
        local = self._config.local
        here = None if local is None else await self._resolved(local, remote.family)
        self._places = (here, remote)

    async def _resolved(self, address: InetAddress, family: int) -> Place:
        work = functools.partial(_resolve, address, family)
        try:
            return await look_up(self.loop, work)
        except LookupFailed as error:
            raise NetError(f"tunnel: {address.host}: {error}") from None

    # -- the start ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        local, remote = self._config.local, self._config.remote
        if self._places is None:
            there = _resolve(remote, socket.AF_UNSPEC)
            self._places = (None if local is None else _resolve(local, there.family), there)
        here, there = self._places
        port = int(remote.port) if here is None else here.port
        sockets = open_sockets(self._tunnels, here, there, port)
        try:
            self._use(sockets)
        except NetError:
            sockets.sending.close()
            self._tunnels.release(sockets.shared)
            raise
        self._go()

    def _use(self, sockets: TunnelSockets) -> TunnelPort:
        """Make the port. NetError if another tunnel is there."""
        config, shared = self._config, sockets.shared
        local = Place(sockets.sending.family, sockets.sending.getsockname())
        remote = Place(sockets.sending.family, sockets.sending.getpeername())
        mep = config.mep
        if mep is None:  # the two ends have to have different ones, and know each other's address
            ours = (ipaddress.ip_address(local.source()[0]).packed, shared.place.port)
            theirs = (ipaddress.ip_address(remote.source()[0]).packed, remote.port)
            mep = 1 if ours < theirs else 2
        wall_ns = self.context.network.clock.wall_ns()
        port = TunnelPort(self.loop, config, sockets, mep, wall_ns, self)
        shared.add(config.vni, remote.source(), port)
        self._port = port
        self._remote, self._local = remote.text(), shared.place.text()
        self._link = TunnelLink(self.client, config.mode, remote.text(), remote.port)
        return port

    def _go(self) -> None:
        assert self._port is not None
        self._tell_status()
        self._port.start()
        self.far_state_changed()
        self.context.network.wires.engine.keep(self.client, self._port)

    # -- link state (Endpoint, and PortUser) --------------------------------------------------------------------

    def far_state_changed(self) -> None:
        self.kept.changed()
        if self._link is not None and self._port is not None:
            self._link.update(self._port.far_state())

    def _tell_status(self) -> None:
        if self._port is None or self._config.mode == "off":
            return
        status = own_status(self.client, self._config.follow)
        if not isinstance(status, Undecided):
            self._port.set_status(status)

    def link_status_changed(self) -> None:
        self._tell_status()

    def peer_changed(self) -> None:
        self._tell_status()

    def guest_changed(self) -> None:
        self._tell_status()

    # -- frames -------------------------------------------------------------------------------------------------

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self._port is None or self._port.send(frame)

    def frame_came(self, frame: bytes) -> None:
        """A frame of the other end. While the guest has no room, it waits there as others do: the socket has the CCMs
        of all tunnels, and is read on."""
        self.client.send(0, frame)

    def wire_end(self) -> LentEnd | str:
        return self._port or "it is being closed"

    def has_room(self) -> None:
        self.client.flush(0)

    # -- queries ------------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        config = self._config
        text = f"local={self._local},remote={self._remote},vni={config.vni},ccm={config.mode}"
        if config.mode != "off" and self._port is not None:
            text += f",interval={self._interval:g},level={config.level},mep={self._port.mep_id}"
        return text + (",key=set" if config.key is not None else "")

    def tunnel_info(self) -> TunnelInfo:
        """Its entry of query-tunnels."""
        port, config = self._port, self._config
        assert port is not None
        return TunnelInfo(
            name=self.name,
            local=self._local,
            remote=self._remote,
            vni=config.vni,
            key=config.key is not None,
            counters=port.all_counters(),
            socket=port.sockets.shared.all_counters(),
            path="python" if port.mover is None else "wire",
            mtu=config.mtu,
            ccm=self._ccm_info(port),
        )

    def _ccm_info(self, port: TunnelPort) -> CcmInfo | None:
        config, mep, far = self._config, port.mep, port.far_state()
        if mep is None or far is None or config.mode == "off":
            return None
        state = far.mep
        remote = RemoteInfo(
            heard=("never", "yes", "lost")[state.heard],
            silent_us=far.silent_us if port.mover is None or state.heard is Heard.LOST else None,
            rdi=state.rdi,
            refused=far.refused,
            status=None if state.status is None else state.status.word,
            mep=state.remote_mep or None,
        )
        return CcmInfo(
            mode=config.mode,
            interval_us=INTERVALS_US[config.interval],
            level=config.level,
            mep=port.mep_id,
            status=InterfaceStatus(mep.own_status).word,
            rdi=state.heard is Heard.LOST or (config.mode == "on" and state.heard is Heard.NEVER),
            remote=remote,
        )

    # -- state apart from the sockets ---------------------------------------------------------------------------

    def save(self) -> TunnelRecord:
        port = self._port
        if port is None:
            return TunnelRecord(mep=None, trailer=None, refused=False, sender_waits=False)
        return TunnelRecord(
            mep=None if port.mep is None else port.mep.save(port.now_us()),
            trailer=None if port.trailer is None else port.trailer.save(),
            refused=port.refused,
            sender_waits=port.sender_waits,
        )

    @property
    def handles(self) -> TunnelHandles:
        """The sockets that belong to the record."""
        if self._port is None:
            return TunnelHandles(None, None)
        shared, sending = self._port.sockets
        return TunnelHandles(shared.sock, sending)

    def save_kept(self) -> tuple[TunnelRecord, TunnelFds]:
        receiving, sending = self.handles
        return self.save(), TunnelFds(fileno(receiving), fileno(sending))

    def take_up(self, record: TunnelRecord, handles: TunnelFds) -> None:
        with TakeUp(handles) as taking:
            sockets = TunnelHandles(taking.socket(handles.receiving), taking.socket(handles.sending))
            self.restore(record, sockets, killed=True)
        self.loop.call_soon(self.far_state_changed)

    def restore(self, record: TunnelRecord, handles: TunnelHandles, *, killed: bool = False) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, and needs no `preparation`.
        `killed`: the record may be older than its end. Raises RecordError, and leaves the sockets to the caller
        then."""
        receiving, sending = handles
        config = self._config
        require((record.mep is None) is (config.mode == "off"), "mep", f"does not go with ccm={config.mode}")
        require((record.trailer is None) is (config.key is None), "trailer", "does not go with the key")
        require(record.mep is not None or not record.refused, "refused", "without CCMs")
        if receiving is None or sending is None:
            require(False, "", "a socket is missing")
            return
        check_sockets(receiving, sending)
        there = self._tunnels.find(receiving)
        source = Place(sending.family, sending.getpeername()).source()
        require(
            there is None or not there.has(config.vni, source),
            "",
            "another tunnel has the same remote address",
        )
        port = self._use(TunnelSockets(self._tunnels.adopt(receiving), sending))
        port.restore(port.ahead(record) if killed else record)
        port.start_later()
        if record.sender_waits:
            port.wait_for_room()
        self.context.network.wires.engine.keep(self.client, port)

    # -- the end ------------------------------------------------------------------------------------------------

    def cleanup(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        port.farewell()
        self.context.network.wires.engine.drop(self.client)
        port.stop()
        shared, sending = port.sockets
        shared.remove(self._config.vni, Place(sending.family, sending.getpeername()).source())
        sending.close()
        self._tunnels.release(shared)


def _resolve(address: InetAddress, family: int) -> Place:
    """The first address of the family. It may block for a host name. Raises NetError."""
    for found in lookup(address, socket.SOCK_DGRAM, passive=False):
        if family in (socket.AF_UNSPEC, found.family):
            return Place(found.family, found.sockaddr)
    raise NetError(f"tunnel: {address.host} has no address of the other end's family")
